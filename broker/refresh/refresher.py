"""Refresh one claimed grant: request, decide, journal, serve, commit.

Read `Refresher.refresh` top to bottom. What arrived is never dropped: the request and everything after it run to
their end even when the process is being stopped.
"""

from __future__ import annotations

import functools
import random
import time
from typing import TYPE_CHECKING

import structlog

from broker.model import Commit, Park, Postpone
from broker.process import logs
from broker.providers import revoke
from broker.refresh import policy
from broker.settings import LEASE_MARGIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.model import Claim, Outcome, Step
    from broker.process.audit_file import AuditFile
    from broker.process.metrics import Metrics
    from broker.providers import Endpoint
    from broker.read import Cache
    from broker.refresh.history import HistoryRecorder
    from broker.refresh.recorder import Journaled, Recorder
    from broker.store import Recorded, Store

log = structlog.get_logger()


def _outcome(step: Step, recorded: Recorded) -> str:
    """Return what an attempt came to; of a refusal that may mean the client registration the store decided that."""
    if isinstance(step, Park) and step.verdict != "grant":
        return {"suspended": "registration", "postponed": "rejected"}.get(recorded, step.outcome)
    return step.outcome


class Refresher:
    """Refreshes claimed grants. One for the process; it holds no state of its own."""

    def __init__(
        self,
        store: Store,
        *,
        cache: Cache,
        recorder: Recorder,
        history: HistoryRecorder,
        metrics: Metrics,
        request_timeout: float,
        audit: AuditFile | None = None,
    ) -> None:
        """*request_timeout* is in seconds: the longest that one token request may take; *audit* keeps each refresh."""
        self._store = store
        self._audit = audit
        self._cache = cache
        self._recorder = recorder
        self._history = history
        self._lag = functools.cache(metrics.schedule_lag.labels)
        self._duration = functools.cache(metrics.refresh_duration.labels)
        self._refreshes = functools.cache(metrics.refreshes.labels)
        self._request_timeout = request_timeout

    async def refresh(self, claim: Claim, endpoint: Endpoint, answered: Callable[[], None]) -> Step | None:
        """Make one token request for *claim*, and record what it came to.

        Args:
            claim: The grant, leased to this replica.
            endpoint: Of its provider, to the end of this request whatever the settings say meanwhile.
            answered: Called as soon as there is an answer that only has to be recorded.

        Returns:
            What was decided; None if the provider must not be asked yet.
        """
        now = self._store.clock()
        self._lag(claim.provider).observe(max(0, claim.claimed_at - claim.due_at) / 1000)
        if held_back := policy.hold_back(claim, endpoint.dialect, now):
            await self._recorder.record(held_back)
            return None
        outcome = await self._request(claim, endpoint)
        step = policy.decide(claim, outcome, endpoint.dialect, self._store.clock(), random.random())
        if isinstance(step, Commit):
            answered()
            await self._commit(step, endpoint)
        else:
            self._report(step, await self._recorder.record(step))
        return step

    async def _commit(self, commit: Commit, endpoint: Endpoint) -> None:
        """Journal an answer, serve its token, then commit it to the store."""
        journaled = await self._recorder.journal(commit)
        if commit.token is not None:  # an unchanged one, too: it may live longer than the cache knows
            self._cache.succeed(commit.token, commit.claim.generation)
        recorded = await self._recorder.commit(journaled)
        self._report(commit, recorded)
        if recorded in {"superseded", "gone"}:
            await self._give_back(commit, journaled, endpoint)

    async def _request(self, claim: Claim, endpoint: Endpoint) -> Outcome:
        started = time.monotonic()
        # All or nothing: with less time than an answer may take, the token would be spent and its answer not heard.
        fits = started + self._request_timeout <= claim.lease_ends - LEASE_MARGIN.total_seconds()
        timeout = self._request_timeout if fits else 0
        outcome = await endpoint.refresh(claim.refresh_token, scope=claim.scope, timeout=timeout)
        self._duration(claim.provider).observe(time.monotonic() - started)
        return outcome

    def _report(self, step: Step, recorded: Recorded) -> None:
        """Count the attempt, and log what it came to."""
        claim, outcome = step.claim, _outcome(step, recorded)
        self._refreshes(claim.provider, outcome).inc()
        self._history.count(claim.provider, outcome)
        whose = {"grant_id": claim.grant_id, "provider": claim.provider, "attempt": claim.attempt}
        match step:
            case Commit(token=token) if step.fresh and token is not None:
                if self._audit is not None:
                    self._audit.write(
                        "grant.refreshed",
                        grant_id=claim.grant_id,
                        provider=claim.provider,
                        generation=token.generation,
                        settled=recorded,
                    )
                if logs.is_enabled("info"):
                    log.info(
                        "grant.refreshed",
                        **whose,
                        generation=token.generation,
                        settled=recorded,
                        expires_in=(token.expires_at - token.issued_at) // 1000,
                        warning=step.detail,
                    )
            case Commit(token=token):
                log.warning(
                    "grant.unusable" if token is None else "grant.unchanged",
                    **whose,
                    generation=claim.generation,
                    settled=recorded,
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
                    settled=recorded,
                    next_in=max(0, step.due_at - self._store.clock()) / 1000,
                )
            case Park() if recorded == "postponed" or outcome == "registration":
                log.warning(
                    "grant.postponed",
                    **whose,
                    generation=claim.generation,
                    outcome=outcome,
                    code=step.code or step.reason,
                    detail=step.detail,
                    failures=claim.failures + (recorded == "postponed"),
                    settled=recorded,
                    next_in=max(0, step.due_at - self._store.clock()) / 1000,
                )
            case Park():
                log.error(
                    "provider.suspended" if recorded == "suspended" else "grant.parked",
                    **whose,
                    generation=claim.generation,
                    outcome=outcome,
                    reason=step.reason,
                    detail=step.detail,
                    settled=recorded,
                )

    async def _give_back(self, commit: Commit, journaled: Journaled, endpoint: Endpoint) -> None:
        """Stop serving an answer whose grant is gone or was replaced meanwhile, forget it, and revoke its tokens."""
        claim, token = commit.claim, commit.token
        if token is not None:
            self._cache.retract(token)
        await self._recorder.retract(journaled)
        access_token = token.access_token if token else claim.access_token
        refresh_token = commit.refresh_token or claim.refresh_token
        revocation = await revoke(
            endpoint, access_token=access_token, refresh_token=refresh_token, timeout=self._request_timeout
        )
        log.warning("grant.given_back", grant_id=claim.grant_id, attempt=claim.attempt, revocation=revocation.result)
