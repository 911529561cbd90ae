"""Keeps the cache current: one subscription, and a re-read of everything after every gap in it.

A message is a hint that a grant changed; what is served is always read from the store, sealed and authentic.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import structlog

from broker.errors import StoreUnavailable
from broker.process.tasks import unless
from broker.token_answer import json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.process.heartbeat import Heartbeat
    from broker.process.metrics import Metrics
    from broker.read.cache import Cache
    from broker.store import Store

log = structlog.get_logger()
_BATCH = 200
_RECONNECT = 0.5
_BAD_NEWS = (b'"refresh_failing"', b'"reauthorization_required"')
_OVERDUE_MS = 3_000
_REVALIDATE = 3.0
"""Seconds between two looks for what is overdue."""


class Follower:
    """Follows the store for the grants in the cache."""

    def __init__(
        self,
        store: Store,
        cache: Cache,
        metrics: Metrics,
        heartbeat: Heartbeat,
        *,
        namespace: str,
        ailing: Callable[[str], None],
    ) -> None:
        """*ailing* is told each grant of which something bad is heard."""
        self._store = store
        self._cache = cache
        self._metrics = metrics
        self._heartbeat = heartbeat
        self._pattern = f"{namespace}:tokens:*"
        self._prefix = len(self._pattern) - 1
        self._ailing = ailing
        self.connected = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until *stopping*; a lost connection is found again."""
        while not stopping.is_set():
            self._heartbeat.signal()
            try:
                await unless(stopping, self.follow())
            except StoreUnavailable as error:
                if self.connected:
                    log.warning("subscription.lost", error=str(error))
                    self._metrics.subscription_gaps.inc()
                self.connected = False
            try:
                await asyncio.wait_for(stopping.wait(), _RECONNECT)
            except TimeoutError:
                pass

    async def follow(self) -> None:
        """One subscription: subscribe, re-read what may have been missed, then listen until it breaks."""
        async with self._store.primary.subscription(self._pattern) as subscription:
            await self.reread(self._cache.ids())
            self.connected = True
            looked = time.monotonic()
            while True:
                self._heartbeat.signal()
                for channel, data in await subscription.hear():
                    self._heartbeat.signal()  # each may take a trip to a slow Redis
                    await self._heard(channel, data)
                if time.monotonic() > looked + _REVALIDATE:
                    looked = time.monotonic()
                    await self._revalidate()

    async def warm(self) -> None:
        """Load what the settings want in memory before anybody asks."""
        try:
            for provider in await self._store.grants.known_providers():
                await self.reread([gid for gid in await self._store.grants.ids(provider) if self._cache.wanted(gid)])
        except StoreUnavailable as error:
            log.warning("cache.cold", error=str(error))

    async def _heard(self, channel: bytes, data: bytes) -> None:
        grant_id = channel[self._prefix :].decode("utf-8", "replace")
        if any(event in data for event in _BAD_NEWS):
            self._ailing(grant_id)
        if not self._cache.wanted(grant_id):
            return
        try:
            told = json_value(data)
            store_id, generation = told["store"], int(told["generation"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):  # nobody of ours wrote that
            return
        if store_id != self._store.store_id:  # another store with our namespace on the same server
            return
        held = self._cache.get(grant_id)
        if held is None or held.generation != generation or told.get("event") == "revoked":
            await self.reread([grant_id])
        else:
            self._cache.wake(grant_id)

    async def reread(self, grant_ids: Sequence[str]) -> None:
        """Take over what the store holds for these grants now. Raises `StoreUnavailable`, also where it is not ours."""
        for start in range(0, len(grant_ids), _BATCH):
            batch = grant_ids[start : start + _BATCH]
            grants = await self._store.grants.get_many(batch)
            for grant_id, grant in zip(batch, grants, strict=True):
                if grant is None or grant.token is None:
                    self._cache.evict(grant_id)
                    if grant is not None and grant.unreadable:
                        log.error("grant.unreadable", grant_id=grant_id)
                elif not self._cache.put(grant.token):
                    log.debug("cache.newer", grant_id=grant_id)
                self._cache.wake(grant_id)

    async def _revalidate(self) -> None:
        """Read again what should have been refreshed by now and of which nothing was heard."""
        now = self._store.clock()
        overdue = [t.grant_id for t in self._cache.tokens() if t.refresh_at + _OVERDUE_MS < now]
        await self.reread(random.sample(overdue, min(len(overdue), _BATCH)))
