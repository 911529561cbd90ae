"""Sealing anew, with the first key, what any of our keys opens: so that the others may go.

Walks all keys by SCAN, the one walk that misses nothing while grants move between due, leased and parked; in pages, so
that whoever asks may be cut off and go on. Each value is put in place of itself only: what a commit or a login wrote
meanwhile stays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import CorrectRequest
from broker.secret import CannotOpen, Sealer
from broker.store import scripts
from broker.store.grants import FOREIGN_CURSOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.store.connections import Argument
    from broker.store.primary import Primary

SEALED_FIELDS = ("refresh_token", "access_token", "extra")
"""Of a grant's hash."""
CANARY = ("meta", "canary")
"""What the canary is sealed for."""
_PAGE = 500
"""Keys that one page looks at, about."""
_TRIES = 8
_CURSOR = re.compile(r"([0-9a-f]{1,64})~([0-9]{1,20})", re.ASCII)
_RUN_ID = re.compile(rb"run_id:([0-9a-f]+)")


@dataclass(slots=True)
class Resealed:
    """What one page came to."""

    grants: int = 0
    """How many grants it looked at."""
    grants_resealed: int = 0
    logins_resealed: int = 0
    canary_resealed: bool = False
    unreadable: tuple[str, ...] = ()
    """Grants with a value that none of our keys opens."""
    next: str | None = None
    """Where to go on; None at the end."""
    restarted: bool = False
    """The server is another run than the cursor was of: this page is the first again."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A key with what is sealed in it: field ("" for a text) and what the value is sealed for."""

    key: str
    name: str
    fields: Sequence[tuple[str, tuple[str, ...]]]


class Resealing:
    """Raises `StoreUnavailable` when Redis cannot say; what was done until then is done."""

    def __init__(self, primary: Primary, keys: scripts.Keys, sealer: Sealer, *, replicas: int) -> None:
        self._primary = primary
        self._keys = keys
        self._sealer = sealer
        self._replicas = replicas

    async def page(self, cursor: str | None) -> Resealed:
        """Reseal one page, from *cursor* (as the page before gave it). Raises `CorrectRequest` for a foreign one."""
        read = _CURSOR.fullmatch(cursor or "0~0")
        if read is None:
            raise CorrectRequest(FOREIGN_CURSOR)
        run = _RUN_ID.search(await self._primary.call("INFO", "server"))
        run_id = run[1].decode() if run else "0"
        done = Resealed(restarted=cursor is not None and read[1] != run_id)  # a cursor means nothing to another run
        first = cursor is None or done.restarted
        at, found = await self._primary.call(
            "SCAN", 0 if first else int(read[2]), "MATCH", _literally(self._keys.all) + "*", "COUNT", _PAGE
        )
        places = list(self._places({key.decode("utf-8", "surrogateescape") for key in found}))
        if first:
            places.append(_Place(self._keys.meta, "", [("canary", CANARY)]))
        await self._reseal(places, done)
        done.next = None if int(at) == 0 else f"{run_id}~{int(at)}"
        return done

    async def on_disk(self) -> bool:
        """Whether all that was replaced is known to be on the store's disk (on replicas too, as `redis.replicas` says).

        The canary is put in place of itself: a write after all others, which is waited for.
        """
        canary = await self._primary.call("HGET", self._keys.meta, "canary")
        call = _call(self._keys.meta, ["canary", canary or b"", canary or b""])
        return (await self._primary.run_durably(scripts.RESEAL, [call], replicas=self._replicas))[1]

    def _places(self, keys: Iterable[str]) -> Iterable[_Place]:
        grants, flows = self._keys.grants, self._keys.flows
        for key in keys:
            if key.startswith(grants):
                grant_id = key.removeprefix(grants)
                yield _Place(key, grant_id, [(field, (grant_id, field)) for field in SEALED_FIELDS])
            elif key.startswith(flows):
                yield _Place(key, "", [("", ("flow", key.removeprefix(flows)))])

    async def _reseal(self, places: Sequence[_Place], done: Resealed) -> None:
        """Reseal what is in *places*; one that changes under our hands is read again."""
        done.grants += sum(bool(place.name) for place in places)
        unreadable: set[str] = set()
        resealed: set[str] = set()
        for _ in range(_TRIES):
            calls: list[tuple[Sequence[str], Sequence[Argument]]] = []
            asked: list[_Place] = []
            for place, values in zip(places, await self._read(places), strict=True):
                changes = self._changes(place, values, unreadable)
                if changes:
                    asked.append(place)
                    calls.append(_call(place.key, changes))
            if not calls:
                break
            replies, _ = await self._primary.run_durably(scripts.RESEAL, calls, replicas=self._replicas)
            resealed |= {place.key for place, reply in zip(asked, replies, strict=True) if _some(reply)}
            places = asked
        done.canary_resealed = self._keys.meta in resealed
        done.grants_resealed += sum(key.startswith(self._keys.grants) for key in resealed)
        done.logins_resealed += sum(key.startswith(self._keys.flows) for key in resealed)
        done.unreadable = (*done.unreadable, *sorted(unreadable))

    async def _read(self, places: Sequence[_Place]) -> list[list[bytes | None]]:
        rows = await self._primary.pipeline([
            ("HMGET", place.key, *(field for field, _ in place.fields)) if place.fields[0][0] else ("GET", place.key)
            for place in places
        ])  # fmt: skip
        return [row if isinstance(row, list) else [row] for row in rows]

    def _changes(self, place: _Place, values: Sequence[bytes | None], unreadable: set[str]) -> list[Argument]:
        changes: list[Argument] = []
        for (field, context), value in zip(place.fields, values, strict=True):
            if value is None or self._sealer.is_current(value):
                continue
            try:
                changes += [field, value, self._sealer.reseal(value, *context)]
            except CannotOpen:
                if place.name:
                    unreadable.add(place.name)
        return changes


def _call(key: str, changes: Sequence[Argument]) -> tuple[Sequence[str], Sequence[Argument]]:
    """Return the keys and arguments with which `reseal` makes *changes* under *key*."""
    return scripts.RESEAL.keys(sealed=key), scripts.RESEAL.args(changes)


def _some(reply: object) -> bool:
    return isinstance(reply, int) and reply > 0


def _literally(text: str) -> str:
    """A text as a pattern of Redis that matches nothing but it."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)
