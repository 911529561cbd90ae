"""The whole daemon, wired: read this first.

`serve` builds the write path, the read path and the API, and runs loops beside the listeners. One that ends ends it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from broker.api.cached_responses import CachedResponses
from broker.api.context import Context
from broker.api.denials import Denials
from broker.api.entry import page_entry
from broker.api.exposition import Exposition
from broker.api.health import Health, Watched
from broker.api.hosts import Hosts
from broker.api.listeners import listening
from broker.api.server import SHUTDOWN
from broker.api.turns import Turns
from broker.api.verdict import Verdicts
from broker.journal.replay import Replay
from broker.login.held import HeldLogins
from broker.login.login import Login
from broker.login.logout import Logout
from broker.login.recorder import LoginRecorder
from broker.process.data_dir import prepare
from broker.process.garbage import collect_less
from broker.process.heartbeat import Heartbeat
from broker.process.systemd import Systemd
from broker.process.tasks import finishing, supervised
from broker.providers import Endpoint
from broker.read import Follower, Reader
from broker.refresh.history import HistoryRecorder
from broker.refresh.recorder import RECORD_LIMIT, Recorder
from broker.refresh.refresher import Refresher
from broker.refresh.scheduler import Lane, Scheduler
from broker.reload import Reload, name_all_waiting_grants
from broker.startup import adopt, identify, open_base
from broker.store.index_walk import IndexWalk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from broker.process.signals import Signals
    from broker.settings import Settings
    from broker.startup import Base

log = structlog.get_logger()
_CLOSING = 15.0
"""Seconds that a stop may take on top: calls to Redis that time out, and an embedded store's last write."""


async def serve(settings: Settings, signals: Signals, *, reload: Callable[[], Settings] | None = None) -> None:
    """Run a broker until *signals* say stop.

    Args:
        settings: Everything that is configured.
        signals: Stop the broker and make it read its settings again.
        reload: Reads the settings as they are now; None: they are never read again.

    Raises:
        InvalidSettings: the broker cannot run with these settings.
        ExceptionGroup: a loop died.
    """
    systemd = Systemd.from_environment() if signals.of_process else Systemd()
    prepare(settings.data_dir, locking=settings.refresh.journal or settings.redis.url.startswith("embedded:"))
    async with open_base(settings) as base:
        broker = _build(base, signals.stopping, reload, systemd)
        health = broker.api.health
        signals.listen(broker.reload.on_signal)
        async with (
            finishing(settings.refresh.request_timeout.total_seconds() + RECORD_LIMIT),
            listening(broker.api) as addresses,
            systemd.watching(lambda: health.stopping or health.alive, health.summary),
        ):
            log.info(
                "broker.listening",
                addresses=addresses,
                data_dir=str(settings.data_dir),
                max_connections=broker.api.connections.limit,
            )
            log.info("status_page.ready", **page_entry(settings, base.callers, addresses))
            if not await _started(broker, base, signals.stopping):
                return
            systemd.ready(health.summary())
            async with _running(broker, signals.stopping):
                await signals.stopping.wait()
                health.stopping = True
                log.info("broker.stopping")
                systemd.stopping(health.summary(), stop_limit(settings) + _CLOSING)
                if not signals.hurried:
                    await asyncio.sleep(settings.http.drain_delay.total_seconds())
    log.info("broker.stopped")


@dataclass(frozen=True, slots=True)
class _Broker:
    """What runs: the loops, their heartbeats, and what requests reach."""

    base: Base
    scheduler: Scheduler
    follower: Follower
    history: HistoryRecorder
    index: IndexWalk
    heartbeats: Callable[[], Sequence[Heartbeat]]
    reload: Reload
    api: Context


def _build(base: Base, stopping: asyncio.Event, read: Callable[[], Settings] | None, systemd: Systemd) -> _Broker:
    """Build the write path, the read path and the API."""
    of_follower, of_history, of_logins = Heartbeat("follower"), Heartbeat("history"), Heartbeat("held logins")
    index = IndexWalk(base.store, of_index := Heartbeat("index"))
    watches = (base.lost_grants.heartbeat, base.clock_watch.heartbeat, *base.notifier.heartbeats)
    others = (of_follower, of_history, of_logins, of_index, of_verdict := Heartbeat("verdict"), *watches)
    history = HistoryRecorder(base.store, of_history, base.providers.endpoints, base.cache.changes.note_all)
    scheduler = _build_scheduler(base, history, stopping)
    follower = Follower(
        base.store,
        base.cache,
        base.metrics,
        of_follower,
        namespace=base.settings.redis.namespace,
        report=base.notifier.check_soon,
    )

    def heartbeats() -> Sequence[Heartbeat]:
        return (*base.providers.heartbeats, *others)

    base.callers.on_replace = base.cache.wake_all
    watched = Watched(
        store=base.store,
        journal=base.journal,
        cache=base.cache,
        connections=base.connections,
        heartbeats=heartbeats,
        providers=base.providers.endpoints,
        audit=base.audit,
        lost=base.lost_grants,
    )
    health = Health(watched)
    reload = Reload(
        read,
        base.settings,
        providers=base.providers,
        make_endpoint=base.make_endpoint,
        callers=base.callers,
        store=base.store,
        health=health,
        systemd=systemd,
        audit=base.audit,
    )
    api = _build_api(base, scheduler, Verdicts(watched, health, of_verdict), reload, of_logins)
    return _Broker(base, scheduler, follower, history, index, heartbeats=heartbeats, reload=reload, api=api)


def _build_scheduler(base: Base, history: HistoryRecorder, stopping: asyncio.Event) -> Scheduler:
    """Build the write path: a lane for each provider, and what they share."""
    refresh = base.settings.refresh
    refresher = Refresher(
        base.store,
        cache=base.cache,
        recorder=Recorder(base.store, base.journal, notice=base.settings.pubsub.publish == "notice", stopping=stopping),
        history=history,
        metrics=base.metrics,
        request_timeout=refresh.request_timeout.total_seconds(),
        audit=base.audit,
    )
    scheduler, replay = Scheduler(base.store.schedule), Replay(base.store, base.journal)

    def make_lane(endpoint: Endpoint, heartbeat: Heartbeat) -> Lane:
        return Lane(
            endpoint,
            base.store,
            refresher=refresher,
            replay=replay,
            journal=base.journal,
            heartbeat=heartbeat,
            read_activity=base.read_activity,
            concurrency=refresh.concurrency,
            lease_ms=_ms(refresh.lease),
        )

    base.providers.start_lanes(scheduler, make_lane)
    return scheduler


def _build_api(base: Base, scheduler: Scheduler, verdicts: Verdicts, reload: Reload, of_logins: Heartbeat) -> Context:
    """Build what requests reach."""
    settings, store, cache, providers = base.settings, base.store, base.cache, base.providers.endpoints
    return Context(
        settings=settings,
        store=store,
        reader=_build_reader(base, scheduler),
        endpoints=providers,
        login=_build_login(base, scheduler, of_logins),
        logout=_build_logout(base),
        callers=base.callers,
        hosts=Hosts(settings.http),
        responses=CachedResponses(store.clock),
        health=verdicts.health,
        verdicts=verdicts,
        metrics=base.metrics,
        scheduler=scheduler,
        notifier=base.notifier,
        exposition=Exposition(
            store=store,
            journal=base.journal,
            cache=cache,
            metrics=base.metrics,
            connections=base.connections,
            notifier=base.notifier,
            audit=base.audit,
            lost=base.lost_grants,
            providers=providers,
            max_grants=settings.metrics.max_grants,
        ),
        connections=base.connections,
        denials=Denials(base.metrics, base.audit),
        audit=base.audit,
        read_activity=base.read_activity,
        turns=Turns(base.read_activity),
        reload=reload,
    )


def _build_reader(base: Base, scheduler: Scheduler) -> Reader:
    return Reader(
        base.store,
        base.cache,
        scheduler,
        base.metrics,
        public_url=base.settings.http.public_url,
        page_url=base.settings.status_page_url,
        min_interval_ms=_ms(base.settings.refresh.min_interval),
        report_budget=base.settings.refresh.report_budget,
        recover=base.lost_grants.recover,
    )


def _build_login(base: Base, scheduler: Scheduler, heartbeat: Heartbeat) -> Login:
    notice, timeout = base.settings.pubsub.publish == "notice", base.settings.refresh.request_timeout.total_seconds()
    endpoints = base.providers.endpoints
    recorder = LoginRecorder(base.store, base.journal, cache=base.cache, scheduler=scheduler, notice=notice)
    held = HeldLogins(base.store, endpoints, recorder, heartbeat, request_timeout=timeout)
    return Login(base.store, endpoints, held, redirect_uri=base.settings.redirect_uri, request_timeout=timeout)


def _build_logout(base: Base) -> Logout:
    timeout, lease_ms = base.settings.refresh.request_timeout.total_seconds(), _ms(base.settings.refresh.lease)
    return Logout(
        base.store, base.providers.endpoints, base.journal, base.cache, request_timeout=timeout, lease_ms=lease_ms
    )


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


async def _started(broker: _Broker, base: Base, stopping: asyncio.Event) -> bool:
    """Wait for Redis, adopt the journals of brokers that are gone, and warm the cache.

    Returns:
        Whether the broker may run; False when it was stopped first.
    """
    store, health = base.store, broker.api.health
    if not await identify(store, health, broker.heartbeats, stopping=stopping, data_dir=base.settings.data_dir):
        return False
    if base.journal is not None and not await adopt(base.journal, store, broker.heartbeats, stopping):
        return False
    await broker.follower.warm()
    await name_all_waiting_grants(store, base.providers.endpoints)
    health.started = True
    collect_less()
    names = list(base.providers.endpoints)
    log.info("broker.started", store=store.store_id, replica=store.schedule.replica, providers=names)
    return True


@asynccontextmanager
async def _running(broker: _Broker, stopping: asyncio.Event) -> AsyncIterator[None]:
    """Run the loops as long as the body lasts. The scheduler drains when *stopping*; the others run to the end."""
    ending = asyncio.Event()
    async with asyncio.TaskGroup() as loops:
        loops.create_task(supervised(broker.scheduler.run, stopping), name="scheduler")
        loops.create_task(supervised(broker.follower.run, ending), name="follower")
        loops.create_task(supervised(broker.history.run, ending), name="history")
        loops.create_task(supervised(broker.api.verdicts.run, ending), name="verdict")
        loops.create_task(supervised(broker.base.notifier.run, stopping), name="notices")
        loops.create_task(supervised(broker.base.lost_grants.run, stopping), name="lost grants")
        loops.create_task(supervised(broker.base.clock_watch.run, stopping), name="clock")
        loops.create_task(supervised(broker.index.run, stopping), name="index")
        loops.create_task(supervised(broker.api.login.held.run, stopping), name="held logins")
        try:
            yield
        finally:
            ending.set()
    await broker.history.flush()  # what the scheduler finished last


def stop_limit(settings: Settings) -> float:
    """Return the seconds from SIGTERM until the last answer is recorded and the listeners are closed, at most."""
    return (settings.http.drain_delay + settings.refresh.request_timeout).total_seconds() + RECORD_LIMIT + SHUTDOWN
