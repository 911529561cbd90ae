"""The whole daemon, wired: read this first.

Opens the store, the HTTP client and the listeners, then runs loops beside them: the scheduler (the write path), the
follower (the read path's memory), the tally (the providers' history) and the desk (who tells people). A loop that ends
unexpectedly ends the process.
"""

from __future__ import annotations

import asyncio
import fnmatch
import gc
import re
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from broker.api import Answers, Api, Callers, Health, Hosts
from broker.api.connections import Connections
from broker.api.listeners import SHUTDOWN, listening
from broker.api.routes.metrics import Scrape
from broker.errors import InvalidSettings, StoreUnavailable
from broker.journal.journal import Journal
from broker.journal.replay import Replay
from broker.login.login import Login
from broker.login.logout import Logout
from broker.login.recorder import LoginRecorder
from broker.notify import Limits, open_desk
from broker.process import logs
from broker.process.data_dir import known_store, prepare, redis_password, remember_store, sealing_keys
from broker.process.heartbeat import Heartbeat
from broker.process.metrics import Metrics
from broker.process.systemd import Systemd
from broker.process.tasks import finishing
from broker.providers import Dialect, Endpoint, open_http
from broker.read import Cache, Follower, Reader
from broker.read.activity import ReadActivity
from broker.refresh.history import HistoryRecorder
from broker.refresh.recorder import RECORD_LIMIT, Recorder
from broker.refresh.refresher import Refresher
from broker.refresh.scheduler import Lane, Scheduler
from broker.secret import Sealer
from broker.settings import LEASE_MARGIN
from broker.store import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from broker.notify import Notifier
    from broker.settings import Settings
    from broker.store import Store

log = structlog.get_logger()
_IDENTIFY_PAUSE = 0.5
GC_AFTER = 10_000
"""Objects that are made and not yet gone before cycles are looked for: a burst of refreshes makes few, and by the
default of 700 every seventh refresh would pay for a look."""
_CLOSING = 15.0
"""Seconds a stop may take on top: calls to Redis that time out, and an embedded store's last write."""


@dataclass(slots=True)
class Signals:
    """How the process is told to end, and to read its settings again."""

    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    hurried: bool = False
    """Ctrl-C on a terminal: nobody needs a drain delay there."""
    of_process: bool = True
    """Whether the process's signals are ours to take: not so where a broker is a guest in another program."""

    def listen(self, reload: Callable[[], None]) -> None:
        """Take SIGTERM and SIGINT as the word to stop, SIGHUP as the word to reload."""
        if not self.of_process:
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        loop.add_signal_handler(signal.SIGHUP, reload)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.hurried = sys.stdin is not None and sys.stdin.isatty()
        self.stopping.set()


async def serve(settings: Settings, signals: Signals, *, reload: Callable[[], Settings] | None = None) -> None:
    """Run a broker until *signals* say stop. Raises `InvalidSettings`, or an `ExceptionGroup` when a loop died."""
    refresh, stopping = settings.refresh, signals.stopping
    supervisor = Systemd.of_process() if signals.of_process else Systemd()
    prepare(settings.data_dir, locking=refresh.journal or settings.redis.url.startswith("embedded:"))
    sealer = Sealer(sealing_keys(settings))
    callers = Callers.load(settings.callers, settings.data_dir)
    metrics = Metrics(settings.providers)
    timeout = refresh.request_timeout.total_seconds()
    lease_ms = int(refresh.lease.total_seconds() * 1000)
    notice = settings.pubsub.publish == "notice"
    dialects = {name: Dialect.of(name, provider) for name, provider in settings.providers.items()}

    async with (
        open_store(
            settings.redis,
            sealer,
            data_dir=settings.data_dir,
            password=redis_password(settings),
            hold_off=refresh.request_timeout + LEASE_MARGIN,
            old_tokens={name: dialect.old_token for name, dialect in dialects.items()},
        ) as store,
        open_http(timeout) as http,
        _journal(settings, sealer, store) as journal,
        open_desk(settings.notify, store, _limits(dialects), metrics) as desk,
    ):
        endpoints = {
            name: Endpoint.of(name, provider, http, clock=store.clock, window=refresh.window)
            for name, provider in settings.providers.items()
        }
        connections = Connections.of(settings.http, metrics)
        cache = Cache(settings.cache.max_entries, warm=_any_of(settings.cache.warm), max_waiting=connections.may_wait)
        recorder = Recorder(store, journal, notice=notice, stopping=stopping)
        hearts = [Heartbeat(f"lane {name}") for name in endpoints]
        listening_heart, pulse = Heartbeat("follower"), Heartbeat("history")
        tally = HistoryRecorder(store, pulse)
        refresher = Refresher(
            store,
            endpoints,
            cache=cache,
            recorder=recorder,
            history=tally,
            metrics=metrics,
            request_timeout=timeout,
        )
        replay, reads = Replay(store, journal), ReadActivity()
        scheduler = Scheduler(
            Lane(
                name,
                store,
                refresher=refresher,
                replay=replay,
                journal=journal,
                heartbeat=heart,
                read_activity=reads,
                concurrency=refresh.concurrency,
                lease_ms=lease_ms,
            )
            for name, heart in zip(endpoints, hearts, strict=True)
        )
        hearts += [listening_heart, pulse, *desk.hearts]
        follower = Follower(
            store, cache, metrics, listening_heart, namespace=settings.redis.namespace, ailing=desk.hint
        )
        reader = Reader(
            store,
            cache,
            scheduler,
            metrics,
            public_url=settings.http.public_url,
            page_url=settings.status_page_url,
            min_interval_ms=int(refresh.min_interval.total_seconds() * 1000),
            report_budget=refresh.report_budget,
        )
        health = Health(store, journal, hearts, list(endpoints), cache, connections)
        admission = LoginRecorder(store, journal, cache=cache, scheduler=scheduler, notice=notice)
        login = Login(store, endpoints, admission, redirect_uri=settings.redirect_uri, request_timeout=timeout)
        logout = Logout(store, endpoints, journal, cache, request_timeout=timeout, lease_ms=lease_ms)
        api = Api(
            settings,
            store,
            reader,
            endpoints,
            login,
            logout,
            callers,
            Hosts(settings.http),
            Answers(store.clock),
            health,
            metrics,
            scheduler.wake,
            desk,
            Scrape(
                store,
                journal,
                cache,
                metrics,
                connections,
                list(endpoints),
                desk.nearness,
                max_grants=settings.metrics.max_grants,
            ),
            connections,
            reads,
        )

        signals.listen(lambda: _reload(reload, api, supervisor))
        async with (
            finishing(timeout + RECORD_LIMIT),
            listening(api) as addresses,
            supervisor.watching(lambda: health.stopping or health.alive, health.in_a_line),
        ):
            log.info(
                "broker.listening",
                addresses=addresses,
                data_dir=str(settings.data_dir),
                max_connections=connections.limit,
            )
            if not await _identified(store, health, hearts, stopping, settings.data_dir):
                return
            if journal is not None and not await _adopted(journal, store, hearts, stopping):
                return
            await follower.warm()
            health.started = True
            _collect_less()
            log.info("broker.started", store=store.store_id, replica=store.schedule.replica, providers=list(endpoints))
            supervisor.ready(health.in_a_line())
            async with _running(scheduler, follower, tally, desk, stopping):
                await stopping.wait()
                health.stopping = True
                log.info("broker.stopping")
                supervisor.stopping(health.in_a_line(), stop_limit(settings) + _CLOSING)
                if not signals.hurried:
                    await asyncio.sleep(settings.http.drain_delay.total_seconds())
    log.info("broker.stopped")


def _collect_less() -> None:
    gc.collect()
    gc.freeze()  # what was made so far lives as long as the process: no collection need look at it again
    gc.set_threshold(GC_AFTER)


@asynccontextmanager
async def _running(
    scheduler: Scheduler, follower: Follower, tally: HistoryRecorder, desk: Notifier, stopping: asyncio.Event
) -> AsyncIterator[None]:
    """The loops, as long as the body lasts: the scheduler drains when *stopping*, the others go on to the end."""
    ending = asyncio.Event()
    async with asyncio.TaskGroup() as loops:
        loops.create_task(_supervised(scheduler.run, stopping), name="scheduler")
        loops.create_task(_supervised(follower.run, ending), name="follower")
        loops.create_task(_supervised(tally.run, ending), name="history")
        loops.create_task(_supervised(desk.run, stopping), name="notices")
        try:
            yield
        finally:
            ending.set()
    await tally.flush()  # what the scheduler finished last


async def _supervised(run: Callable[[asyncio.Event], object], until: asyncio.Event) -> None:
    """Run a loop; that it returns before it was told to is as much a fault as that it raises."""
    await run(until)  # type: ignore[misc]
    if not until.is_set():
        msg = f"{run.__qualname__} ended although nobody told it to"
        raise RuntimeError(msg)


@asynccontextmanager
async def _journal(settings: Settings, sealer: Sealer, store: Store) -> AsyncIterator[Journal | None]:
    if not settings.refresh.journal:
        log.warning(
            "journal.off", hint="an answer that Redis loses is lost: refresh.journal = true writes it down first"
        )
        yield None
        return
    journal = await Journal.open(settings.data_dir / "journal", sealer, store.clock, store.schedule.life)
    try:
        yield journal
    finally:
        await journal.close()


async def _identified(
    store: Store, health: Health, hearts: Sequence[Heartbeat], stopping: asyncio.Event, data_dir: Path
) -> bool:
    """Wait for Redis and learn whose data it holds; False when told to stop before it answered.

    *data_dir* remembers which store this broker knows: an empty server in its place is not a new beginning.
    """
    told = False
    known = known_store(data_dir)
    while not stopping.is_set():
        for heart in hearts:
            heart.signal()
        try:
            await store.identify(known)
            if known is None:
                remember_store(data_dir, store.store_id)
        except StoreUnavailable as error:
            health.waiting = str(error)
            if not told:
                log.error("store.waiting", error=str(error), hint="start Redis or mend redis.url; waiting for it")
            told = True
        else:
            return True
        try:
            await asyncio.wait_for(stopping.wait(), _IDENTIFY_PAUSE)
        except TimeoutError:
            pass
    return False


async def _adopted(journal: Journal, store: Store, hearts: Sequence[Heartbeat], stopping: asyncio.Event) -> bool:
    """Take over the journals of brokers that are gone; the first claim has them replayed. False when told to stop."""
    adopting = asyncio.create_task(journal.adopt(store.registry.reseal_record))
    while not (await asyncio.wait({adopting}, timeout=_IDENTIFY_PAUSE))[0] and not stopping.is_set():
        for heart in hearts:
            heart.signal()
    if adopting.done():
        adopting.result()
    return adopting.done()


def _reload(reload: Callable[[], Settings] | None, api: Api, supervisor: Systemd) -> None:
    """Take over callers and log level from the settings as they are now; everything else needs a restart."""
    if reload is None:
        return
    running = api.health.started and not api.health.stopping
    if running:
        supervisor.reloading()
    try:
        settings = reload()
        api.callers.replace(Callers.load(settings.callers, settings.data_dir))
        logs.set_up(settings.log)
    except InvalidSettings as error:
        log.error("settings.not_reloaded", findings=error.findings)
    else:
        log.info("settings.reloaded", callers=list(settings.callers), log_level=settings.log.level)
    if running:
        supervisor.ready(api.health.in_a_line())


def stop_limit(settings: Settings) -> float:
    """Seconds from SIGTERM until the last answer is written down and the listeners are closed, at most."""
    return (settings.http.drain_delay + settings.refresh.request_timeout).total_seconds() + RECORD_LIMIT + SHUTDOWN


def _limits(dialects: Mapping[str, Dialect]) -> dict[str, Limits]:
    return {name: Limits(dialect.absolute_limit_ms, dialect.idle_limit_ms) for name, dialect in dialects.items()}


def _any_of(patterns: Sequence[str]) -> Callable[[str], bool]:
    if not patterns:
        return lambda _: False
    match = re.compile("|".join(fnmatch.translate(p) for p in patterns)).fullmatch
    return lambda grant_id: match(grant_id) is not None
