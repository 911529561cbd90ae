"""The ground that a fault happens on: a store, an authorization server, replicas, and grants that are all fresh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from broker.process.data_dir import sealing_keys
from broker.sandbox import Authority, Sandbox
from broker.secret import Sealer
from broker.settings import file as settings_file
from broker.store import open_store
from tests.chaos.disks import SmallDisk
from tests.chaos.machine import Lags
from tests.chaos.replica import Replica
from tests.chaos.stores import FailingOver, StoreServer
from tests.conftest import provider_settings
from tests.proxy import RedisProxy
from tests.redis_topologies import servers
from tests.regressions.clocks import WallClock
from tests.waiting import until

PROVIDER = "acme"
GRACE = 30
"""Seconds for which a spent refresh token yields its successor again, where there is a grace."""
FAILOVER, FOR_NOTHING = "failover", "failover that lost no commit"
"""The latter proves nothing: where all were such, that is a problem of the row."""
LOSING = {"status_after", "reset", "hang", "truncate"}
"""Faults of the sandbox which, where the request was processed, lose its answer."""
_SHARES = 5
"""In so many shares the grants are imported, each with a first token of another life."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a run is; the seed drives all that is random."""

    seed: int = 1
    duration: float = 5.0
    grants: int = 20
    life: float = 5.0
    replicas: int = 1
    journal: bool = True
    fence: bool = True
    """Whether nobody claims for a while on another run of Redis."""
    request_timeout: float = 1.0
    """Seconds for one token request; fewer than a busy machine may need would make it a fault of its own."""
    patience: float = 40.0
    """Seconds after a fault in which every grant must be fresh, or known to be lost."""


@dataclass(slots=True)
class World:
    """All of it; the sandbox runs in this process, so that it can be asked for the truth."""

    plan: Plan
    grace: bool
    rng: random.Random
    sandbox: Sandbox
    store: StoreServer | FailingOver
    proxies: list[RedisProxy] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)
    family: dict[str, str] = field(default_factory=dict)
    """Grant to family."""
    revoked: dict[str, str] = field(default_factory=dict)
    """Grant to the family that its user took back."""
    notes: dict[str, int] = field(default_factory=dict)
    """How often a fault struck, in its own words."""
    lags: Lags = field(default_factory=Lags)
    """When this process, and so the authorization server in it, was late."""
    disk_lags: Lags = field(default_factory=Lags)
    """When the disk was late that journals and stores share with others."""

    @property
    def authority(self) -> Authority:
        return self.sandbox.rotating

    @property
    def server(self) -> StoreServer:
        """The store, where it is one server alone."""
        assert isinstance(self.store, StoreServer)
        return self.store

    @property
    def running(self) -> Replica:
        """Any replica that runs."""
        return self.rng.choice([replica for replica in self.replicas if replica.up])

    def note(self, what: str, count: int = 1) -> None:
        self.notes[what] = self.notes.get(what, 0) + count

    def settings(self, name: str) -> dict[str, Any]:
        """Return what a replica is told beyond the usual; in each token request it says who it is."""
        grace = {"reuse_grace": f"{GRACE}s" if self.grace else "0s"}
        return {
            "providers": {
                PROVIDER: provider_settings(self.sandbox)[PROVIDER] | grace,
                f"{PROVIDER}.token_params": {"sender": name},
            },
            "module": "broker" if self.plan.fence else "tests.chaos.unfenced",
            "refresh": {
                "request_timeout": f"{self.plan.request_timeout:g}s",
                "lease": f"{self.plan.request_timeout + 7:g}s",
                "min_interval": "1s",
                "import_spread": "0s",
                "report_budget": 3600,
                "journal": self.plan.journal,
            },
        }

    async def begin(self) -> None:
        """Start the replicas, import the grants, and wait until each has a token, all at different ages."""
        self.authority.options.reuse_grace = GRACE if self.grace else 0
        await self.replicas[0].start()  # makes the sealing key that all share
        await asyncio.gather(*(replica.start() for replica in self.replicas[1:]))
        names = [f"g{number:03}" for number in range(self.plan.grants)]
        for share in range(_SHARES):
            self.authority.options.access_lifetime = self.plan.life * (share + 1) / _SHARES
            await self._import(names[share::_SHARES])
        self.authority.options.access_lifetime = self.plan.life
        self.authority.options.latency = 0.05

    async def _import(self, names: list[str]) -> None:
        lines = []
        for name in names:
            issued = self.authority.issue()
            self.family[name] = issued.family
            lines.append({"grant_id": name, "provider": PROVIDER, "refresh_token": issued.refresh_token})
        first = self.replicas[0]
        asked = len(self.authority.token_requests)
        body = "\n".join(json.dumps(line) for line in lines)
        async with first.session.post(
            first.url + "/v1/import", data=body, headers={"X-Broker-Key": first.process.admin_key}
        ) as answer:
            outcomes = [json.loads(line) for line in (await answer.text()).splitlines()]
        assert [line["status"] for line in outcomes] == ["created"] * len(names), outcomes
        await until(lambda: len(self.authority.token_requests) >= asked + len(names), 60)

    async def kill(self, replica: Replica) -> None:
        """SIGKILL."""
        records = self.authority.token_requests
        await replica.kill(lambda: {number for number, record in enumerate(records) if record.status is None})

    def never_heard(self) -> set[int]:
        """Numbers of the requests that the server processed and whose answers may never have reached us.

        Those that a fault lost; and of a replica that was killed, those whose answer is not in its journal. A later
        answer of the same family to the same replica takes the place of an earlier one there.
        """
        deaths = {replica.name: replica.deaths for replica in self.replicas}
        later: set[tuple[str, float, str]] = set()
        lost = self.too_late()
        records = list(self.authority.token_requests)
        for number in range(len(records) - 1, -1, -1):
            record = records[number]
            if not record.processed or record.error is not None:
                continue
            sender = record.others.get("sender", "")
            death = next((death for death in deaths.get(sender, []) if death.next_life >= record.monotonic), None)
            if record.fault in LOSING:
                lost.add(number)
            elif death is not None:
                key = (sender, death.at, record.family or "")
                if death.journaled is None:
                    heard = record.monotonic <= death.at and number not in death.under_way
                else:
                    heard = record.issued in death.journaled
                if not heard and key not in later:
                    lost.add(number)
                later.add(key)
        return lost

    def too_late(self) -> set[int]:
        """Numbers of the requests whose answers came too late, since this very process was late itself.

        Nobody knows but who waited: the broker says that it gave up, and then our lateness must be reason enough.
        """
        allowed = self.plan.request_timeout
        longest = 2 * allowed  # a broker that stalls itself waits for twice as long
        records = list(self.authority.token_requests)
        late = {
            number
            for number, record in enumerate(records)
            if self.lags.between(record.monotonic - allowed, record.monotonic + longest) > allowed / 2
        }
        if not late:
            return late
        gave_up = {
            (self.family[line["grant_id"]], datetime.fromisoformat(line["timestamp"]).timestamp())
            for line in self.logged("grant.postponed")
            if line["code"] == "timeout"
        }
        return {
            number
            for number in late
            if any(
                family == records[number].family and abs(at - records[number].at) < longest + allowed
                for family, at in gave_up
            )
        }

    def grants_of(self, numbers: set[int]) -> set[str]:
        """Whose requests these are."""
        records = self.authority.token_requests
        families = {records[number].family for number in numbers}
        return {grant for grant, family in self.family.items() if family in families}

    @property
    def unheard(self) -> set[str]:
        """Grants whose token was spent by a request whose answer may never have reached us."""
        return self.grants_of(self.never_heard())

    async def in_flight(self) -> None:
        """Wait until a request is under way."""
        with contextlib.suppress(AssertionError):
            await until(self._asked, 3, 0.005)

    async def refreshing(self) -> None:
        """Wait until somebody refreshes and more fall due in the next two seconds."""
        with contextlib.suppress(AssertionError):
            await until(self._asked, 30, 0.005)
            await until(self._soon_due, 30, 0.1)

    async def _soon_due(self) -> bool:
        now = time.time()
        return any(0.5 < (row["refresh_at"] or 0) - now < 2 for row in (await self.described()).values())

    def _asked(self) -> bool:
        latency = self.authority.options.latency
        records = self.authority.token_requests[-50:]
        return any(r.status is None and time.monotonic() - r.monotonic < latency * 0.8 for r in records)

    async def described(self) -> dict[str, dict[str, Any]]:
        """Every grant as a replica describes it."""
        status, body, _ = await self.running.process.ask("GET", f"/v1/grants?limit=1000&provider={PROVIDER}")
        return {row["grant_id"]: row for row in body["grants"]} if status == 200 else {}

    async def alive(self) -> set[str]:
        """Grants whose stored refresh token is the server's live one."""
        settings = await asyncio.to_thread(settings_file.load, self.replicas[0].process.folder / "broker.toml")
        alive = set()
        async with open_store(settings.redis, Sealer(sealing_keys(settings)), data_dir=settings.data_dir) as store:
            for grant in self.family:
                held = await store.grants.refresh_token(grant)
                if held is not None and self.authority.is_live_refresh(held[1].reveal()):
                    alive.add(grant)
        return alive

    def logged(self, *events: str) -> list[dict[str, Any]]:
        """Lines of these events from all replicas."""
        return [line for replica in self.replicas for line in replica.log if line["event"] in events]


@dataclass(frozen=True, slots=True)
class Terrain:
    """What a world is made of."""

    name: str = ""
    grace: bool = False
    """Whether the server yields a spent token's successor again for a while, and the broker knows."""
    replicas: int = 1
    store: Literal["alone", "sentinels", "cluster"] = "alone"
    store_options: tuple[str, ...] = ()
    proxied: bool = False
    """Each replica reaches the store through a proxy of its own."""
    small: Literal["", "journals", "store"] = ""
    """What lies on a small disk."""
    clocked: bool = False
    """The last replica goes by a clock of its own."""


async def _store(terrain: Terrain, folder: Path, stack: contextlib.AsyncExitStack) -> StoreServer | FailingOver:
    if terrain.store == "sentinels":
        return FailingOver(await stack.enter_async_context(servers.sentinels()))
    if terrain.store == "cluster":
        return FailingOver(await stack.enter_async_context(servers.cluster()))
    disk = None
    if terrain.small == "store":
        disk = SmallDisk(folder / "store", 16384)
        stack.callback(disk.close)
    store = StoreServer(folder / "store", disk=disk, options=terrain.store_options)
    store.begin()
    stack.callback(store.kill)
    return store


@contextlib.asynccontextmanager
async def world(plan: Plan, terrain: Terrain) -> AsyncIterator[World]:
    """All fresh at its begin; nothing is left behind at its end."""
    folder = Path(tempfile.mkdtemp(prefix="tb-faults-"))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(partial(shutil.rmtree, folder, ignore_errors=True))
        sandbox = await stack.enter_async_context(Sandbox(access_lifetime=plan.life))
        store = await _store(terrain, folder, stack)
        made = World(plan, terrain.grace, random.Random(f"{plan.seed} {terrain.name}"), sandbox, store)

        async def end() -> None:
            closing: list[Awaitable[None]] = [replica.close(sandbox.secrets()) for replica in made.replicas]
            failed = [error for error in await asyncio.gather(*closing, return_exceptions=True) if error]
            if failed:
                raise failed[0]

        for number in range(1, terrain.replicas + 1):
            name, url, disk, clock = f"r{number}", store.url, None, None
            if terrain.proxied:
                made.proxies.append(await stack.enter_async_context(RedisProxy(made.server.port)))
                url = made.proxies[-1].url
            if terrain.small == "journals":
                disk = SmallDisk(folder / name / "data" / "journal")
                stack.callback(disk.close)
            if terrain.clocked and number == terrain.replicas:
                clock = WallClock(folder / "clock")
            made.replicas.append(Replica(name, folder / name, url, made.settings(name), disk=disk, clock=clock))
        stack.push_async_callback(end)
        await made.begin()
        yield made
