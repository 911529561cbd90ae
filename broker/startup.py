"""What a broker waits for before its loops run: Redis and whose data it holds, and the journals that it adopts.

Both go on signalling every heartbeat: a broker that waits for Redis is alive.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from broker.errors import StoreUnavailable
from broker.process.data_dir import known_store, remember_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from broker.api.health import Health
    from broker.journal.journal import Journal
    from broker.process.heartbeat import Heartbeat
    from broker.store import Store

log = structlog.get_logger()
_PAUSE = 0.5
"""Seconds between two tries to reach Redis."""


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
