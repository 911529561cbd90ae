"""A grant as its callers use it: the last token, and when to ask the broker for another.

Read `token` top to bottom: a valid token is returned at once, whatever the broker is doing. Callers that have to ask
share one request; while the grant is used, a newer token arrives by itself.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.client import errors
from broker.client.api import LONGEST_WAIT
from broker.client.auth_aiohttp import BearerMiddleware
from broker.client.auth_httpx import bearer_auth
from broker.client.follow import end, pause
from broker.client.token import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from broker.client.broker import Broker
    from broker.client.token import Token

_BRIEFLY = 1.0
"""Seconds for which the broker is asked, at most once in as many, while the held token is valid."""
_REPORT_WAIT = 10.0
_REPORT_PAUSE = 5.0
"""Seconds without a report after one without a result, if the broker does not say how long."""


class Grant:
    """A grant by its id; `Broker.grant` returns it, always the same object."""

    def __init__(self, broker: Broker, grant_id: str) -> None:
        self.id = grant_id
        self._broker = broker
        self._held: Token | None = None
        self._used_at = clock()
        self._asked_until = 0.0
        self._report_after = 0.0
        self._asking: dict[object, asyncio.Task[Token | errors.BrokerError | None]] = {}

    def __repr__(self) -> str:
        return f"Grant({self.id!r})"

    async def ready(self, *, timeout: float = 30.0) -> None:
        """Wait until there is a token: when a service starts the broker may be starting too. Raises as `token`.

        Args:
            timeout: in seconds.
        """
        await self.token(timeout=timeout)

    async def token(self, *, min_ttl: float = 0, timeout: float = 10.0) -> Token:
        """Return a valid token.

        Args:
            min_ttl: seconds that it must still be valid; more than the held token has left needs the right `refresh`.
            timeout: seconds to wait if there is none.

        Raises:
            ReauthorizationRequired: a person must log in again.
            UnknownKey: the broker does not know the key.
            NotAllowed: the key has no right on this grant.
            UnknownGrant: there is no such grant.
            InvalidRequest: *min_ttl* is more than a token ever has.
            TokenUnavailable: no token became available in time, or a retry within it is of no use.
            BrokerUnreachable: the same, since no broker responds.
        """
        if token := self.at_hand(min_ttl):
            return token
        held = self._held
        if held is not None and held.remaining() > max(0.0, min_ttl):
            return await self._ask_briefly(held)
        ends, failures = clock() + timeout, 0
        while True:
            left = max(0.0, min(ends - clock(), LONGEST_WAIT + 1.0))
            wait = min(max(0, math.ceil(left) - 1), LONGEST_WAIT)  # so that an error response arrives in time
            outcome = await self._share(min_ttl, partial(self._ask, min_ttl, wait), left)
            if not isinstance(outcome, errors.BrokerError) and outcome is not None and outcome.remaining() > 0:
                return outcome
            failures += 1
            retry_after = _retry_after(outcome, failures)
            if retry_after is None or clock() + retry_after >= ends:
                raise _to_error(outcome, self.id, timeout)
            await asyncio.sleep(retry_after)

    async def report(self, token: Token, *, timeout: float = _REPORT_WAIT) -> Token | None:
        """Report that the API rejected *token* with 401, and return the token after it.

        However many callers report a token, the broker receives one report.

        Returns:
            None if there is no new token within *timeout* seconds, or if the broker says that the 401 has another
            reason: then the 401 stands.

        Raises:
            ReauthorizationRequired: a person must log in again.
        """
        held = self._held
        if held is not None and held.generation > token.generation and held.remaining() > 0:
            return held
        if clock() < self._report_after:
            return None
        generation = token.generation
        outcome = await self._share(("report", generation), partial(self._ask_after, generation), timeout)
        if isinstance(outcome, errors.ReauthorizationRequired):
            raise _to_error(outcome, self.id, timeout)
        if outcome is None or isinstance(outcome, errors.BrokerError) or outcome.remaining() <= 0:
            return None
        return outcome if outcome.generation != generation else None

    def aiohttp(self, origin: str | None = None) -> BearerMiddleware:
        """Return a middleware for `aiohttp.ClientSession(middlewares=[…])` that adds the token for *origin* alone.

        Without *origin* it is that of the first request. A 401 is reported, and the request sent once more with the
        next token if its body can be.
        """
        return BearerMiddleware(self, origin)

    def httpx(self, origin: str | None = None) -> Any:
        """Return an `auth` for `httpx.AsyncClient` (or httpx2's) that does the same; see also `SyncGrant.httpx`."""
        return bearer_auth(self, origin)

    # How tokens arrive.

    def at_hand(self, min_ttl: float = 0) -> Token | None:
        """Return the held token if asking is needless: it is followed, or was just asked for, and does not end soon."""
        held, now = self._held, clock()
        self._used_at = now
        if held is None or held.remaining(now) <= max(0.0, min_ttl):
            return None
        if held.lasts(now, min_ttl) and self._broker.following.has(self):
            return held
        return held if now < self._asked_until else None

    def idle_for(self, now: float) -> float:
        """Return the seconds since the grant was last used."""
        return now - self._used_at

    def is_news(self, generation: int) -> bool:
        """Return whether *generation* is newer than the held token's."""
        return self._held is None or generation > self._held.generation

    async def poll(self, wait: float) -> bool:
        """Wait *wait* seconds for the next token.

        Returns:
            False if there is no valid token to follow.

        Raises:
            BrokerError: the broker does not respond, or with an error.
        """
        held = self._held
        if held is None or held.remaining() <= 0:
            return False
        await self._ask(0, wait, newer_than=held.generation)
        return True

    async def close(self) -> None:
        """Cancel the requests in flight."""
        await end(self._asking.values())

    async def _ask_briefly(self, held: Token) -> Token:
        """Ask for a newer token, and return *held*, which is still valid, if none arrives at once."""
        self._asked_until = clock() + _BRIEFLY
        self._broker.following.want(self)
        outcome = await self._share(0, partial(self._ask, 0, 0), min(_BRIEFLY, held.remaining() / 2))
        if isinstance(outcome, errors.UnknownGrant):
            raise _to_error(outcome, self.id, _BRIEFLY)
        return self._held if self._held is not None and self._held.remaining() > 0 else held

    async def _ask(self, min_ttl: float, wait: float, newer_than: int | None = None) -> Token | None:
        try:
            token = await self._broker.api.token(self.id, newer_than=newer_than, min_ttl=min_ttl, wait=wait)
        except errors.UnknownGrant:
            self._held = None  # the grant was forgotten, and its token revoked
            raise
        if token is not None:
            self._put(token)
        return token

    async def _ask_after(self, generation: int) -> Token | None:
        """Return the token after *generation*; after an error nothing is reported for a while."""
        try:
            token = await self._broker.api.report(self.id, generation, wait=_REPORT_WAIT)
        except errors.NotAllowed:  # no right to request a refresh, but another caller may have requested one
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
        """Return the outcome of *ask*, which runs once at a time for each *key*, whoever else waits or gives up."""
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


def _retry_after(outcome: Token | errors.BrokerError | None, failures: int) -> float | None:
    """Return the seconds after which to ask again; None if that is of no use."""
    match outcome:
        case errors.BrokerUnreachable():
            return min(1.0, 0.05 * float(2 ** min(failures, 8)))
        case errors.TokenUnavailable():
            return outcome.retry_after or pause(failures)
        case errors.BrokerError():
            return None
        case _:
            return 0.2


def _to_error(outcome: Token | errors.BrokerError | None, grant_id: str, timeout: float) -> errors.BrokerError:
    """Return what to raise for *outcome*; an error that callers share starts without their tracebacks."""
    if isinstance(outcome, errors.BrokerError):
        return outcome.with_traceback(None)
    return errors.TokenUnavailable(f"{grant_id}: no token came within {timeout:g} s", grant_id=grant_id)
