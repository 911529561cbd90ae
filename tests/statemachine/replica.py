"""A replica's whole write path in this process; its line to the store is cut, loses replies, and may end it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from unittest import mock

from broker.errors import StoreUnavailable
from broker.journal.journal import Journal
from broker.journal.replay import Replay
from broker.login.logout import Logout
from broker.login.recorder import LoginRecorder
from broker.model import Answered
from broker.process.heartbeat import Heartbeat
from broker.process.metrics import Metrics
from broker.providers import Endpoint, token_response
from broker.read import Cache
from broker.read.activity import ReadActivity
from broker.refresh.history import HistoryRecorder
from broker.refresh.recorder import Recorder
from broker.refresh.refresher import Refresher
from broker.refresh.scheduler import Lane, Scheduler
from broker.secret import Sealer
from broker.settings import Provider, Redis
from broker.store import Store, opening
from broker.store.redis.primary import Primary
from tests.statemachine.in_process_sandbox import Link, Request, Server
from tests.waiting import until

LEASE_MS = 60_000
OWNER: contextvars.ContextVar[str] = contextvars.ContextVar("owner", default="")
_owners: weakref.WeakKeyDictionary[asyncio.Task[Any], str] = weakref.WeakKeyDictionary()


def owned(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """Make a task, and remember on behalf of which replica: a task factory."""
    task = asyncio.Task(work, loop=loop, **options)
    _owners[task] = OWNER.get()
    return task


class Line(Primary):
    """A replica's way to the store. *fates* says what happens at a script's call, before it or after it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.mended = asyncio.Event()
        self.mended.set()
        self.died = asyncio.Event()
        self._limbo: list[asyncio.Future[None]] = []
        self.held_up = 0
        self.fates: dict[tuple[str, str], str] = {}

    async def call(self, *command: Any) -> Any:
        return await self._through("", lambda: super(Line, self).call(*command))

    async def pipeline(self, commands: Any) -> list[Any]:
        replies: list[Any] = await self._through("", lambda: super(Line, self).pipeline(commands))
        return replies

    async def run(self, script: Any, keys: Any, args: Any) -> Any:
        return await self._through(script.verb, lambda: super(Line, self).run(script, keys, args))

    async def run_each(self, script: Any, calls: Any) -> list[Any]:
        work = super().run_each
        return cast("list[Any]", await self._through(script.verb, lambda: work(script, calls)))

    async def run_durably(self, script: Any, calls: Any, *, replicas: int) -> tuple[list[Any], bool]:
        work = super().run_durably
        done = await self._through(script.verb, lambda: work(script, calls, replicas=replicas))
        return cast("tuple[list[Any], bool]", done)

    async def _through(self, verb: str, send: Callable[[], Awaitable[Any]]) -> Any:
        if not self.mended.is_set():
            if verb not in {"claim", "release"}:  # writes hang until they time out
                self.held_up += 1
                await self.mended.wait()
            raise StoreUnavailable("Redis: cut off")
        await self._meet(verb, "before")
        reply = await send()
        await self._meet(verb, "after")
        return reply

    async def _meet(self, verb: str, when: str) -> None:
        fate = self.fates.pop((verb, when), "")
        if fate == "lost":
            raise StoreUnavailable("Redis: did not answer in time")
        if fate == "killed":
            self.died.set()
            self._limbo.append(asyncio.get_running_loop().create_future())
            await self._limbo[-1]


class Tasks:
    """Stands where the scheduler's task group stands."""

    def __init__(self) -> None:
        self.all: list[asyncio.Task[Any]] = []

    def create_task(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        self.all.append(asyncio.create_task(work, name=name))
        return self.all[-1]

    def under_way(self) -> int:
        """How many go on; what one of the others raised is raised here."""
        for task in [task for task in self.all if task.done()]:
            self.all.remove(task)
            task.result()
        return len(self.all)


class Replica:
    """One replica with a data directory of its own, that is killed and started again on it."""

    def __init__(
        self,
        name: str,
        folder: Path,
        redis: Redis,
        sealer: Sealer,
        servers: dict[str, Server],
        reachable: Callable[[], frozenset[str]],
    ) -> None:
        self.name = name
        self.up = False
        self.replayed = False
        """Whether the store has heard it out since it was started, mended, or the store went back."""
        self.line: Line
        self.store: Store
        self.journal: Journal
        self.lanes: dict[str, Lane] = {}
        self._folder = folder
        self._redis = redis
        self._sealer = sealer
        self._servers = servers
        self._link = Link(name, servers, reachable)
        self._tasks = Tasks()

    @property
    def cut(self) -> bool:
        return self.up and not self.line.mended.is_set()

    @property
    def connected(self) -> bool:
        return self.up and not self.cut

    async def start(self) -> None:
        """Start it on what its last life left behind."""
        self._stack = contextlib.AsyncExitStack()
        self._tasks = Tasks()
        token = OWNER.set(self.name)
        try:
            hold_off = timedelta(milliseconds=1)  # the machine lets it pass by having everybody heard out
            with mock.patch.object(opening, "Primary", Line):
                opened = opening.open_store(self._redis, self._sealer, data_dir=self._folder, hold_off=hold_off)
                self.store = await self._stack.enter_async_context(opened)
            self.line = cast("Line", self.store.primary)
            await self.store.identify()
            self.journal = await Journal.open(
                self._folder / "journal", self._sealer, self.store.clock, self.store.schedule.life
            )
            await self.journal.adopt()
            self._wire()
        finally:
            OWNER.reset(token)
        self.up, self.replayed = True, False

    def _wire(self) -> None:
        http, store = cast("Any", self._link), self.store
        endpoints = {
            name: Endpoint.from_settings(name, _registration(name, server), http, clock=store.clock)
            for name, server in self._servers.items()
        }
        metrics, cache = Metrics(), Cache(100)
        recorder = Recorder(store, self.journal, notice=False, stopping=asyncio.Event())
        refresher = Refresher(
            store,
            cache=cache,
            recorder=recorder,
            history=HistoryRecorder(store, Heartbeat("history"), {}),
            metrics=metrics,
            request_timeout=10,
        )
        replay = Replay(store, self.journal)
        self.lanes = {
            name: Lane(
                endpoint,
                store,
                refresher=refresher,
                replay=replay,
                journal=self.journal,
                heartbeat=Heartbeat(name),
                read_activity=ReadActivity(),
                concurrency=8,
                lease_ms=LEASE_MS,
            )
            for name, endpoint in endpoints.items()
        }
        self._endpoints = endpoints
        self._login_recorder = LoginRecorder(
            store, self.journal, cache=cache, scheduler=Scheduler(store.schedule), notice=False
        )
        self._logout = Logout(store, endpoints, self.journal, cache, request_timeout=1, lease_ms=LEASE_MS)

    async def kill(self) -> None:
        """End the replica at once: nothing of it runs on, its file is released, its connections close."""
        self.up = self.replayed = False
        mine = [task for task in asyncio.all_tasks() if _owners.get(task) == self.name]
        for task in mine:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)
        self.journal._file.close()
        await self._stack.aclose()

    async def claim(self, provider: str, n: int) -> None:
        """Run one step of a lane with *n* slots free; 0: it only replays. Refreshes that begin go on."""
        await self._do(self.lanes[provider]._claim(n, cast("Any", self._tasks)))
        if self.connected and self.lanes[provider]._store_lost is False:
            self.replayed = True
        await self.rest()

    async def step(self) -> None:
        """Run a step of every lane, twice: after a lost reply or a fence a lane needs a second claim."""
        for provider in self.lanes:
            await self.claim(provider, 0)
            await self.claim(provider, 0)

    async def log_in(self, grant: str, provider: str, body: dict[str, Any]) -> None:
        """Admit what a browser's login brought."""
        endpoint, raw = self._endpoints[provider], json.dumps(body).encode()
        read = token_response.read(200, {}, raw, dialect=endpoint.dialect, now=self.store.clock(), sent=())
        assert isinstance(read, Answered)
        await self._do(self._login_recorder.record(grant, read.answer, endpoint.dialect))

    async def log_out(self, grant: str) -> None:
        """Revoke and forget."""
        await self._do(self._logout.log_out(grant))

    async def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run *work* to its end, or to that of the replica."""
        token = OWNER.set(self.name)
        task = asyncio.create_task(work)
        OWNER.reset(token)
        death = asyncio.create_task(self.line.died.wait())
        await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        return task.result() if task.done() else None

    async def respond(self, request: Request, kind: str) -> None:
        """Answer *request*, which this replica sent, and wait until the answer is recorded."""
        before, held_up = self._tasks.under_way(), self._held_up()
        request.server.respond(request, kind)
        if self.cut:  # the answer is in the journal before the store gets it
            await until(lambda: self._tasks.under_way() < before or self._held_up() > held_up, 10, 0.001)
        await self.rest()

    async def rest(self) -> None:
        """Wait until nothing goes on but requests that wait for their answers, and what a cut line holds up."""
        if self.connected:
            await until(lambda: self.line.died.is_set() or self._tasks.under_way() <= self._waiting(), 10, 0.001)

    def _held_up(self) -> int:
        return self.line.held_up + len(self.store.schedule._commits._waiting)

    def _waiting(self) -> int:
        return sum(request.sender == self.name for server in self._servers.values() for request in server.requests)


def _registration(name: str, server: Server) -> Provider:
    return Provider(
        kind="oauth2",
        client_id="c",
        token_endpoint=f"https://{name}.test/token",
        revocation_endpoint=f"https://{name}.test/revoke",
        reuse_grace=timedelta(seconds=server.grace),
    )
