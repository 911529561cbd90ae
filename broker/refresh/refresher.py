"""One claimed grant, from its refresh token to whatever came of it.

Read `refresh` top to bottom: ask, decide, keep, serve, settle. What arrived is never dropped: the request and
everything after it run to their end even when the process is being stopped.
"""

from __future__ import annotations

import functools
import random
import time
from typing import TYPE_CHECKING, Protocol

import structlog

from broker.model import Commit, Park, Postpone
from broker.process import logs
from broker.providers import revoke
from broker.refresh import policy
from broker.settings import LEASE_MARGIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.model import Claim, Outcome, Step, Token
    from broker.process.metrics import Metrics
    from broker.providers import Endpoint
    from broker.refresh.history import HistoryRecorder
    from broker.refresh.recorder import Kept, Recorder
    from broker.store import Recorded, Store

log = structlog.get_logger()


class Memory(Protocol):
    """Where callers are served from: a new token goes there before it is written down, so that they get it at once."""

    def succeed(self, token: Token, generation: int) -> bool:
        """Take *token* as what follows *generation*."""

    def retract(self, token: Token) -> None:
        """Take it back: the store would not have it."""


class Refresher:
    """Refreshes claimed grants. One for the process; it holds no state of its own."""

    def __init__(
        self,
        store: Store,
        endpoints: Mapping[str, Endpoint],
        memory: Memory,
        settler: Recorder,
        metrics: Metrics,
        tally: HistoryRecorder,
        *,
        request_timeout: float,
    ) -> None:
        self._store = store
        self._endpoints = endpoints
        self._memory = memory
        self._settler = settler
        self._lag = {name: metrics.schedule_lag.labels(name) for name in endpoints}
        self._duration = {name: metrics.refresh_duration.labels(name) for name in endpoints}
        self._refreshes = functools.cache(metrics.refreshes.labels)
        self._tally = tally
        self._request_timeout = request_timeout

    async def refresh(self, claim: Claim, answered: Callable[[], None]) -> Step | None:
        """Make one token request for *claim*, settle what it came to and say so; None if it must not be asked yet.

        *answered* is called as soon as an answer is here that only needs to be written down.
        """
        endpoint = self._endpoints[claim.provider]
        now = self._store.clock()
        self._lag[claim.provider].observe(max(0, claim.claimed_at - claim.due_at) / 1000)
        if held_back := policy.hold_back(claim, endpoint.dialect, now):
            await self._settler.settle(held_back)
            return None
        outcome = await self._ask(claim, endpoint)
        step = policy.decide(claim, outcome, endpoint.dialect, self._store.clock(), random.random())
        kept = None
        if isinstance(step, Commit):
            answered()
            kept = await self._settler.keep(step)
        if isinstance(step, Commit) and step.fresh and step.token is not None:
            self._memory.succeed(step.token, claim.generation)
        settled = await self._settler.settle(step, kept)
        self._tell(step, settled)
        if isinstance(step, Commit) and kept is not None and settled in {"superseded", "gone"}:
            await self._take_back(claim, step, kept, endpoint)
        return step

    async def _ask(self, claim: Claim, endpoint: Endpoint) -> Outcome:
        started = time.monotonic()
        # All or nothing: with less time than an answer may take, the token would be spent and its answer not heard.
        fits = started + self._request_timeout <= claim.lease_ends - LEASE_MARGIN.total_seconds()
        timeout = self._request_timeout if fits else 0
        outcome = await endpoint.refresh(claim.refresh_token, scope=claim.scope, timeout=timeout)
        self._duration[claim.provider].observe(time.monotonic() - started)
        return outcome

    def _tell(self, step: Step, settled: Recorded) -> None:
        claim = step.claim
        self._refreshes(claim.provider, step.outcome).inc()
        self._tally.count(claim.provider, step.outcome)
        whose = {"grant_id": claim.grant_id, "provider": claim.provider, "attempt": claim.attempt}
        match step:
            case Commit(token=token) if step.fresh and token is not None:
                if logs.is_enabled("info"):
                    log.info(
                        "grant.refreshed",
                        **whose,
                        generation=token.generation,
                        settled=settled,
                        expires_in=(token.expires_at - token.issued_at) // 1000,
                        warning=step.detail,
                    )
            case Commit(token=token):
                log.warning(
                    "grant.unusable" if token is None else "grant.unchanged",
                    **whose,
                    generation=claim.generation,
                    settled=settled,
                    detail=step.detail,
                )
            case Postpone():
                log.warning(
                    "grant.postponed",
                    **whose,
                    generation=claim.generation,
                    outcome=step.outcome,
                    code=step.code,
                    detail=step.detail,
                    failures=step.failures,
                    settled=settled,
                    next_in=max(0, step.due_at - self._store.clock()) / 1000,
                )
            case Park():
                log.error(
                    "provider.suspended" if settled == "suspended" else "grant.parked",
                    **whose,
                    generation=claim.generation,
                    outcome=step.outcome,
                    reason=step.reason,
                    detail=step.detail,
                    settled=settled,
                )

    async def _take_back(self, claim: Claim, step: Commit, kept: Kept, endpoint: Endpoint) -> None:
        """The grant is gone or was replaced meanwhile: serve, keep and leave alive nothing of what was received."""
        if step.token is not None:
            self._memory.retract(step.token)
        await self._settler.retract(kept)
        access_token = step.token.access_token if step.token else claim.access_token
        refresh_token = step.refresh_token or claim.refresh_token
        revocation = await revoke(
            endpoint, access_token=access_token, refresh_token=refresh_token, timeout=self._request_timeout
        )
        log.warning("grant.given_back", grant_id=claim.grant_id, attempt=claim.attempt, revocation=revocation.result)
