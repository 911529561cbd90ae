"""Whether the broker is alive and could serve a caller: every check, with its status, since when, and in words.

`/healthz` follows the loops alone, so neither a dead grant nor a lost Redis restarts the process. Knows no route.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from broker.errors import MovedStore, StoreUnavailable, WrongStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from broker.api.connections import Connections
    from broker.journal.journal import Journal
    from broker.journal.lost import LostGrants
    from broker.process.audit_file import AuditFile
    from broker.process.heartbeat import Heartbeat
    from broker.read import Cache
    from broker.store import ProviderState, Store

_FETCH_TIMEOUT = 1.0
_SLOW = "start Redis, or find out what keeps it busy"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that can fail. *since* is in epoch seconds."""

    ok: bool
    since: int
    detail: str
    known: bool = True
    """False: nothing has shown yet whether it is ok; it counts as ok."""


@dataclass(frozen=True, slots=True)
class Report:
    """All checks by name, and what they come to."""

    status: Literal["ok", "degraded", "failed", "starting", "stopping"]
    checks: Mapping[str, Check] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the route that was asked answers 503."""
        return self.status not in {"ok", "degraded"}


@dataclass(frozen=True, slots=True)
class Watched:
    """The parts of the broker whose state is watched."""

    store: Store
    journal: Journal | None
    cache: Cache
    connections: Connections
    heartbeats: Callable[[], Sequence[Heartbeat]]
    providers: Collection[str]
    """Those of the settings now."""
    audit: AuditFile | None
    lost: LostGrants


class Health:
    """The process's state, and the checks of what it works with."""

    def __init__(self, watched: Watched) -> None:
        self._store = watched.store
        self._journal = watched.journal
        self._cache = watched.cache
        self._connections = watched.connections
        self._heartbeats = watched.heartbeats
        self._providers = watched.providers
        self._audit = watched.audit
        self._checks: dict[str, Check] = {}
        self._store_error: StoreUnavailable | None = None
        self.verdict = ""
        """The last verdict in a sentence; empty before the first."""
        self.started = False
        self.stopping = False
        self.waiting_for: StoreUnavailable | None = None
        """Why Redis cannot be used yet, before the start is done."""
        self.waiting_since: float | None = None
        """Since when (epoch seconds)."""

    def wait_for(self, error: StoreUnavailable) -> None:
        """Note why Redis cannot be used yet, before the start is done."""
        self.waiting_for, self.waiting_since = error, self.waiting_since or time.time()

    @property
    def waiting(self) -> str:
        """Why Redis cannot be used yet, and what helps, before the start is done."""
        return f"{self.waiting_for}; {self.waiting_for.cure}" if self.waiting_for else ""

    @property
    def alive(self) -> bool:
        """Whether every loop has made progress within its deadline: `/healthz` and the watchdog follow it."""
        return all(heartbeat.alive for heartbeat in self._heartbeats())

    def summary(self) -> str:
        """Say in one line how the broker is, without asking Redis: for the supervisor of the process."""
        if self.stopping:
            return "stopping: serves reads and finishes refreshes under way"
        if not self.started:
            return f"waiting for Redis: {_without_name(self.waiting)}" if self.waiting else "starting"
        if self.verdict and self.alive:
            return self.verdict
        troubles = [f"{each.name}: {_progress(each)}" for each in self._heartbeats() if not each.alive or each.trouble]
        if self._journal is not None and self._journal.fault:
            troubles.append(f"journal: {self._journal.fault}")
        if self._audit is not None and self._audit.fault:
            troubles.append(f"audit: {self._audit.fault}")
        return "; ".join(troubles) or f"refreshing; {len(self._cache)} tokens in memory"

    async def report(self) -> Report:
        """Report every check. A loop without progress fails it; a dead grant or a lost Redis only degrades it."""
        states = await self.fetch_status(answers=True)
        full = self._connections.trouble
        checks = {
            "redis": self._check_redis(answers=states is not None) if self.started else self._check_start(),
            "journal": self._check_journal(),
            "connections": self._check("connections", full or f"{len(self._connections)} open", ok=not full),
        }
        if self._audit is not None:
            fault = self._audit.fault
            detail = f"{fault}: free space on its disk, or correct audit.file" if fault else "writes"
            checks["audit"] = self._check("audit", detail, ok=not fault)
        for each in self._heartbeats():
            noticed = each.trouble_since if each.alive else time.time() - each.silent_for()
            checks[each.name] = self._check(
                each.name, _progress(each), ok=each.alive and not each.trouble, noticed=noticed
            )
        for state in states or ():
            checks[f"provider {state.name}"] = self._check_provider(state)
        good = all(check.ok for check in checks.values())
        return Report("failed" if not self.alive else "ok" if good else "degraded", checks)

    async def report_readiness(self) -> Report:
        """Report whether a caller could be served at all."""
        if self.stopping:
            return Report("stopping")
        if not self.started:
            return Report("starting", {"redis": self._check_start()})
        answers = await self.fetch_status(()) is not None
        # A server without this broker's data may be a different server: a load balancer should try another replica.
        # Where the store moved they are all alike, and memory is what there is.
        elsewhere = isinstance(self._store_error, WrongStore) and not isinstance(self._store_error, MovedStore)
        ready = answers or (len(self._cache) > 0 and not elsewhere)
        return Report("ok" if ready else "failed", {"redis": self._check_redis(answers=answers)})

    async def fetch_status(
        self, providers: Collection[str] | None = None, *, answers: bool = False
    ) -> list[ProviderState] | None:
        """Fetch the states of *providers* (None: all in the settings) from Redis; None: no answer within a second.

        *answers*: look for a provider's last answer in its grants where it was not written down.
        """
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT):
                states = await self._store.grants.providers(self._providers if providers is None else providers)
                states = await self._store.history.with_last_answers(states) if answers else states
        except StoreUnavailable as error:
            self._store_error = error
        except TimeoutError:
            self._store_error = StoreUnavailable("Redis does not answer", cure=_SLOW)
        else:
            self._store_error = None
            return states
        return None

    def _check_start(self) -> Check:
        """Return why Redis cannot be used yet, before the start is done."""
        detail = _without_name(self.waiting) or "not asked yet"
        return self._check("redis", detail, ok=False, noticed=self.waiting_since)

    def _check_redis(self, *, answers: bool) -> Check:
        if not answers:
            error = self._store_error or StoreUnavailable("Redis does not answer")
            detail = f"{_without_name(error)}: valid tokens are served from memory, nothing is refreshed; {error.cure}"
            lost = [each.trouble_since for each in self._heartbeats() if each.store_error and each.trouble_since]
            return self._check("redis", detail, ok=False, noticed=min(lost, default=None))
        if unproved := self._store.primary.unproved:
            detail = f"answers, but cannot prove that the last commit is on disk: {unproved}"
            return self._check("redis", detail, ok=not self._store.primary.replicas)
        return self._check("redis", "answers", ok=True)

    def _check_journal(self) -> Check:
        if self._journal is None:
            return self._check("journal", "off (refresh.journal): a response that Redis loses is lost", ok=False)
        if self._journal.fault:
            detail = f"{self._journal.fault}: make room in data_dir; until then only expired tokens are refreshed"
            return self._check("journal", detail, ok=False, noticed=self._journal.fault_since)
        return self._check("journal", f"writes; {self._journal.unrecorded} responses not yet stored in Redis", ok=True)

    def _check_provider(self, state: ProviderState) -> Check:
        # This needs no key: it shows the provider's error code, and not its words.
        if state.suspended:
            detail = (
                f"suspended ({state.suspended}): check client id and secret; probes continue, "
                f"`token-broker retry --provider {state.name}` tries at once"
            )
        elif state.ailing:
            failures = "1 failure" if state.ailing == 1 else f"{state.ailing} failures in a row"
            detail = f"{failures}: it gets one request at a time until one succeeds; `token-broker status` shows why"
        else:
            detail = "not asked yet" if state.answered_at is None else "answers"
        ok = not state.suspended and not state.ailing
        noticed = state.suspended_at if state.suspended else state.failing_since
        return self._check(
            f"provider {state.name}",
            detail,
            ok=ok,
            known=not ok or state.answered_at is not None,
            noticed=None if noticed is None else noticed / 1000,
        )

    def _check(self, name: str, detail: str, *, ok: bool, known: bool = True, noticed: float | None = None) -> Check:
        """Return a check, since when it has been so; *noticed*: when whoever met a problem noticed it (epoch s)."""
        last = self._checks.get(name)
        since = last.since if last is not None and (last.ok, last.known) == (ok, known) else int(time.time())
        if noticed is not None and not ok:
            since = min(since, int(noticed))
        check = self._checks[name] = Check(ok, since, detail, known)
        return check


def _without_name(error: StoreUnavailable | str | None) -> str:
    """Return what a store's error says about Redis, which the name of its check says already."""
    return str(error or "").removeprefix("Redis: ").removeprefix("Redis ")


def _progress(heartbeat: Heartbeat) -> str:
    if heartbeat.alive:
        return heartbeat.trouble or "runs"
    return f"no progress for {heartbeat.silent_for():.0f} s: restart the broker"
