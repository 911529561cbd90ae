"""The grants that are due soonest, and those that wait for a person: `/metrics` shows them one by one.

Reads each sorted set from its beginning and no further than needed, so it costs the same with a thousand grants as with
a million.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from broker.store.damaged import list_or_empty, numbers
from broker.store.fields import maybe_text, score_ms, scored
from broker.store.limits import parse_limit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.model import State
    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary
    from broker.store.scripts import Keys

_LEAST = 16
"""Least number of ids that are read from one set at a time."""
_AT_ONCE = 250
"""Most grants that are read in one trip: some ms of the server's time."""
_TIMES = ("expires_at", "answered_at", "granted_at", "reauthorize_by")
_DEAD = b"reauthorization_required"


@dataclass(frozen=True, slots=True)
class Soon:
    """One grant in figures. Times are epoch ms."""

    grant_id: str
    provider: str
    next_at: int | None
    """When its next token request is due; None while one is under way, and while the grant is parked."""
    expires_at: int | None
    succeeded_at: int | None
    granted_at: int | None
    reauthorize_by: int | None
    reauthorize_limit: int | None
    """The whole length (ms) of the limit that it comes of."""
    dead: bool


@dataclass(frozen=True, slots=True)
class Parked:
    """A grant that waits for a person: since when (epoch ms), and why."""

    grant_id: str
    provider: str
    since: int
    reason: str


class _Place(NamedTuple):
    """The score of a grant, and the provider whose set it is in."""

    at: float
    provider: str


class Soonest:
    """Reads those grants. Raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, primary: Primary, keys: Keys) -> None:
        self._primary = primary
        self._keys = keys

    async def for_providers(self, providers: Sequence[str], n: int) -> list[Soon]:
        """Return the *n* grants that are due, or whose lease ends, soonest; the latest parked ones fill the rest."""
        due = await self._first("due", providers, n)
        leased = await self._first("leased", providers, n)
        chosen = dict(sorted({**due, **leased}.items(), key=lambda item: item[1])[:n])
        if len(chosen) < n:
            parked = await self._first("parked", providers, n - len(chosen), latest=True)
            chosen |= {name: place for name, place in parked.items() if name not in chosen}
        rows = await self._read(chosen, *_TIMES, "reauthorize_limit", "reason")
        found = []
        for (name, place), (*times, limit, reason) in rows:
            expires_at, succeeded_at, granted_at, by = numbers(times)
            next_at = score_ms(place.at) if name in due and name not in leased else None
            dead = reason == _DEAD
            found.append(
                Soon(
                    grant_id=name,
                    provider=place.provider,
                    next_at=next_at,
                    expires_at=expires_at,
                    succeeded_at=succeeded_at,
                    granted_at=granted_at,
                    reauthorize_by=by,
                    reauthorize_limit=parse_limit(limit, by),
                    dead=dead,
                )
            )
        return found

    async def first_due(self, providers: Sequence[str]) -> dict[str, int | None]:
        """Return of each provider when its first grant is due (epoch ms); None: one is leased, or nothing is due."""
        commands: list[tuple[Argument, ...]] = []
        for name in providers:
            commands += [("ZRANGE", self._keys.ids("due", name), 0, 0, "WITHSCORES")]
            commands += [("ZRANGE", self._keys.ids("leased", name), 0, 0)]
        replies = [list_or_empty(each) for each in await self._primary.pipeline_each(commands)]
        return {
            name: None if leased or not due else score_ms(due[1])
            for name, due, leased in zip(providers, replies[::2], replies[1::2], strict=True)
        }

    async def parked(self, providers: Sequence[str], n: int) -> list[Parked]:
        """Return the *n* grants that were parked last, latest first."""
        rows = await self._read(await self._first("parked", providers, n, latest=True), "reason")
        return [
            Parked(name, place.provider, score_ms(place.at), maybe_text(reason) or "")
            for (name, place), (reason,) in rows
        ]

    async def _first(
        self, state: State, providers: Sequence[str], n: int, *, latest: bool = False
    ) -> dict[str, _Place]:
        """Return the *n* members with the lowest scores in the providers' sets, or the highest.

        Reads a part of each set, and a part twice as long each time, until no set can hold a member that is missing.
        """
        best: list[tuple[float, str, str]] = []
        unread = dict.fromkeys(providers, 0) if n > 0 else {}
        size = max(_LEAST, min(n, 2 * n // max(1, len(providers))))
        while unread:
            commands: list[tuple[Argument, ...]] = [
                (
                    "ZRANGE",
                    self._keys.ids(state, p),
                    begin,
                    begin + size - 1,
                    *(("REV",) if latest else ()),
                    "WITHSCORES",
                )
                for p, begin in unread.items()
            ]
            last: dict[str, float] = {}
            replies = map(list_or_empty, await self._primary.pipeline_each(commands))
            for provider, flat in zip(list(unread), replies, strict=True):
                rows = [(-float(at) if latest else float(at), name, provider) for name, at in scored(flat)]
                best += rows
                if len(flat) == 2 * size:
                    last[provider] = -float(flat[-1]) if latest else float(flat[-1])
            best = sorted(best)[:n]
            # A set that was read to below the n-th best has nothing more to give.
            unread = {p: unread[p] + size for p, at in last.items() if len(best) < n or at < best[-1][0]}
            size *= 2
        return {name: _Place(abs(at), provider) for at, name, provider in best}

    async def _read(
        self, places: Mapping[str, _Place], *fields: str
    ) -> list[tuple[tuple[str, _Place], Sequence[bytes | None]]]:
        """Return *fields* of each grant."""
        rows: list[Sequence[bytes | None]] = []
        names = list(places)
        for start in range(0, len(names), _AT_ONCE):
            batch = names[start : start + _AT_ONCE]
            found = await self._primary.pipeline_each([("HMGET", self._keys.grant(name), *fields) for name in batch])
            rows += [[None] * len(fields) if isinstance(row, Exception) else row for row in found]
        return list(zip(places.items(), rows, strict=True))
