"""Keep the cache current: one subscription, and a re-read of everything after every gap in it.

A message is a hint that a grant changed; what is served is always read from the store, sealed and authentic.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import structlog

from broker.errors import StoreUnavailable
from broker.process.tasks import run_until
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
_REFUSED = 2.0
"""Seconds between two tries to subscribe where Redis refuses it; before each, all that is cached is read again."""
_PROBLEMS = (b'"refresh_failing"', b'"reauthorization_required"')
_OVERDUE_MS = 3_000
_REVALIDATE = 3.0
"""Seconds between two searches for overdue refreshes."""


class Follower:
    """Follow the store for the grants in the cache."""

    def __init__(
        self,
        store: Store,
        cache: Cache,
        metrics: Metrics,
        heartbeat: Heartbeat,
        *,
        namespace: str,
        report: Callable[[str], None],
    ) -> None:
        """Wire the follower. *report* receives the id of each grant with a problem."""
        self._store = store
        self._cache = cache
        self._metrics = metrics
        self._heartbeat = heartbeat
        self._pattern = f"{namespace}:tokens:*"
        self._prefix = len(self._pattern) - 1
        self._report = report
        self.connected = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until *stopping* is set. While there is no subscription, read again all that is cached."""
        while not stopping.is_set():
            self._heartbeat.signal()
            try:
                await run_until(stopping, self.follow())
            except StoreUnavailable as error:
                await run_until(stopping, self._go_on_without(error))
            try:
                await asyncio.wait_for(stopping.wait(), _REFUSED if self._heartbeat.trouble else _RECONNECT)
            except TimeoutError:
                pass

    async def _go_on_without(self, error: StoreUnavailable) -> None:
        """Find other brokers' changes by reading again; if Redis lets nothing be heard, say so in its words, once."""
        if self.connected:  # a connection was lost, which is mostly there again at the next try
            self.connected = False
            self._cache.changes.note_all()
            self._metrics.subscription_gaps.inc()
            log.warning("subscription.lost", error=str(error))
            return
        try:
            await self._store.primary.call("TIME")
            await self.reread(self._cache.ids())
        except StoreUnavailable:  # a lane says that
            self._heartbeat.trouble = ""
            return
        if not self._heartbeat.trouble:
            log.warning("subscription.lost", error=str(error))
        self._heartbeat.trouble = (
            f"no subscription to other brokers' changes ({error}): reads all again every {_REFUSED:g} s"
        )

    async def follow(self) -> None:
        """Subscribe, re-read what may have been missed, then listen until the connection breaks."""
        async with self._store.primary.subscription(self._pattern) as subscription:
            await self.reread(self._cache.ids())
            self.connected, self._heartbeat.trouble = True, ""
            self._cache.changes.note_all()
            revalidated = time.monotonic()
            while True:
                self._heartbeat.signal()
                for channel, data in await subscription.receive():
                    self._heartbeat.signal()  # each may take a round trip to a slow Redis
                    await self._handle(channel, data)
                if time.monotonic() > revalidated + _REVALIDATE:
                    revalidated = time.monotonic()
                    await self._revalidate()

    async def warm(self) -> None:
        """Load the grants that the settings want in memory before anybody reads them."""
        try:
            for provider in await self._store.grants.known_providers():
                ids = await self._store.grants.ids(provider)
                await self.reread([grant_id for grant_id in ids if self._cache.is_wanted(grant_id)])
        except StoreUnavailable as error:
            log.warning("cache.cold", error=str(error))

    async def _handle(self, channel: bytes, data: bytes) -> None:
        grant_id = channel[self._prefix :].decode("utf-8", "replace")
        self._cache.changes.note(grant_id, data)
        if any(event in data for event in _PROBLEMS):
            self._report(grant_id)
        if not self._cache.is_wanted(grant_id):
            return
        try:
            message = json_value(data)
            store_id, generation = message["store"], int(message["generation"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):  # no broker published that
            return
        if store_id != self._store.store_id:  # another store with the same namespace on the same server
            return
        held = self._cache.get(grant_id)
        if held is None or held.generation != generation or message.get("event") == "revoked":
            await self.reread([grant_id])
        else:
            self._cache.wake(grant_id)

    async def reread(self, grant_ids: Sequence[str]) -> None:
        """Cache what the store holds for these grants now.

        Raises:
            StoreUnavailable: Redis cannot be reached, or the server there holds another store.
        """
        for start in range(0, len(grant_ids), _BATCH):
            batch = grant_ids[start : start + _BATCH]
            grants = await self._store.grants.get_many(batch)
            for grant_id, grant in zip(batch, grants, strict=True):
                if grant is None or grant.token is None:
                    self._cache.evict(grant_id)
                    if grant is not None and grant.tampered is not None:
                        log.error("grant.tampered", grant_id=grant_id, detail=grant.tampered)
                    elif grant is not None and grant.unreadable:
                        log.error("grant.unreadable", grant_id=grant_id)
                elif not self._cache.put(grant.token):
                    log.debug("cache.newer", grant_id=grant_id)
                self._cache.wake(grant_id)

    async def _revalidate(self) -> None:
        """Read again the tokens whose refresh is overdue and of which no message arrived."""
        now = self._store.clock()
        overdue = [t.grant_id for t in self._cache.tokens() if t.refresh_at + _OVERDUE_MS < now]
        await self.reread(random.sample(overdue, min(len(overdue), _BATCH)))
