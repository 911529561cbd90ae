"""Find grants whose data is gone from Redis but in the schedule; restore them from the journal, or say so.

Each broker walks through the schedule, a page a second, and restores what its own journal holds. What no journal
restores needs a new login, and is named until then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import structlog

from broker.errors import StoreUnavailable
from broker.process.tasks import run_until
from broker.store.lost import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from broker.journal.journal import Journal
    from broker.process.heartbeat import Heartbeat
    from broker.store import Store
    from broker.store.lost import LostGrant

log = structlog.get_logger()
_PAUSE = 1.0
"""Seconds between two pages."""
_NAMED_AFTER_MS = 5_000
"""How long other brokers have to restore a lost grant before it is named."""
_AGAIN_AFTER = 10
"""Steps after which lost grants are tried again though their number is the same."""
_NAMES = 5
"""How many grants are named one by one."""


class LostGrants:
    """Restore lost grants, and name the others. *journal* may be None; *providers* are those of the settings now."""

    def __init__(self, store: Store, journal: Journal | None, heartbeat: Heartbeat, providers: Collection[str]) -> None:
        self._store = store
        self._journal = journal
        self.heartbeat = heartbeat
        self._providers = providers
        self._walk = self._pages([])
        self._named: set[str] = set()
        self._damaged: frozenset[str] = frozenset()
        """Keys that held something else than brokers write, a few minutes ago at most."""
        self._seen = (0, 0)
        """How many grants were lost when they were tried last, and in how many steps they are tried again."""
        self.count = 0
        """How many grants are lost, as far as this broker knows."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Search until *stopping* is set."""
        while not stopping.is_set():
            self.heartbeat.signal()
            try:
                await run_until(stopping, self.step())
            except StoreUnavailable:  # a lane says that
                pass
            try:
                await asyncio.wait_for(stopping.wait(), _PAUSE)
            except TimeoutError:
                pass

    async def step(self) -> None:
        """Examine one page, and deal with what is lost.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        page = next(self._walk, None)
        if page is None:
            self._walk = self._pages(sorted({*self._providers, *await self._store.grants.known_providers()}))
            page = next(self._walk, None)
        if page is None:
            return
        provider, state, offset = page
        examined, count, damaged = await self._store.lost.find(provider, state, offset)
        self._more = examined == PAGE_SIZE
        self._name_damaged(damaged)
        seen, steps = self._seen
        if count != seen or (count and steps == 0):
            self._seen = (count, _AGAIN_AFTER)
            await self._restore_all()
        else:
            self._seen = (seen, max(0, steps - 1))

    def _pages(self, providers: list[str]) -> Iterator[tuple[str, Literal["due", "parked"], int]]:
        """Yield the pages of one walk; `_more` says whether the set of the last one goes on."""
        states: tuple[Literal["due", "parked"], ...] = ("due", "parked")
        for provider in providers:
            for state in states:
                offset, self._more = 0, True
                while self._more:
                    yield provider, state, offset
                    offset += PAGE_SIZE

    async def recover(self, grant_id: str) -> bool:
        """Restore one grant if this broker's journal holds it and it was not logged out.

        Returns:
            Whether it may be there again.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        entry = self._journal.find(grant_id) if self._journal is not None else None
        if entry is None:
            return False
        restored = await self._store.lost.restore(grant_id, entry.text)
        if restored == "restored":
            entry.mark_recorded()
            log.warning("grant.restored", grant_id=grant_id, restored=restored)
        return restored in {"restored", "known", "replaced", "forgotten"}

    async def _restore_all(self) -> None:
        left = [lost for lost in await self._store.lost.all() if not await self.recover(lost.grant_id)]
        self.count = len(left)
        now = self._store.clock()
        self._name([lost for lost in left if lost.at + _NAMED_AFTER_MS <= now])
        if len(self._named) < len(left):
            self._seen = (self.count, 1)

    def _name(self, lost: list[LostGrant]) -> None:
        """Say which grants are lost: in the log once, and to whoever asks for the broker's health."""
        names = {each.grant_id for each in lost}
        if new := sorted(names - self._named):
            log.error("grants.lost", count=len(new), grant_ids=new[:_NAMES])
        self._named = names
        self._show()

    def _name_damaged(self, keys: frozenset[str]) -> None:
        """Say likewise which keys held data of another type."""
        if new := sorted(keys - self._damaged):
            log.error("store.damaged", count=len(new), keys=new[:_NAMES])
        if keys != self._damaged:
            self._damaged = keys
            self._show()

    @property
    def named(self) -> list[str]:
        """The ids of the grants that are lost, and that no journal restored in time."""
        return sorted(self._named)

    @property
    def damage(self) -> str:
        """Which keys held data of another type, in words; empty: none did."""
        if not self._damaged:
            return ""
        return f"keys in Redis held what no broker writes there ({_listed(self._damaged)}): find out who writes Redis"

    def _show(self) -> None:
        troubles = [self.damage] if self._damaged else []
        if self._named:
            of, them = ("1 grant", "it") if len(self._named) == 1 else (f"{len(self._named)} grants", "them")
            words = f"Redis lost the data of {of}, and no journal restores {them}"
            troubles.insert(0, f"{words} ({_listed(self._named)}): log in again")
        self.heartbeat.trouble = "; ".join(troubles)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:_NAMES]) + (", …" if len(names) > _NAMES else "")
