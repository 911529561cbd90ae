"""What supervisors ask.

`/healthz` follows the loops alone; `/readyz` says whether a caller could be served.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from broker.api.app import API, caller_of, grant_id_of, json_answer
from broker.api.routes import shapes
from broker.errors import BrokerError, StoreUnavailable, UnknownGrant, WrongStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from broker.api.connections import Connections
    from broker.journal.journal import Journal
    from broker.process.heartbeat import Heartbeat
    from broker.read import Cache
    from broker.store import ProviderState, Store

_LOOK_TIMEOUT = 1.0


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/healthz", healthz)
    router.add_get("/readyz", readyz)
    router.add_get("/readyz/{id}", readyz_grant)


class Health:
    """What lives and what fails: every check with its status, since when, and in words."""

    def __init__(
        self,
        store: Store,
        journal: Journal | None,
        hearts: Sequence[Heartbeat],
        providers: Sequence[str],
        cache: Cache,
        connections: Connections,
    ) -> None:
        self._store = store
        self._journal = journal
        self._hearts = hearts
        self._providers = providers
        self._connections = connections
        self.cache = cache
        self._since: dict[str, tuple[bool, int]] = {}
        self.started = False
        self.stopping = False
        self.waiting = ""
        self._trouble: StoreUnavailable | None = None

    async def look(self) -> list[ProviderState] | None:
        """The providers' states as Redis has them, or None when it does not answer within a second."""
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT):
                states = await self._store.grants.providers(self._providers)
        except StoreUnavailable as error:
            self._trouble = error
        except TimeoutError:
            self._trouble = StoreUnavailable("Redis does not answer")
        else:
            self._trouble = None
            return states
        return None

    @property
    def alive(self) -> bool:
        """Whether every loop beats within its deadline: what `/healthz` answers by, and a watchdog is fed by."""
        return all(heart.alive for heart in self._hearts)

    def in_a_line(self) -> str:
        """How things stand, without asking Redis: for whoever supervises the process."""
        if self.stopping:
            return "stopping: reads are served, refreshes under way are finished"
        if not self.started:
            return f"waiting for Redis: {self.waiting}" if self.waiting else "starting"
        troubles = [f"{heart.name}: {_pulse(heart)}" for heart in self._hearts if not heart.alive or heart.trouble]
        if self._journal is not None and self._journal.fault:
            troubles.append(f"journal: {self._journal.fault}")
        return "; ".join(troubles) or f"refreshing; {len(self.cache)} tokens in memory"

    async def report(self) -> tuple[bool, shapes.Health]:
        """Whether all loops live, and every check. A dead grant or a lost Redis degrades, and never fails it."""
        states = await self.look()
        checks = {"redis": self._redis(states is not None)}
        checks["journal"] = self._journaling()
        full = self._connections.trouble
        checks["connections"] = self._check("connections", not full, full or f"{len(self._connections)} open")
        for heart in self._hearts:
            checks[heart.name] = self._check(heart.name, heart.alive and not heart.trouble, _pulse(heart))
        for state in states or ():
            checks[f"provider {state.name}"] = self._provider(state)
        alive, good = self.alive, all(check["status"] == "ok" for check in checks.values())
        return alive, {"status": "failed" if not alive else "ok" if good else "degraded", "checks": checks}

    def _redis(self, good: bool) -> shapes.Check:  # noqa: FBT001
        lost = f"{self._trouble}: valid tokens are served from memory, nothing is refreshed; start it or mend redis.url"
        if good and (why := self._store.primary.unproved):
            words = f"answers, but cannot prove that the last commit is on disk: {why}"
            return self._check("redis", not self._store.primary.replicas, words)
        return self._check("redis", good, "answers" if good else lost)

    def _journaling(self) -> shapes.Check:
        if self._journal is None:
            return self._check("journal", False, "switched off (refresh.journal): what Redis loses is lost")
        if self._journal.fault:
            words = f"{self._journal.fault}: make room in data_dir; tokens are served, only expired ones are refreshed"
            return self._check("journal", False, words)
        return self._check("journal", True, f"writes; {self._journal.unrecorded} answers not yet heard by Redis")

    def _provider(self, state: ProviderState) -> shapes.Check:
        if state.suspended:
            words = (
                f"suspended ({state.suspended} {state.detail or ''}): check client id and secret; probes go on, "
                f"`token-broker retry --provider {state.name}` tries now"
            )
        elif state.ailing:
            why = state.detail or "no detail"
            words = f"{state.ailing} failures in a row ({why}): asked one at a time until one succeeds"
        else:
            words = "answers"
        return self._check(f"provider {state.name}", not state.suspended and not state.ailing, words)

    def _check(self, name: str, good: bool, words: str) -> shapes.Check:  # noqa: FBT001
        before = self._since.get(name)
        if before is None or before[0] != good:
            before = self._since[name] = (good, int(time.time()))
        return {"status": "ok" if good else "degraded", "since": before[1], "detail": words}

    async def ready(self) -> tuple[bool, shapes.Health]:
        """Whether a caller could be served at all."""
        if self.stopping:
            return False, {"status": "stopping", "checks": {}}
        if not self.started:
            return False, {
                "status": "starting",
                "checks": {"redis": self._check("redis", False, self.waiting or "not asked yet")},
            }
        redis = await self.look() is not None
        # A server without our data may be another one altogether: whoever balances load should ask elsewhere.
        good = redis or (len(self.cache) > 0 and not isinstance(self._trouble, WrongStore))
        return good, {"status": "ok" if good else "failed", "checks": {"redis": self._redis(redis)}}


def _pulse(heart: Heartbeat) -> str:
    return heart.trouble or "beats" if heart.alive else f"silent for {heart.silent_for():.0f} s: restart the broker"


async def healthz(request: web.Request) -> web.Response:
    """`/healthz`: 200 as long as every loop beats."""
    alive, report = await request.app[API].health.report()
    return json_answer(report, status=200 if alive else 503)


async def readyz(request: web.Request) -> web.Response:
    """`/readyz`: 200 when a caller could be served."""
    ready, report = await request.app[API].health.ready()
    return json_answer(report, status=200 if ready else 503)


async def readyz_grant(request: web.Request) -> web.Response:
    """`/readyz/{id}`: 200 when a live token of that grant can be read now."""
    grant_id, caller = grant_id_of(request), caller_of(request)
    caller.require("read", grant_id)
    try:
        token = await request.app[API].reader.current(grant_id, wait=0)
    except UnknownGrant:
        raise
    except BrokerError as error:
        unready = shapes.GrantNotReady(status="failed", error=error.code, error_description=str(error))
        return json_answer(unready, status=503)
    ready = shapes.GrantReady(status="ok", generation=token.generation, expires_at=token.expires_at // 1000)
    return json_answer(ready)
