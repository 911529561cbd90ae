"""A caller's request for a token, from memory to response.

Read `current` top to bottom: a valid token is served at once, whatever Redis or the provider are doing. Only if there
is none, or it expires too soon, is a refresh requested and awaited.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from broker.errors import (
    InvalidRequest,
    ReauthorizationRequired,
    StoreUnavailable,
    TokenUnavailable,
    TooFresh,
    UnknownGrant,
)
from broker.token_answer import usable_ms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from broker.model import Grant, Token
    from broker.process.metrics import Metrics
    from broker.read.cache import Cache
    from broker.read.changes import Changes, Listener, Permitted
    from broker.store import Store

DEFAULT_WAIT = 5.0
"""Seconds that a read without a valid token waits for one."""
_SOON = 0.5
_OVERDUE_MS = 30_000
"""A token whose planned refresh is so late counts as stale: it is valid, but its refresh is late."""


class Wakeable(Protocol):
    """What runs the refreshes of this replica. The read path knows no more of it."""

    def wake(self, provider: str) -> None:
        """Claim at once: a grant of *provider* was made due."""


class Reader:
    """Serve reads. *scheduler* is woken when a grant of a provider was made due here."""

    def __init__(
        self,
        store: Store,
        cache: Cache,
        scheduler: Wakeable,
        metrics: Metrics,
        *,
        public_url: str,
        page_url: str | None,
        min_interval_ms: int,
        report_budget: int,
        recover: Callable[[str], Awaitable[bool]],
    ) -> None:
        """Wire a reader. *recover* restores a grant that Redis lost, and returns whether it may be there again."""
        self._store = store
        self._cache = cache
        self._scheduler = scheduler
        self._metrics = metrics
        self._read_from_memory = metrics.token_requests.labels("cached").inc
        self._read_stale = metrics.token_requests.labels("stale").inc
        self._public_url = public_url
        self._page_url = page_url
        self._min_interval_ms = min_interval_ms
        self._report_budget = report_budget
        self.recover = recover

    @property
    def changes(self) -> Changes:
        """Who wants to know that some grant changed."""
        return self._cache.changes

    def listening(self, permitted: Permitted) -> AbstractContextManager[Listener]:
        """Listen to changes, as `Cache.listening`."""
        return self._cache.listening(permitted)

    async def stop_waiting(self, *_: object) -> None:
        """Let nobody wait here any longer: the broker ends."""
        self._cache.close()

    def usable_ms(self, token: Token) -> int:
        """Return how long a caller may rely on *token* (ms)."""
        return usable_ms(token, self._store.clock())

    def at_hand(self, grant_id: str, min_ttl_ms: int = 0) -> Token | None:
        """Return the token in memory if it has at least *min_ttl_ms* left: nearly every read is served so."""
        token = self._cache.get(grant_id)
        if token is None or token.expires_at <= (now := self._store.clock()):
            return None
        if min_ttl_ms and self.usable_ms(token) < min_ttl_ms:
            return None
        (self._read_from_memory if now < token.refresh_at + _OVERDUE_MS else self._read_stale)()
        return token

    async def current(self, grant_id: str, *, min_ttl_ms: int = 0, wait: float = DEFAULT_WAIT) -> Token:
        """Return the current token with at least *min_ttl_ms* of life; wait *wait* seconds at most where there is none.

        Raises:
            UnknownGrant: no such grant.
            InvalidRequest: *min_ttl_ms* is more life than a refresh can yield.
            TooFresh: there is a token, and the grant's budget of early refreshes is spent.
            ReauthorizationRequired: the grant is dead and its last token has expired.
            TokenUnavailable: no token became available in time.
        """
        if token := self.at_hand(grant_id, min_ttl_ms):
            return token
        if grant_id not in self._cache:
            await self._load(grant_id)
            if token := self.at_hand(grant_id, min_ttl_ms):
                return token
        return await self._refreshed(grant_id, min_ttl_ms, wait)

    async def newer(
        self, grant_id: str, generation: int, wait: float, check: Callable[[], object] = lambda: None
    ) -> Token | None:
        """Wait up to *wait* seconds for the token after *generation* (a long poll); return None if there is none.

        *check* is called whenever something changed meanwhile; what it raises ends the wait.
        """
        ends = time.monotonic() + wait
        while True:
            check()
            token = await self.current(grant_id, wait=max(0.0, ends - time.monotonic()))
            if token.generation != generation:
                return token
            left, life = ends - time.monotonic(), (token.expires_at - self._store.clock()) / 1000
            if await self._cache.changed(grant_id, min(left, life)):
                continue
            # "No change" is the response for a valid token; one that expired meanwhile gets what every read gets.
            if left <= life or self._cache.closed:
                return None

    async def refreshed(self, grant_id: str, generation: int, wait: float) -> Token:
        """Return the token after *generation*, which the API rejected with 401: one refresh for all who report it.

        Raises:
            TooFresh: the token is too fresh for the 401 to be about its age, or the grant's budget of reports is spent.
            TokenUnavailable: the grant backs off.
            ReauthorizationRequired: the grant turns out dead: the rejected token is as good as none.
        """
        held = self._cache.get(grant_id)
        if held is not None and held.generation > generation and self.usable_ms(held) > 0:
            self._read_from_memory()
            return held
        grant = await self._load(grant_id)
        expedited = await self._store.schedule.expedite(
            grant, interval_ms=self._min_interval_ms, generation=generation, budget=self._report_budget
        )
        if expedited.status == "fresh":
            self._metrics.token_requests.labels("too_fresh").inc()
            raise TooFresh(
                "the token is fresh: the 401 is about something else (scope, host, the API's own rights)",
                retry_after=_seconds(expedited.number),
            )
        if expedited.status == "spent":
            self._metrics.token_requests.labels("too_fresh").inc()
            raise TooFresh(
                f"{self._report_budget} tokens of this grant were reported within an hour: so many 401s mean that the "
                "API rejects for another reason (scope, account, permission), which no new token cures; if the token "
                "is the reason after all, raise refresh.report_budget",
                code="too_many_reports",
                retry_after=_seconds(expedited.number),
            )
        if expedited.status == "backing_off":
            self._metrics.token_requests.labels("unavailable").inc()
            raise TokenUnavailable(
                f"the last refresh failed{_because(grant)}; the next try is scheduled",
                retry_after=_seconds(expedited.number),
            )
        if expedited.status == "parked":
            return await self._refuse(grant_id, 0, wait, refused=generation)
        self._scheduler.wake(grant.provider)
        token = await self._wait_for(grant_id, lambda t: t.generation != generation and self.usable_ms(t) > 0, wait)
        return token or await self._refuse(grant_id, 0, wait, refused=generation)

    async def _refreshed(self, grant_id: str, min_ttl_ms: int, wait: float) -> Token:
        """Have a token made: there is none, or it expires too soon."""
        grant = await self._load(grant_id)
        if grant.parked:
            return await self._refuse(grant_id, min_ttl_ms, wait)
        if grant.token:
            if min_ttl_ms > 0:
                self._check_yield(grant.token, min_ttl_ms)
            # It may have arrived since memory was read.
            if self.usable_ms(grant.token) > max(0, min_ttl_ms - 1):
                return grant.token
        # A valid token is not requested again and again only because the provider grants no more lifetime.
        life = grant.token.expires_at - grant.token.issued_at if grant.token else 0
        living = grant.token is not None and self.usable_ms(grant.token) > 0
        interval = min(self._min_interval_ms, life // 10) if living else 0
        # Only the generation that was read: another may have come since, and is not to be refreshed again.
        # A caller that has a token, and only wants a newer one, spends what reports of a 401 spend.
        expedited = await self._store.schedule.expedite(
            grant,
            interval_ms=interval,
            generation=grant.generation,
            budget=self._report_budget if living and min_ttl_ms > 0 else None,
        )
        if expedited.status == "spent":
            self._metrics.token_requests.labels("too_fresh").inc()
            raise TooFresh(
                f"this grant was refreshed early {self._report_budget} times within an hour, for min_ttl and reports: "
                "its token is served without min_ttl; ask for less, or have refresh.report_budget raised",
                code="too_many_reports",
                retry_after=_seconds(expedited.number),
            )
        if expedited.status == "fresh" and grant.token is not None:
            self._metrics.token_requests.labels("too_fresh").inc()
            raise TokenUnavailable(
                f"the token was issued a moment ago: it has {self.usable_ms(grant.token) // 1000} s left, less than "
                f"the min_ttl of {min_ttl_ms // 1000} s; it is served without min_ttl",
                retry_after=_seconds(expedited.number),
            )
        self._scheduler.wake(grant.provider)
        token = await self._wait_for(grant_id, lambda t: self.usable_ms(t) > max(0, min_ttl_ms - 1), wait)
        if token is not None:
            self._metrics.token_requests.labels("waited").inc()
            return token
        return await self._refuse(grant_id, min_ttl_ms, wait)

    async def _wait_for(self, grant_id: str, good: Callable[[Token], bool], wait: float) -> Token | None:
        """Wait up to *wait* seconds for a token that is *good*; end at once when the grant is parked or gone."""
        ends = time.monotonic() + wait
        while True:
            token = self._cache.get(grant_id)
            if token is not None and good(token):
                return token
            left = ends - time.monotonic()
            if left <= 0:
                return None
            if not await self._cache.changed(grant_id, min(left, _SOON)):
                if self._cache.closed:
                    return None
                # No message: it may be late, or lost. Read the store.
                try:
                    grant = await self._load(grant_id)
                except StoreUnavailable:
                    continue
                if grant.parked:
                    return grant.token if grant.token and good(grant.token) else None

    async def _refuse(self, grant_id: str, min_ttl_ms: int, wait: float, *, refused: int | None = None) -> Token:
        """Raise why there is no token, unless there is one now.

        The generation *refused* is not served, however long it is still valid.
        """
        grant = await self._load(grant_id)
        token = grant.token if grant.token and grant.token.generation != refused else None
        if token is not None and self.usable_ms(token) > max(0, min_ttl_ms - 1):
            self._metrics.token_requests.labels("waited").inc()
            return token  # it arrived at the last moment
        living = self.usable_ms(token) // 1000 if token else 0
        if grant.reason == "reauthorization_required" and living <= 0:
            self._metrics.token_requests.labels("dead").inc()
            error = ReauthorizationRequired(
                f"the provider no longer accepts this grant: log in again with `token-broker login {grant_id} "
                f"--provider {grant.provider}` (broker at {self._public_url})"
            )
            error.login_url = self._page_url and f"{self._page_url}/#search={grant_id}"
            raise error
        self._metrics.token_requests.labels("unavailable").inc()
        if min_ttl_ms and living > 0:
            raise TokenUnavailable(
                f"no token with {min_ttl_ms // 1000} s left came within {wait:g} s; one with {living} s is served "
                "without min_ttl",
                retry_after=5,
            )
        if grant.parked:
            raise TokenUnavailable(
                f"this grant is parked ({grant.reason}): fix that, then `token-broker retry {grant_id}`",
                retry_after=60,
            )
        raise TokenUnavailable(
            f"there is no valid token now{_because(grant)}; `token-broker explain {grant_id}` says what happens next",
            retry_after=5,
        )

    def _check_yield(self, token: Token, min_ttl_ms: int) -> None:
        most = token.usable_until - token.issued_at
        if min_ttl_ms > most:
            raise InvalidRequest(
                f"min_ttl is {min_ttl_ms // 1000} s, but a refresh of this grant yields {most // 1000} s: ask for less"
            )

    async def _load(self, grant_id: str) -> Grant:
        """Read the grant from the store; cache its token."""
        grant = await self._store.grants.get(grant_id)
        if grant is None and await self.recover(grant_id):
            grant = await self._store.grants.get(grant_id)
        if grant is None:
            self._cache.evict(grant_id)
            raise UnknownGrant("no such grant")
        if grant.tampered is not None:
            raise TokenUnavailable(
                f"what Redis holds of this grant was altered ({grant.tampered}): an operator must find out who writes "
                "Redis, then somebody must log in again",
                code="tampered",
            )
        if grant.unreadable:
            raise TokenUnavailable(
                "none of this broker's sealing keys opens this grant: an operator must put the old key back",
                code="unreadable",
            )
        if grant.token is not None:
            self._cache.put(grant.token)
        return grant


def _seconds(ms: int) -> int:
    """Return whole seconds to wait, at least one."""
    return max(1, -(-ms // 1000))


def _because(grant: Grant) -> str:
    return f" ({grant.last_detail})" if grant.failures and grant.last_detail else ""
