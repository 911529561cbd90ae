"""The grants whose turn comes soonest, over all providers: what `/metrics` shows one by one.

Reads the sorted sets from their beginnings and no further than needed, so it costs the same with a thousand grants as
with a million.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.store.primary import Argument, Primary
    from broker.store.scripts import Keys

_LEAST = 16
"""Ids read from one set at a time, at least."""
_AT_ONCE = 250
"""Grants read in one trip: some ms of the server's time."""


@dataclass(frozen=True, slots=True)
class Soon:
    """One grant in figures. Times are epoch ms."""

    grant_id: str
    next_at: int | None
    """When its next token request is due; None while one is under way, and while it is parked."""
    expires_at: int | None
    succeeded_at: int | None
    reauthorize_by: int | None


class Soonest:
    """Reads them. Raises `StoreUnavailable` when Redis cannot answer."""

    def __init__(self, primary: Primary, keys: Keys) -> None:
        self._primary = primary
        self._keys = keys

    async def of(self, providers: Sequence[str], n: int) -> list[Soon]:
        """The *n* grants that are due, or being refreshed, soonest; what is left of *n* goes to the latest parked."""
        due = await self._first([self._keys.ids("due", p) for p in providers], n)
        leased = await self._first([self._keys.ids("leased", p) for p in providers], n)
        chosen = dict(sorted({**due, **leased}.items(), key=lambda item: item[1])[:n])
        parked: dict[str, float] = {}
        if len(chosen) < n:
            keys = [self._keys.ids("parked", p) for p in providers]
            parked = await self._first(keys, n - len(chosen), latest=True)
        names = [*chosen, *(name for name in parked if name not in chosen)]
        found: list[Soon] = []
        for start in range(0, len(names), _AT_ONCE):
            found += await self._read(names[start : start + _AT_ONCE], due, leased)
        return found

    async def _first(self, keys: Sequence[str], n: int, *, latest: bool = False) -> dict[str, float]:
        """The *n* members with the lowest scores of several sorted sets, or the highest: read in ever longer pieces."""
        best: list[tuple[float, str]] = []
        unread = dict.fromkeys(keys, 0) if n > 0 else {}
        size = max(_LEAST, 2 * n // max(1, len(keys)))
        while unread:
            commands: list[tuple[Argument, ...]] = [
                ("ZRANGE", key, begin, begin + size - 1, *(("REV",) if latest else ()), "WITHSCORES")
                for key, begin in unread.items()
            ]
            last: dict[str, float] = {}
            for key, flat in zip(list(unread), await self._primary.pipeline(commands), strict=True):
                rows = [
                    (-float(at) if latest else float(at), name.decode())
                    for name, at in zip(flat[::2], flat[1::2], strict=True)
                ]
                best += rows
                if len(rows) == size:
                    last[key] = rows[-1][0]
            best = sorted(best)[:n]
            # A set that was read to below the n-th best has nothing more to give.
            unread = {key: unread[key] + size for key, at in last.items() if len(best) < n or at < best[-1][0]}
            size *= 2
        return {name: at for at, name in best}

    async def _read(self, names: Sequence[str], due: dict[str, float], leased: Iterable[str]) -> list[Soon]:
        fields = ("expires_at", "answered_at", "reauthorize_by")
        rows = await self._primary.pipeline([("HMGET", self._keys.grant(name), *fields) for name in names])
        return [
            Soon(name, int(due[name]) if name in due and name not in leased else None, *map(_maybe, row))
            for name, row in zip(names, rows, strict=True)
        ]


def _maybe(raw: bytes | None) -> int | None:
    return None if raw is None else int(raw)
