"""Saying again what we know, to a store that may have lost it."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from broker.journal.journal import Entry, Journal
    from broker.store import Store

log = structlog.get_logger()
_AT_ONCE = 32
_BEAT = 1.0


class Replay:
    """Replays the journal: at start, at every fence, and what the store never heard once it answers again."""

    def __init__(self, store: Store, journal: Journal | None) -> None:
        self._store = store
        self._journal = journal
        self._one_at_a_time = asyncio.Lock()

    async def fence(self, fence: int, beat: Callable[[], None]) -> None:
        """Another run of the server: tell it everything, once for each fence. Raises `StoreUnavailable`."""
        async with self._turn(beat):
            if self._store.schedule.replayed_after != fence:
                await self._tell(beat, unsettled_only=False)
                await self._abandon()
                self._store.schedule.replayed_after = fence

    async def _abandon(self) -> None:
        """What replicas had under way whose journals we adopted, and is in none: a grace for it runs out already."""
        while self._journal is not None and self._journal.ended:
            providers = await self._store.grants.known_providers()
            life = self._journal.ended[-1]
            if held := await self._store.schedule.abandon(life, sorted(providers)):
                log.warning("leases.abandoned", count=held)
            await self._journal.bury(life)

    async def everything(self, beat: Callable[[], None]) -> None:
        """Tell the store all that is in the journal; it takes only what is newer. Raises `StoreUnavailable`."""
        async with self._turn(beat):
            await self._tell(beat, unsettled_only=False)

    async def unsettled(self, beat: Callable[[], None]) -> None:
        """Tell the store what it has not confirmed. Raises `StoreUnavailable`."""
        async with self._turn(beat):
            await self._tell(beat, unsettled_only=True)

    @asynccontextmanager
    async def _turn(self, beat: Callable[[], None]) -> AsyncIterator[None]:
        """One replay at a time; who waits for another's lives meanwhile."""
        while True:
            try:
                async with asyncio.timeout(_BEAT):
                    await self._one_at_a_time.acquire()
                break
            except TimeoutError:
                beat()
        try:
            yield
        finally:
            self._one_at_a_time.release()

    async def _tell(self, beat: Callable[[], None], *, unsettled_only: bool) -> None:
        """What the store is likely to have lost comes first: others claim again when the fence opens, told or not."""
        if self._journal is None:
            return
        told = [entry for entry in self._journal.entries() if not (unsettled_only and entry.settled)]
        told.sort(key=lambda entry: (entry.settled, -entry.at, -entry.number))
        counts: Counter[str] = Counter()
        for start in range(0, len(told), _AT_ONCE):
            counts.update(await asyncio.gather(*(self._restore(entry) for entry in told[start : start + _AT_ONCE])))
            beat()
        if counts:
            log.info("journal.replayed", **{name.replace(" ", "_"): count for name, count in counts.items()})

    async def _restore(self, entry: Entry) -> str:
        said = await self._store.registry.restore(entry.text)
        if said != "another store":
            entry.settled = True
        return said
