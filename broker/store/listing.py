"""List the ids of grants, page by page: the sorted sets of the providers are the index, and a cursor is a place in it.

Knows nothing of the grants themselves.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from broker.store import scripts
from broker.store.cursor import read_cursor, write_cursor
from broker.store.damaged import list_or_empty
from broker.store.fields import scored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.model import State
    from broker.store.redis.primary import Primary
    from broker.store.scripts import Keys

_STATES: tuple[State, ...] = ("parked", "leased", "due")
Row = tuple["State", str, str, str]
"""State, id, score and provider of a grant."""
_BATCH = 100
_FEW_SETS = 24
"""Sets that are read one after the other; of more, many are read in one trip, and the empty ones not at all."""
_MOST_PASSED = 2_000
"""Ids that one page skips, at most."""


class Listing:
    """Reads the sets. Every method raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, primary: Primary, keys: Keys) -> None:
        self._primary = primary
        self._keys = keys

    async def rows(
        self,
        providers: Sequence[str],
        states: Sequence[State],
        cursor: str | None,
        limit: int,
        permitted: Callable[[str], bool],
    ) -> tuple[list[Row], str | None]:
        """Return state, id, score and provider of the next *limit* grants, and the cursor to what follows them."""
        sets = [(p, s) for s in _STATES if s in states for p in sorted(providers)]
        index, score, member = read_cursor(cursor)
        rows: list[Row] = []
        last: tuple[int, str, str] | None = None
        batch, passed = max(limit + 1, _BATCH), 0
        ahead: list[list[tuple[str, str]]] = []
        while index < len(sets):
            if score == "-inf" and not ahead and len(sets) - index > _FEW_SETS:
                ahead = await self._beginnings(sets[index:], batch)
            provider, state = sets[index]
            if score == "-inf" and ahead:
                found = ahead.pop(0)
            else:
                found = await self._after(self._keys.ids(state, provider), score, member, batch)
            for name, at in found:
                if len(rows) == limit or passed == _MOST_PASSED:
                    return rows, write_cursor(last)
                score, member = at, name
                last = (index, at, name)
                if permitted(name):
                    rows.append((state, name, at, provider))
                else:
                    passed += 1
            if len(found) < batch:
                index, score, member = index + 1, "-inf", ""
        return rows, None

    async def _beginnings(self, sets: Sequence[tuple[str, State]], limit: int) -> list[list[tuple[str, str]]]:
        """Return the first *limit* members of each of the first sets, as many sets as hold *limit* members together."""
        keys = [self._keys.ids(state, provider) for provider, state in sets]
        sizes = await self._primary.run(scripts.SIZES, scripts.SIZES.keys(keys), scripts.SIZES.args())
        upto = next((n for n, held in enumerate(accumulate(sizes), 1) if held >= limit), len(sets))
        wanted = [n for n in range(upto) if sizes[n]]
        replies = await self._primary.pipeline_each(
            [("ZRANGEBYSCORE", keys[n], "-inf", "+inf", "WITHSCORES", "LIMIT", 0, limit) for n in wanted]
        )
        found: list[list[tuple[str, str]]] = [[] for _ in range(upto)]
        for n, flat in zip(wanted, replies, strict=True):
            found[n] = scored(list_or_empty(flat))
        return found

    async def _after(self, key: str, score: str, member: str, limit: int) -> list[tuple[str, str]]:
        """Return the members of a sorted set behind (score, member), at most *limit*, with their scores as text."""
        offset = 0
        found: list[tuple[str, str]] = []
        while len(found) < limit:
            command = ("ZRANGEBYSCORE", key, score, "+inf", "WITHSCORES", "LIMIT", offset, limit + 64)
            flat = list_or_empty(*await self._primary.pipeline_each([command]))
            found += [(name, at) for name, at in scored(flat) if at != score or name > member]
            if len(flat) < 2 * (limit + 64):
                break
            offset += len(flat) // 2
        return found[:limit]
