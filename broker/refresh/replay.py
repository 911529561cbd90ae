"""Saying again what we know, to a store that may have lost it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from broker.refresh.journal import Journal
    from broker.store import Store

log = structlog.get_logger()


class Replay:
    """Replays the journal: at start, at every fence, and what the store never heard once it answers again."""

    def __init__(self, store: Store, journal: Journal | None) -> None:
        self._store = store
        self._journal = journal
        self._done_for: int | None = None
        self._one_at_a_time = asyncio.Lock()

    async def fence(self, fenced_until: int) -> None:
        """Another run of the server: tell it everything, once for each fence. Raises `StoreUnavailable`."""
        async with self._one_at_a_time:
            if self._done_for != fenced_until:
                await self.everything()
                self._done_for = fenced_until

    async def everything(self) -> None:
        """Tell the store all that is in the journal; it takes only what is newer. Raises `StoreUnavailable`."""
        await self._tell(unsettled_only=False)

    async def unsettled(self) -> None:
        """Tell the store what it has not confirmed. Raises `StoreUnavailable`."""
        async with self._one_at_a_time:
            await self._tell(unsettled_only=True)

    async def _tell(self, *, unsettled_only: bool) -> None:
        if self._journal is None:
            return
        counts: dict[str, int] = {}
        for entry in self._journal.entries():
            if unsettled_only and entry.settled:
                continue
            said = await self._store.registry.restore(self._store.store_id, entry.text)
            counts[said] = counts.get(said, 0) + 1
            if said != "another store":
                entry.settled = True
        if counts:
            log.info("journal.replayed", **{name.replace(" ", "_"): count for name, count in counts.items()})
