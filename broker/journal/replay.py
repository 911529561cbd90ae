"""Replay the journal to a store that may have lost what this replica knows."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.journal.file_format import Entry
    from broker.journal.journal import Journal
    from broker.process.heartbeat import Heartbeat
    from broker.store import Store

log = structlog.get_logger()
_AT_ONCE = 32
_SIGNAL_EVERY = 1.0
"""Seconds after which a lane that waits for another lane's replay signals its heartbeat."""


class Replay:
    """Replays the journal at start, at every fence, and when the store answers again after an outage.

    *journal* may be None: then there is nothing to replay. Every method takes the heartbeat of the loop that waits.
    """

    def __init__(self, store: Store, journal: Journal | None) -> None:
        self._store = store
        self._journal = journal
        self._one_at_a_time = asyncio.Lock()

    async def fence(self, fence: int, heartbeat: Heartbeat) -> None:
        """Replay everything to another run of the server, once for each *fence* (epoch ms).

        Raises:
            StoreUnavailable: the store stopped answering; replay again.
        """
        async with self._turn(heartbeat):
            if self._store.schedule.replayed_after != fence:
                await self._replay(heartbeat, unrecorded_only=False)
                await self._abandon()
                self._store.schedule.replayed_after = fence

    async def _abandon(self) -> None:
        """Shorten the leases of replicas whose journals were adopted: what those do not hold has unknown outcome."""
        while self._journal is not None and self._journal.ended:
            providers = await self._store.grants.known_providers()
            life = self._journal.ended[-1]
            if held := await self._store.schedule.abandon(life, sorted(providers)):
                log.warning("leases.abandoned", count=held)
            await self._journal.remove_ended(life)

    async def everything(self, heartbeat: Heartbeat) -> None:
        """Replay all that is in the journal; the store takes only what is newer.

        Raises:
            StoreUnavailable: the store stopped answering; replay again.
        """
        async with self._turn(heartbeat):
            await self._replay(heartbeat, unrecorded_only=False)

    async def unrecorded(self, heartbeat: Heartbeat) -> None:
        """Replay what the store has not confirmed.

        Raises:
            StoreUnavailable: the store stopped answering; replay again.
        """
        async with self._turn(heartbeat):
            await self._replay(heartbeat, unrecorded_only=True)

    @asynccontextmanager
    async def _turn(self, heartbeat: Heartbeat) -> AsyncIterator[None]:
        """Let one replay run at a time; whoever waits signals its heartbeat meanwhile."""
        while True:
            try:
                async with asyncio.timeout(_SIGNAL_EVERY):
                    await self._one_at_a_time.acquire()
                break
            except TimeoutError:
                heartbeat.signal()
        try:
            yield
        finally:
            self._one_at_a_time.release()

    async def _replay(self, heartbeat: Heartbeat, *, unrecorded_only: bool) -> None:
        """Restore entries, those first that the store is likely to have lost.

        Other replicas claim again when the fence opens, whether this replay is finished or not.
        """
        if self._journal is None:
            return
        entries = [entry for entry in self._journal.entries() if not (unrecorded_only and entry.recorded)]
        entries.sort(key=lambda entry: (entry.recorded, -entry.at, -entry.number))
        counts: Counter[str] = Counter()
        for start in range(0, len(entries), _AT_ONCE):
            batch = entries[start : start + _AT_ONCE]
            counts.update(await asyncio.gather(*(self._restore(entry) for entry in batch)))
            heartbeat.signal()
        if counts:
            log.info("journal.replayed", **{name.replace(" ", "_"): count for name, count in counts.items()})

    async def _restore(self, entry: Entry) -> str:
        restored = await self._store.registry.restore(entry.text)
        if restored != "another store":
            entry.mark_recorded()
        return restored
