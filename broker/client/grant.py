"""A grant in a caller's hands: the last token, and when the broker is asked for another.

Read `token` top to bottom: what lives is handed out at once, whatever the broker is doing. Callers that have to ask
share one request; a newer token comes by itself, for as long as the grant is used.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.client import errors
from broker.client.api import LONGEST_WAIT
from broker.client.follow import end, pause
from broker.client.token import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from broker.client.auth_aiohttp import BearerMiddleware
    from broker.client.broker import Broker
    from broker.client.token import Token

_GLANCE = 1.0
"""Seconds for which the broker is asked, and at most once in them, while the token in hand lives."""
_REPORT_WAIT = 10.0
_REPORT_PAUSE = 5.0
"""Seconds without a report after one that brought nothing, where the broker does not say."""


class Grant:
    """A grant by its id; `Broker.grant` gives it, and always the same."""

    def __init__(self, broker: Broker, grant_id: str) -> None:
        self.id = grant_id
        self._broker = broker
        self._held: Token | None = None
        self._used_at = clock()
        self._glance_after = 0.0
        self._report_after = 0.0
        self._asking: dict[object, asyncio.Task[Token | errors.BrokerError | None]] = {}

    def __repr__(self) -> str:
        return f"Grant({self.id!r})"

    async def ready(self, *, timeout: float = 30.0) -> None:
        """Wait until there is a token, *timeout* seconds at most: at a service's start the broker may be starting too.

        Raises as `token`.
        """
        await self.token(timeout=timeout)

    async def token(self, *, min_ttl: float = 0, timeout: float = 10.0) -> Token:
        """A living token, with at least *min_ttl* seconds of life; waits *timeout* seconds at most where there is none.

        *min_ttl* beyond what the token in hand has needs the right `refresh`. Raises `ReauthorizationRequired`,
        `UnknownKey`, `NotAllowed`, `UnknownGrant`, `InvalidRequest` at once, `TokenUnavailable` or `BrokerUnreachable`
        when time is up, or asking again within it is of no use.
        """
        if token := self.at_hand(min_ttl):
            return token
        held = self._held
        if held is not None and held.remaining() > max(0.0, min_ttl):
            return await self._glance(held)
        ends, failures = clock() + timeout, 0
        while True:
            left = max(0.0, min(ends - clock(), LONGEST_WAIT + 1.0))
            wait = min(max(0, math.ceil(left) - 1), LONGEST_WAIT)  # so that its answer, if it is no, comes in time
            answer = await self._share(min_ttl, partial(self._ask, min_ttl, wait), left)
            if not isinstance(answer, errors.BrokerError) and answer is not None and answer.remaining() > 0:
                return answer
            failures += 1
            rest = _rest(answer, failures)
            if rest is None or clock() + rest >= ends:
                raise _refusal(answer, self.id, timeout)
            await asyncio.sleep(rest)

    async def report(self, token: Token, *, timeout: float = _REPORT_WAIT) -> Token | None:
        """The API answered 401 to *token*: the token after it. However many report it, the broker is told once.

        None where there is none within *timeout* seconds, or the broker says that the 401 is about something else:
        then it is to be believed. Raises `ReauthorizationRequired`.
        """
        held = self._held
        if held is not None and held.generation > token.generation and held.remaining() > 0:
            return held
        if clock() < self._report_after:
            return None
        generation = token.generation
        answer = await self._share(("report", generation), partial(self._ask_after, generation), timeout)
        if isinstance(answer, errors.ReauthorizationRequired):
            raise _refusal(answer, self.id, timeout)
        if answer is None or isinstance(answer, errors.BrokerError) or answer.remaining() <= 0:
            return None
        return answer if answer.generation != generation else None

    def aiohttp(self, origin: str | None = None) -> BearerMiddleware:
        """A middleware for `aiohttp.ClientSession(middlewares=[…])` that adds the token for *origin* alone.

        Without *origin* it is that of the first request. A 401 is reported, and the request sent once more with the
        next token if its body can be.
        """
        from broker.client.auth_aiohttp import BearerMiddleware

        return BearerMiddleware(self, origin)

    def httpx(self, origin: str | None = None) -> Any:
        """An `auth` for `httpx.AsyncClient` (or httpx2's) that does the same; `SyncGrant.httpx` for `httpx.Client`."""
        from broker.client.auth_httpx import bearer_auth

        return bearer_auth(self, origin)

    # What brings tokens.

    def at_hand(self, min_ttl: float = 0) -> Token | None:
        """The token in hand, if it is good without asking: followed, or just asked for, and not in its last seconds."""
        held, now = self._held, clock()
        self._used_at = now
        if held is None or held.remaining(now) <= max(0.0, min_ttl):
            return None
        if held.lasts(now, min_ttl) and self._broker.following.has(self):
            return held
        return held if now < self._glance_after else None

    def idle_for(self, now: float) -> float:
        """Seconds since it was last used."""
        return now - self._used_at

    def hears_of(self, generation: int) -> bool:
        """Whether *generation* would be news."""
        return self._held is None or generation > self._held.generation

    async def poll(self, wait: float) -> bool:
        """Wait *wait* seconds for the next token; False when there is none in hand to follow. Raises `BrokerError`."""
        held = self._held
        if held is None or held.remaining() <= 0:
            return False
        await self._ask(0, wait, newer_than=held.generation)
        return True

    async def close(self) -> None:
        """End what is being asked."""
        await end(self._asking.values())

    async def _glance(self, held: Token) -> Token:
        """It lives, but may not be the newest: ask, and if nothing comes at once, go on with it."""
        self._glance_after = clock() + _GLANCE
        self._broker.following.want(self)
        answer = await self._share(0, partial(self._ask, 0, 0), min(_GLANCE, held.remaining() / 2))
        if isinstance(answer, errors.UnknownGrant):
            raise _refusal(answer, self.id, _GLANCE)
        return self._held if self._held is not None and self._held.remaining() > 0 else held

    async def _ask(self, min_ttl: float, wait: float, newer_than: int | None = None) -> Token | None:
        try:
            token = await self._broker.wire.token(self.id, newer_than=newer_than, min_ttl=min_ttl, wait=wait)
        except errors.UnknownGrant:
            self._held = None  # it was forgotten, and its token revoked
            raise
        if token is not None:
            self._put(token)
        return token

    async def _ask_after(self, generation: int) -> Token | None:
        """The token after *generation*; after a refusal nothing is reported for a while."""
        try:
            token = await self._broker.wire.report(self.id, generation, wait=_REPORT_WAIT)
        except errors.NotAllowed:  # no right to have it refreshed, but perhaps somebody else had
            self._report_after = clock() + _REPORT_PAUSE
            return await self._ask(0, 0, newer_than=generation)
        except errors.TokenUnavailable as error:
            self._report_after = clock() + (error.retry_after or _REPORT_PAUSE)
            raise
        if token is not None:
            self._put(token)
        return token

    def _put(self, token: Token) -> None:
        held = self._held
        if held is None or token.generation >= held.generation or held.remaining() <= 0:
            self._held = token
            if held is None or token.generation != held.generation:
                self._report_after = 0.0
        self._broker.following.want(self)

    async def _share(
        self, key: object, ask: Callable[[], Coroutine[Any, Any, Token | None]], timeout: float
    ) -> Token | errors.BrokerError | None:
        """The outcome of *ask*, of which there is one at a time for each *key*, whoever else waits or gives up."""
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(_outcome(ask()), name=f"token-broker: ask for {self.id}")
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        done, _ = await asyncio.wait({task}, timeout=timeout)
        if task.cancelled():
            raise errors.InvalidConfiguration("this Broker was closed meanwhile")
        return task.result() if done else None


async def _outcome(ask: Coroutine[Any, Any, Token | None]) -> Token | errors.BrokerError | None:
    try:
        return await ask
    except errors.BrokerError as error:
        return error


def _rest(answer: Token | errors.BrokerError | None, failures: int) -> float | None:
    """Seconds after which to ask again; None when that is of no use."""
    match answer:
        case errors.BrokerUnreachable():
            return min(1.0, 0.05 * float(2 ** min(failures, 8)))
        case errors.TokenUnavailable():
            return answer.retry_after or pause(failures)
        case errors.BrokerError():
            return None
        case _:
            return 0.2


def _refusal(answer: Token | errors.BrokerError | None, grant_id: str, timeout: float) -> errors.BrokerError:
    """What to raise for *answer*; an error that many callers share starts with none of their tracebacks."""
    if isinstance(answer, errors.BrokerError):
        return answer.with_traceback(None)
    return errors.TokenUnavailable(f"{grant_id}: no token came within {timeout:g} s", grant_id=grant_id)
