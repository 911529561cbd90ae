"""The ground that a fault happens on: a store, an authorization server, replicas, and grants that are all fresh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from broker import settings_source
from broker.data_dir import sealing_keys
from broker.sandbox import Authority, Sandbox, TokenRequest
from broker.secret import Sealer
from broker.store import open_store
from tests.cases.process import Process, broker_process
from tests.conftest import RedisServer, provider_settings, start_redis
from tests.proxy import RedisProxy
from tests.waiting import until

PROVIDER = "acme"
GRACE = 30
"""Seconds for which a spent refresh token yields its successor again, where there is a grace."""
LOSING = {"status_after", "reset", "hang", "truncate"}
"""Faults of the sandbox which, where the request was processed, lose its answer."""
_PORT_TAKEN = "Address already in use"
_SHARES = 5
"""In so many shares the grants are imported, each with a first token of another life."""
_IN_FLIGHT = 0.3
"""Seconds around a kill in which an answer may have been under way; the server's latency comes on top."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a run is; the seed drives all that is random."""

    seed: int = 1
    duration: float = 5.0
    grants: int = 20
    life: float = 5.0
    replicas: int = 1
    journal: bool = True
    patience: float = 40.0
    """Seconds after a fault in which every grant must be fresh, or known to be lost."""


class Replica:
    """One broker that may be killed and started again on its folder."""

    def __init__(self, name: str, folder: Path, url: str, settings: Callable[[], dict[str, Any]]) -> None:
        self.name = name
        self.up = False
        self.lives = 0
        self.process: Process
        self.session: aiohttp.ClientSession
        self._past: list[dict[str, Any]] = []
        self._folder = folder
        self._url = url
        self._settings = settings
        self._stack = contextlib.AsyncExitStack()

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def log(self) -> list[dict[str, Any]]:
        """What it logged in all its lives."""
        return self._past + (self.process.log if self.up else [])

    async def start(self) -> None:
        """Start it, on what its last life left behind; returns once it is ready."""
        for left in (2, 1, 0):
            try:
                await self._begin()
            except AssertionError:
                # Its port was free when it was chosen, and another world's when it was wanted.
                if left == 0 or _PORT_TAKEN not in (self._folder / "log").read_text():
                    raise
            else:
                return

    async def _begin(self) -> None:
        broker = broker_process(self._folder, self._url, **self._settings())
        self.process = await self._stack.enter_async_context(broker)
        popen = self.process.popen
        # Whoever answered on its port may have been another broker.
        await until(
            lambda: popen.poll() is not None or any(line["event"] == "broker.started" for line in self.process.log)
        )
        if popen.poll() is not None:
            self.process.killed = True
            await self._stack.aclose()
            raise AssertionError((self._folder / "log").read_text()[-2000:])
        self.session = await self._stack.enter_async_context(aiohttp.ClientSession())
        self.lives += 1
        self.up = True

    async def kill(self) -> None:
        """SIGKILL."""
        self.up = False
        self.process.kill()
        await self._bury()

    async def terminate(self) -> None:
        """SIGTERM, and it must end well, in its own time."""
        self.up = False
        self.process.killed = True  # nothing is left to be looked through
        self.process.popen.terminate()
        await until(lambda: self.process.popen.poll() is not None, 20)
        assert self.process.popen.returncode == 0, f"replica {self.name} ended with {self.process.popen.returncode}"
        await self._bury()

    async def close(self, secrets: set[str]) -> None:
        """End it at last; where it runs, no secret stands in its log."""
        if self.up:
            self.process.secrets |= secrets
        self._past, self.up = self.log, False
        await self._stack.aclose()

    async def _bury(self) -> None:
        self._past += self.process.log
        await self._stack.aclose()


class StoreServer:
    """A real server on its own directory, that dies, freezes, and goes back in time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: RedisServer
        self._copy = folder.with_name("copy")

    def begin(self) -> None:
        self._folder.mkdir()
        self._server = start_redis(self._folder)

    @property
    def port(self) -> int:
        return self._server.port

    def kill(self) -> None:
        """SIGKILL; does no harm to one that is dead."""
        self._server.stop()

    def start(self) -> None:
        """Start it again on its port and its data, if it does not run."""
        if self._server.process.poll() is not None:
            self._server = start_redis(self._folder, self._server.port)

    def freeze(self) -> None:
        os.kill(self._server.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._server.process.pid, signal.SIGCONT)

    def remember(self) -> None:
        """Copy what it has on disk."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._folder, self._copy)

    def go_back(self) -> None:
        """It dies, and comes back as it was when it was copied: acknowledged writes are gone."""
        self.kill()
        shutil.rmtree(self._folder)
        shutil.copytree(self._copy, self._folder)
        self.start()


@dataclass(slots=True)
class World:
    """All of it; the sandbox runs in this process, so that it can be asked for the truth."""

    plan: Plan
    grace: bool
    rng: random.Random
    sandbox: Sandbox
    store: StoreServer
    proxies: list[RedisProxy] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)
    family: dict[str, str] = field(default_factory=dict)
    """Grant to family."""
    kills: list[float] = field(default_factory=list)
    """When replicas were killed with requests in flight (monotonic)."""
    notes: dict[str, int] = field(default_factory=dict)
    """How often a fault struck, in its own words."""

    @property
    def authority(self) -> Authority:
        return self.sandbox.rotating

    @property
    def running(self) -> Replica:
        """Any replica that runs."""
        return self.rng.choice([replica for replica in self.replicas if replica.up])

    def note(self, what: str) -> None:
        self.notes[what] = self.notes.get(what, 0) + 1

    def settings(self) -> dict[str, Any]:
        """What a replica is told beyond the usual."""
        grace = {"reuse_grace": f"{GRACE}s" if self.grace else "0s"}
        return {
            "providers": {PROVIDER: provider_settings(self.sandbox)[PROVIDER] | grace},
            "refresh": {
                "request_timeout": "1s", "lease": "8s", "min_interval": "1s", "import_spread": "0s",
                "journal": self.plan.journal,
            },
        }  # fmt: skip

    async def begin(self, folder: Path, replicas: int) -> None:
        """Start the replicas, import the grants, and wait until each has a token, all at different ages."""
        self.authority.options.reuse_grace = GRACE if self.grace else 0
        for number in range(replicas):
            name = f"r{number + 1}"
            url = self.proxies[number].url if self.proxies else f"redis://127.0.0.1:{self.store.port}/0"
            self.replicas.append(Replica(name, folder / name, url, self.settings))
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
            told = [json.loads(line) for line in (await answer.text()).splitlines()]
        assert [line["status"] for line in told] == ["created"] * len(names), told
        await until(lambda: len(self.authority.token_requests) >= asked + len(names), 15)

    def answered_late(self, record: TokenRequest) -> bool:
        """Whether a kill may have come between this request and its answer."""
        margin = self.authority.options.latency + _IN_FLIGHT
        return any(at - margin <= record.monotonic <= at + 0.1 for at in self.kills)

    @property
    def unheard(self) -> set[str]:
        """Grants whose token was spent by a request whose answer may never have reached us."""
        families = {
            record.family
            for record in list(self.authority.token_requests)
            if record.processed and (record.fault in LOSING or self.answered_late(record))
        }
        return {grant for grant, family in self.family.items() if family in families}

    async def in_flight(self) -> None:
        """Wait until a request is under way."""
        with contextlib.suppress(AssertionError):
            await until(self._asked, 3, 0.005)

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
        settings = await asyncio.to_thread(settings_source.load, self.replicas[0].process.folder / "broker.toml")
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


@contextlib.asynccontextmanager
async def world(plan: Plan, name: str, *, grace: bool, replicas: int, proxied: bool) -> AsyncIterator[World]:
    """All fresh at its begin; nothing is left behind at its end."""
    folder = Path(tempfile.mkdtemp(prefix="tb-faults-"))
    store = StoreServer(folder / "store")
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(partial(shutil.rmtree, folder, ignore_errors=True))
        sandbox = await stack.enter_async_context(Sandbox(access_lifetime=plan.life))
        store.begin()
        stack.callback(store.kill)
        proxies = [await stack.enter_async_context(RedisProxy(store.port)) for _ in range(replicas if proxied else 0)]
        made = World(plan, grace, random.Random(f"{plan.seed} {name}"), sandbox, store, proxies)

        async def end() -> None:
            closing: list[Awaitable[None]] = [replica.close(sandbox.secrets()) for replica in made.replicas]
            failed = [error for error in await asyncio.gather(*closing, return_exceptions=True) if error]
            if failed:
                raise failed[0]

        stack.push_async_callback(end)
        await made.begin(folder, replicas)
        yield made
