"""Callers in the background: every grant is read from every replica, and each read is held against the truth."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.chaos.machine import waited
from tests.chaos.replica import Replica
from tests.chaos.stores import StoreServer
from tests.chaos.world import World

SLOW = 1.0
"""Seconds after which a read counts as blocked."""
_PAUSE = 0.4
"""Seconds between two reads of a grant at a replica, on average."""
_MOST = 100
"""Reads a second in one world, or this process would be its own fault."""
_HEARD = 1.0
"""Seconds that a token may take from one replica to the others."""


@dataclass(frozen=True, slots=True)
class Served:
    """A token that some read was given."""

    token: str
    generation: int
    expires_at: float
    since: float


@dataclass(frozen=True, slots=True)
class Read:
    """One read: what it was answered, how long it took, and whether a valid token existed."""

    at: float
    replica: str
    grant: str
    status: int
    took: float
    """Seconds, but for those in which the machine kept its broker, the store, this very process or the disk waiting."""
    existed: bool
    verdict: str
    """served, legitimate (nothing valid was there to be served), or what was wrong: refused, expired, blocked, cut."""


@dataclass(slots=True)
class Callers:
    """Readers of all grants at all replicas.

    *apart* is said where replicas cannot hear of one another (a store that is gone, a replica that died): then a
    replica owes only what it served itself.
    """

    world: World
    apart: bool
    reads: list[Read] = field(default_factory=list)
    _newest: dict[str, Served] = field(default_factory=dict)
    _own: dict[tuple[str, int, str], Served] = field(default_factory=dict)

    @property
    def withheld(self) -> list[Read]:
        return [read for read in self.reads if read.verdict not in {"served", "legitimate"}]

    def counts(self) -> Counter[str]:
        return Counter(read.verdict for read in self.reads)

    def known(self, grant: str) -> Served | None:
        """Return the newest token that anybody was given."""
        return self._newest.get(grant)

    def _owed(self, replica: Replica, lives: int, grant: str) -> Served | None:
        """Return what *replica* must be able to serve."""
        own, newest = self._own.get((replica.name, lives, grant)), self._newest.get(grant)
        if self.apart or newest is None or newest.since > time.time() - _HEARD:
            return own
        return newest

    def _lives(self, served: Served | None, at: float) -> bool:
        """Whether a token is good at a point in time."""
        return served is not None and served.expires_at > at and self.world.authority.is_live_access(served.token)

    async def read(self, replica: Replica, grant: str, wait: int | None, min_ttl: int = 0) -> None:
        """Read once and judge; a token with less life than *min_ttl* seconds is none to whoever asks for that much."""
        began, asked, lives = time.time(), time.monotonic(), replica.lives
        waited = self._waited(replica)
        owed = self._owed(replica, lives, grant)
        alive = self._lives(owed, began + min_ttl)
        query = f"?min_ttl={min_ttl}" if min_ttl else ""
        headers = {"X-Broker-Key": replica.process.admin_key} | ({} if wait is None else {"Prefer": f"wait={wait}"})
        status, body = 0, {}
        try:
            async with replica.session.get(f"{replica.url}/v1/grants/{grant}/token{query}", headers=headers) as answer:
                status, body = answer.status, await answer.json()
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError):
            if not replica.up or replica.lives != lives:
                return  # it was ended meanwhile; a caller asks another one
        took = time.monotonic() - asked - max(0, self._waited(replica) - waited)
        for lags in (self.world.lags, self.world.disk_lags):
            took -= lags.between(asked, time.monotonic())
        verdict = self._verdict(status, body, took, owed if alive else None, began)
        if verdict == "legitimate" and status == 200:
            pass
        elif status == 200:
            self._remember(replica, lives, body)
        self.reads.append(Read(began, replica.name, grant, status, took, alive, verdict))

    def _verdict(self, status: int, body: dict[str, Any], took: float, owed: Served | None, began: float) -> str:
        now = time.time()
        if owed is not None and took > SLOW and owed.expires_at > began + SLOW:
            return "blocked"
        if status == 200:
            served = body["access_token"]
            if self.world.authority.is_live_access(served) or body["expires_at"] + 1 > began + took / 2:
                # Alive, or it died on its way; one that the server revoked before its time cannot be known to be dead.
                return "served"
            return "expired" if owed is not None and owed.token != served else "legitimate"
        if not self._lives(owed, now):
            return "legitimate"
        return "refused" if status else "cut"

    def _remember(self, replica: Replica, lives: int, body: dict[str, Any]) -> None:
        served = Served(body["access_token"], body["generation"], body["expires_at"], time.time())
        key = (replica.name, lives, body["grant_id"])
        before = self._own.get(key)
        if before is None or before.generation < served.generation:
            self._own[key] = served
        newest = self._newest.get(body["grant_id"])
        if newest is None or newest.generation < served.generation:
            self._newest[body["grant_id"]] = served

    def _waited(self, replica: Replica) -> float:
        """Seconds for which those who answer were kept from running by others on this machine."""
        store = self.world.store
        return waited(replica.process.popen.pid) + (waited(store.pid) if isinstance(store, StoreServer) else 0)

    async def watch(self) -> None:
        """Notice when this very process is late."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.05)
            late = time.monotonic() - before - 0.05
            if late > 0.05:
                self.world.lags.add(time.monotonic(), late)

    async def watch_disk(self) -> None:
        """Notice when the disk under journals and store is late for others' reasons."""
        with tempfile.TemporaryFile(buffering=0, prefix="tb-faults-") as file:
            while True:
                await asyncio.sleep(0.1)
                before = time.monotonic()
                file.write(b"x")
                await asyncio.to_thread(os.fdatasync, file.fileno())
                if (late := time.monotonic() - before) > 0.1:
                    self.world.disk_lags.add(time.monotonic(), late)

    async def keep_reading(self, replica: Replica, grant: str, rng: random.Random) -> None:
        """One caller of one grant at one replica."""
        pause = max(_PAUSE, len(self.world.family) * len(self.world.replicas) / _MOST)
        await asyncio.sleep(rng.uniform(0, 0.5))
        while True:
            if replica.up:
                await self.read(replica, grant, rng.choice([None, 0, 2]))
            await asyncio.sleep(rng.uniform(0.5, 1.5) * pause)


@contextlib.asynccontextmanager
async def reading(world: World, *, apart: bool) -> AsyncIterator[Callers]:
    """While the body lasts, callers read."""
    callers = Callers(world, apart)
    tasks = [asyncio.create_task(callers.watch()), asyncio.create_task(callers.watch_disk())]
    for replica in world.replicas:
        for grant in world.family:
            rng = random.Random(f"{world.plan.seed} {replica.name} {grant}")
            tasks.append(asyncio.create_task(callers.keep_reading(replica, grant, rng)))
    try:
        yield callers
    finally:
        failed = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in failed:
            task.result()
