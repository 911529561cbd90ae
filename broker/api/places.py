"""The quota `grants` of a caller: places for new grants, each held from before a grant is stored. Knows no route.

Each broker holds places for itself. Its count of the stored grants is believed for ten seconds, so that a large import
does not count for each of its lines: what another broker or another caller stores meanwhile is seen after that.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from broker.store.flows import LIFE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from broker.store import Store

_COUNT_LIFE = 10.0
"""Seconds for which a count of grants is believed; the places of this broker are added to it."""
_LOGIN_LIFE = 3.0 * LIFE_S
"""Seconds after its start in which a login may bring a grant: to open the link, to come back, and to confirm."""
_AT_ONCE = 1000
"""Ids that are looked at before others are served."""


@dataclass(slots=True)
class Place:
    """A place for a new grant, while a request stores it or begins its login."""

    kept: Literal["until_counted", "for_login", "no"] = "until_counted"
    """What becomes of it after that. A grant that may have been stored keeps it until the next count, a login for as
    long as it may take."""


class NoPlace(Exception):
    """All places are taken; *used* says how many."""

    def __init__(self, used: int) -> None:
        super().__init__(used)
        self.used = used


@dataclass(frozen=True, slots=True)
class Whose:
    """Where the grants of a caller are found: its providers, and which ids are of its patterns."""

    store: Store
    providers: Sequence[str]
    owns: Callable[[str], bool]

    async def ids(self) -> AsyncIterator[str]:
        """Yield the ids of the caller's grants; others are served meanwhile."""
        for provider in self.providers:
            ids = await self.store.grants.ids(provider)
            for begin in range(0, len(ids), _AT_ONCE):
                for grant_id in filter(self.owns, ids[begin : begin + _AT_ONCE]):
                    yield grant_id
                await asyncio.sleep(0)


@dataclass(slots=True)
class Places:
    """The places of one caller at this broker. Nothing else runs between a check and what it takes."""

    _counted: int = 0
    _counted_until: float = 0.0
    _held: Counter[str] = field(default_factory=Counter)
    """Grants that are being stored, and by how many requests each."""
    _stored: set[str] = field(default_factory=set)
    """Grants that may have been stored since the count."""
    _logins: dict[str, float] = field(default_factory=dict)
    """Grants that a login may bring, and until when (monotonic seconds)."""
    _taken: set[str] = field(default_factory=set)
    """All of these."""
    _counting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def hold(self, most: int, grant_id: str, whose: Whose) -> AsyncIterator[Place]:
        """Hold a place for a new grant during the body; those who store the same grant share it.

        Args:
            most: how many places there are.
            grant_id: the new grant.
            whose: the grants that count.

        Raises:
            NoPlace: there is none.
        """
        async with self._counting:
            if time.monotonic() >= self._counted_until:
                await self._count(whose)
        if grant_id not in self._taken and self._counted + len(self._taken) >= most:
            raise NoPlace(self._counted + len(self._taken))
        self._held[grant_id] += 1
        self._taken.add(grant_id)
        place = Place()
        try:
            yield place
        finally:
            self._end(grant_id, place)

    def _end(self, grant_id: str, place: Place) -> None:
        self._held[grant_id] -= 1
        if not self._held[grant_id]:
            del self._held[grant_id]
        if place.kept == "until_counted":
            self._stored.add(grant_id)
        elif place.kept == "for_login":
            self._logins[grant_id] = time.monotonic() + _LOGIN_LIFE
        if not any(grant_id in places for places in (self._held, self._stored, self._logins)):
            self._taken.discard(grant_id)

    async def _count(self, whose: Whose) -> None:
        """Count what is stored, but for the grants that have a place.

        What is stored while this counts may be found or not, so it keeps its place until the next count.
        """
        before, found, counted = frozenset(self._stored), set[str](), 0
        async for grant_id in whose.ids():
            counted += 1
            if grant_id in self._taken:
                found.add(grant_id)
        now = time.monotonic()
        self._stored -= before | found
        self._logins = {
            grant_id: until for grant_id, until in self._logins.items() if until > now and grant_id not in found
        }
        self._taken = {*self._held, *self._stored, *self._logins}
        self._counted = counted - len(found & self._taken)
        self._counted_until = now + _COUNT_LIFE
