"""List the ids of grants, page by page: the sorted sets of the providers are the index, and a cursor is a place in it.

Knows nothing of the grants themselves.
"""

from __future__ import annotations

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
_SETS = 1_000
"""Most sets that are read in one trip; an empty one costs next to nothing."""
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
            provider, state = sets[index]
            if score != "-inf":
                found = await self._after(self._keys.ids(state, provider), score, member, batch)
            else:
                ahead = ahead or await self._beginnings(sets[index : index + _SETS], batch)
                found = ahead.pop(0)
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
        """Return the first *limit* members of each of the first sets, as many sets as hold *limit* members together.

        They are read at one moment: a grant that changes its state meanwhile is in one of them.
        """
        script = scripts.BEGINNINGS
        keys = script.keys([self._keys.ids(state, provider) for provider, state in sets])
        return [scored(flat) for flat in await self._primary.run(script, keys, script.args(limit=limit))]

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
