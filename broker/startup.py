"""What a broker opens, and what it waits for before its loops run: Redis, whose data it holds, and old journals.

The waits go on signalling every heartbeat: a broker that waits for Redis is alive.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from broker.api.callers import Callers
from broker.api.connections import Connections
from broker.api.health import Health
from broker.errors import StoreUnavailable
from broker.journal.journal import Journal
from broker.journal.lost import LostGrants
from broker.notify import open_notifier
from broker.process.audit_file import open_audit
from broker.process.data_dir import known_store, redis_passwords, remember_store, sealing_keys
from broker.process.heartbeat import Heartbeat
from broker.process.metrics import Metrics
from broker.providers import Endpoint, open_http
from broker.providers.client_secret import require_secrets
from broker.providers.proxy import Proxy, ignored_variables, require_proxies
from broker.read import Cache
from broker.read.activity import ReadActivity
from broker.read.cache import any_of
from broker.refresh.clock_watch import ClockWatch
from broker.refresh.provider_set import ProviderSet
from broker.secret import Sealer
from broker.settings import LEASE_MARGIN
from broker.store import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from broker.api.health import Health
    from broker.notify import Notifier
    from broker.process.audit_file import AuditFile
    from broker.refresh.provider_set import MakeEndpoint
    from broker.settings import Provider, Settings
    from broker.store import Store

log = structlog.get_logger()
_PAUSE = 0.5
"""Seconds between two tries to reach Redis."""


@dataclass(frozen=True, slots=True)
class Base:
    """What everything else is built on: opened first, closed last."""

    settings: Settings
    callers: Callers
    metrics: Metrics
    audit: AuditFile | None
    store: Store
    providers: ProviderSet
    journal: Journal | None
    notifier: Notifier
    cache: Cache
    connections: Connections
    lost_grants: LostGrants
    clock_watch: ClockWatch
    read_activity: ReadActivity
    make_endpoint: MakeEndpoint


@asynccontextmanager
async def open_base(settings: Settings) -> AsyncIterator[Base]:
    """Open the store, the HTTP client, the journal and the notifier; none of them waits for Redis."""
    refresh = settings.refresh
    sealer = Sealer(sealing_keys(settings))
    require_secrets(settings.providers)
    require_proxies(settings)
    if ignored := ignored_variables(settings):
        log.warning("proxy.ignored", variables=ignored)
    callers = Callers.load(settings.callers, settings.data_dir)
    metrics = Metrics()
    providers = ProviderSet(metrics)
    connections = Connections.from_settings(settings.http, metrics)
    async with (
        open_audit(settings.audit, metrics.audit_lost.inc) as audit,
        open_store(
            settings.redis,
            sealer,
            data_dir=settings.data_dir,
            **redis_passwords(settings),
            hold_off=refresh.request_timeout + LEASE_MARGIN,
            old_tokens=providers.old_tokens,
        ) as store,
        open_http(refresh.request_timeout.total_seconds()) as http,
        _open_journal(settings, sealer, store) as journal,
        open_notifier(
            settings.notify,
            settings.outgoing,
            store,
            providers.limits,
            metrics,
            page=settings.status_page_url,
        ) as notifier,
    ):

        def make_endpoint(name: str, provider: Provider) -> Endpoint:
            proxy = Proxy.from_settings(f"providers.{name}", provider, settings.outgoing)
            through = http.through(proxy)
            return Endpoint.from_settings(name, provider, through, clock=store.clock, window=refresh.window)

        providers.replace(settings.providers, make_endpoint)
        max_entries, warm = settings.cache.max_entries, any_of(settings.cache.warm)
        cache = Cache(max_entries, warm, max_waiting=connections.may_wait, offset_of=store.clock.offset_of)
        store.clock.listeners.append(cache.rewind)
        yield Base(
            settings=settings,
            callers=callers,
            metrics=metrics,
            audit=audit,
            store=store,
            providers=providers,
            make_endpoint=make_endpoint,
            journal=journal,
            notifier=notifier,
            cache=cache,
            connections=connections,
            lost_grants=LostGrants(store, journal, Heartbeat("lost grants"), providers.endpoints),
            clock_watch=ClockWatch(
                store, Heartbeat("clock"), providers.endpoints, lease_ms=refresh.lease // timedelta(milliseconds=1)
            ),
            read_activity=ReadActivity(),
        )


@asynccontextmanager
async def _open_journal(settings: Settings, sealer: Sealer, store: Store) -> AsyncIterator[Journal | None]:
    if not settings.refresh.journal:
        hint = "an answer that Redis loses is lost: refresh.journal = true writes it down first"
        log.warning("journal.off", hint=hint)
        yield None
        return
    journal = await Journal.open(settings.data_dir / "journal", sealer, store.clock, store.schedule.life)
    try:
        yield journal
    finally:
        await journal.close()


async def identify(
    store: Store,
    health: Health,
    heartbeats: Callable[[], Sequence[Heartbeat]],
    *,
    stopping: asyncio.Event,
    data_dir: Path,
) -> bool:
    """Wait for Redis and learn whose data it holds; return False when stopped before it answered.

    *data_dir* remembers which store this broker knows: an empty server in its place is not a new beginning.
    """
    warned = False
    known = known_store(data_dir)
    while not stopping.is_set():
        for heartbeat in heartbeats():
            heartbeat.signal()
        try:
            await store.identify(known)
            await store.clock_steps.agree()
            if known is None:
                remember_store(data_dir, store.store_id)
        except StoreUnavailable as error:
            health.wait_for(error)
            if not warned:
                log.error("store.waiting", error=str(error), hint=f"{error.cure}; waiting for it")
            warned = True
        else:
            return True
        try:
            await asyncio.wait_for(stopping.wait(), _PAUSE)
        except TimeoutError:
            pass
    return False


async def adopt(
    journal: Journal, store: Store, heartbeats: Callable[[], Sequence[Heartbeat]], stopping: asyncio.Event
) -> bool:
    """Adopt the journals of brokers that are gone; the first claim replays them. Return False when stopped first."""
    adopting = asyncio.create_task(journal.adopt(store.registry.reseal_record))
    while not (await asyncio.wait({adopting}, timeout=_PAUSE))[0] and not stopping.is_set():
        for heartbeat in heartbeats():
            heartbeat.signal()
    if adopting.done():
        adopting.result()
    return adopting.done()
