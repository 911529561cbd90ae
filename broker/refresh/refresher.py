"""One claimed grant, from its refresh token to whatever came of it.

Read `refresh` top to bottom: ask, decide, keep, serve, write down. What arrived is never dropped: the request and
everything after it run to their end even when the process is being stopped.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Protocol

import structlog

from broker.errors import StoreUnavailable
from broker.model import Commit, Park, Postpone
from broker.providers import revoke
from broker.refresh import policy
from broker.settings import LEASE_MARGIN
from broker.wire import message, token_message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.metrics import Metrics
    from broker.model import Claim, Event, Outcome, Step, Token
    from broker.providers import Endpoint
    from broker.store import Settled, Store

log = structlog.get_logger()
_SETTLE_PAUSES = (0.1, 0.3, 1.0, 2.0)
SETTLE_LIMIT = 10.0
"""Seconds for which a process that is being stopped goes on trying to write down what it received."""


class Serve(Protocol):
    """Where a new token goes before it is written down, so that callers get it at once."""

    def __call__(self, token: Token) -> object:
        """Take *token*."""


class Refresher:
    """Refreshes claimed grants. One for the process; it holds no state of its own."""

    def __init__(
        self,
        store: Store,
        endpoints: Mapping[str, Endpoint],
        serve: Serve,
        metrics: Metrics,
        *,
        request_timeout: float,
        notice: bool,
        stopping: asyncio.Event,
    ) -> None:
        self._store = store
        self._endpoints = endpoints
        self._serve = serve
        self._metrics = metrics
        self._request_timeout = request_timeout
        self._notice = notice
        self._stopping = stopping

    async def refresh(self, claim: Claim) -> None:
        """Make one token request for *claim* and settle what it came to."""
        endpoint = self._endpoints[claim.provider]
        now = self._store.clock()
        self._metrics.schedule_lag.labels(claim.provider).observe(max(0, claim.claimed_at - claim.due_at) / 1000)
        if held_back := policy.hold_back(claim, endpoint.dialect, now):
            await self._settle(held_back)
            return
        outcome = await self._ask(claim, endpoint)
        step = policy.decide(claim, outcome, endpoint.dialect, self._store.clock(), random.random())
        if isinstance(step, Commit) and step.fresh and step.token is not None:
            self._serve(step.token)
        settled = await self._settle(step)
        self._tell(step, settled)
        if isinstance(step, Commit) and settled in {"superseded", "gone"}:
            await self._give_back(claim, step, endpoint)

    async def _ask(self, claim: Claim, endpoint: Endpoint) -> Outcome:
        timeout = min(self._request_timeout, claim.lease_ends - LEASE_MARGIN.total_seconds() - time.monotonic())
        started = time.monotonic()
        outcome = await endpoint.refresh(claim.refresh_token, scope=claim.scope, timeout=timeout)
        self._metrics.refresh_duration.labels(claim.provider).observe(time.monotonic() - started)
        return outcome

    async def _settle(self, step: Step) -> Settled:
        """Tell the store, again and again: an error never means that it did not hear.

        An answer that was received is told until it is heard, or the process must end. Anything else is dropped when
        the lease has ended: the store then knows the attempt as one of unknown outcome.
        """
        tries, since = 0, time.monotonic()
        while True:
            try:
                return await self._tell_store(step)
            except StoreUnavailable as error:
                if not isinstance(step, Commit) and time.monotonic() > step.claim.lease_ends:
                    return "superseded"
                if self._stopping.is_set() and time.monotonic() > since + SETTLE_LIMIT:
                    log.critical(
                        "commit.abandoned", grant_id=step.claim.grant_id, outcome=step.outcome, error=str(error)
                    )
                    return "already"
                if tries == 0:
                    log.warning("commit.delayed", grant_id=step.claim.grant_id, error=str(error))
                await asyncio.sleep(_SETTLE_PAUSES[min(tries, len(_SETTLE_PAUSES) - 1)])
                tries += 1

    async def _tell_store(self, step: Step) -> Settled:
        schedule = self._store.schedule
        match step:
            case Commit():
                settled, durable = await schedule.commit(step, self._messages(step))
                self._metrics.durable(durable)
                return settled
            case Postpone():
                failing = self._message(step, "refresh_failing", step.outcome, step.code) if step.failing else None
                return await schedule.postpone(step, failing)
            case Park():
                return await schedule.park(step, self._message(step, step.event, step.outcome, step.reason))

    def _messages(self, step: Commit) -> list[str]:
        if not step.fresh or step.token is None:
            return []
        token, now = step.token, self._store.clock()
        dies = self._endpoints[token.provider].dialect.old_token == "dies"
        events: tuple[Event, ...] = ("refreshed", "recovered") if step.recovered else ("refreshed",)
        return [token_message(e, self._store.store_id, token, now, dies=dies, notice=self._notice) for e in events]

    def _message(self, step: Step, event: Event, outcome: str, code: str) -> str:
        claim = step.claim
        return message(
            event, self._store.store_id, claim.grant_id, claim.provider, claim.generation, outcome=outcome, reason=code
        )

    def _tell(self, step: Step, settled: Settled) -> None:
        claim = step.claim
        self._metrics.refreshes.labels(claim.provider, step.outcome).inc()
        line = log.bind(grant_id=claim.grant_id, provider=claim.provider, attempt=claim.attempt)
        match step:
            case Commit(token=token) if step.fresh and token is not None:
                line.info(
                    "grant.refreshed", generation=token.generation, settled=settled,
                    expires_in=(token.expires_at - token.issued_at) // 1000, warning=step.detail,
                )  # fmt: skip
            case Commit():
                line.warning(f"grant.{step.outcome}", generation=claim.generation, settled=settled, detail=step.detail)
            case Postpone():
                line.warning(
                    "grant.postponed", generation=claim.generation, outcome=step.outcome, code=step.code,
                    detail=step.detail, failures=step.failures, settled=settled,
                    next_in=max(0, step.due_at - self._store.clock()) / 1000,
                )  # fmt: skip
            case Park():
                line.error(
                    "provider.suspended" if settled == "suspended" else "grant.parked", generation=claim.generation,
                    outcome=step.outcome, reason=step.reason, detail=step.detail, settled=settled,
                )  # fmt: skip

    async def _give_back(self, claim: Claim, step: Commit, endpoint: Endpoint) -> None:
        """Revoke what was received for a grant that is gone or was replaced meanwhile: nobody will ever use it."""
        access_token = step.token.access_token if step.token else claim.access_token
        refresh_token = step.refresh_token or claim.refresh_token
        revocation = await revoke(
            endpoint, access_token=access_token, refresh_token=refresh_token, timeout=self._request_timeout
        )
        log.warning("grant.given_back", grant_id=claim.grant_id, attempt=claim.attempt, revocation=revocation.result)
