"""Seal everything anew with the first key of the key file, so that the other keys may be removed.

Walks all keys by SCAN, the one walk that misses nothing while grants move between due, leased and parked. It goes in
pages, so that a client that was cut off can continue. A value replaces only itself: what a commit or a login wrote
meanwhile stays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import InvalidRequest
from broker.secret import CannotOpen, Purpose, Sealer
from broker.store import scripts
from broker.store.binding import Binding
from broker.store.cursor import FOREIGN_CURSOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary

SEALED_FIELDS = ("refresh_token", "access_token", "extra", "account")
"""The sealed fields of a grant's hash."""
CANARY = ("meta", "canary")
"""The context for which the canary is sealed."""
CANARY_BOUND = "token-broker canary, all bound"
"""The text of the canary of a store that holds values in the bound form alone; another is that of any other store."""
BINDS = "sealing"
"""The field of `meta` that has every broker seal in the bound form; it is not sealed, and asks for more, not less."""
_FACTS = ("provider", "generation", "granted_at", "issued_at", "expires_at", "token_type", "scope")
"""What stands beside the sealed fields of a grant, and is sealed with them."""
_PAGE = 500
"""About how many keys one page examines."""
_TRIES = 8
_CURSOR = re.compile(r"([0-9a-f]{1,64})~([0-9]{1,20})", re.ASCII)
_RUN_ID = re.compile(rb"run_id:([0-9a-f]+)")


@dataclass(slots=True)
class Resealed:
    """The result of one page."""

    grants: int = 0
    """How many grants the page examined."""
    grants_resealed: int = 0
    logins_resealed: int = 0
    canary_resealed: bool = False
    unreadable: tuple[str, ...] = ()
    """Grants with a value that no key in the key file opens."""
    next: str | None = None
    """Where to go on; None at the end."""
    restarted: bool = False
    """The cursor is of another run of the server: this page is the first again."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A key with its sealed values: field ("" for a string), and the context for which the value is sealed."""

    key: str
    name: str
    fields: Sequence[tuple[str, tuple[str, ...]]]
    purpose: Purpose


class Resealing:
    """Reseals the store. Raises `StoreUnavailable` when Redis does not answer; what was done until then is done."""

    def __init__(self, primary: Primary, keys: scripts.Keys, sealer: Sealer, *, replicas: int) -> None:
        self._primary = primary
        self._keys = keys
        self._sealer = sealer
        self._binding = Binding(sealer, lambda: primary.store_id)
        self._replicas = replicas

    async def begin(self) -> None:
        """Have every broker of this store seal in the bound form from now on."""
        await self._note(BINDS, "bound")
        self._sealer.binds = True

    async def finish(self) -> None:
        """Note in the sealed canary that the store holds values in the bound form alone."""
        if not self._sealer.requires_bound:
            canary = self._sealer.seal_bound(CANARY_BOUND, *CANARY, purpose="meta")
            await self._note("canary", canary)
            self._sealer.requires_bound = True

    async def _note(self, field: str, value: Argument) -> None:
        script = scripts.NOTE
        await self._primary.run(
            script, script.keys(facts=self._keys.meta), script.args([field, value], counter="", count=0)
        )

    async def page(self, cursor: str | None) -> Resealed:
        """Reseal one page.

        Args:
            cursor: Where to go on: `next` of the page before; None: at the beginning.

        Raises:
            InvalidRequest: The cursor is of no page.
        """
        read = _CURSOR.fullmatch(cursor or "0~0")
        if read is None:
            raise InvalidRequest(FOREIGN_CURSOR)
        run = _RUN_ID.search(await self._primary.call("INFO", "server"))
        run_id = run[1].decode() if run else "0"
        done = Resealed(restarted=cursor is not None and read[1] != run_id)  # a cursor means nothing to another run
        first = cursor is None or done.restarted
        at, found = await self._primary.call(
            "SCAN", 0 if first else int(read[2]), "MATCH", literally(self._keys.all) + "*", "COUNT", _PAGE
        )
        places = list(self._places({key.decode("utf-8", "surrogateescape") for key in found}))
        if first:
            places.append(_Place(self._keys.meta, "", [("canary", CANARY)], "meta"))
        await self._reseal(places, done)
        done.next = None if int(at) == 0 else f"{run_id}~{int(at)}"
        return done

    async def on_disk(self) -> bool:
        """Return whether everything that was replaced is known to be on disk, on `redis.replicas` replicas too.

        Replaces the canary by itself, a write after all others, and waits for it.
        """
        canary = await self._primary.call("HGET", self._keys.meta, "canary")
        call = _call(self._keys.meta, ["canary", canary or b"", canary or b""])
        return (await self._primary.run_durably(scripts.RESEAL, [call], replicas=self._replicas))[1]

    def _places(self, keys: Iterable[str]) -> Iterable[_Place]:
        grants, flows = self._keys.grants, self._keys.flows
        for key in keys:
            if key.startswith(grants):
                grant_id = key.removeprefix(grants)
                yield _Place(key, grant_id, [(field, (grant_id, field)) for field in SEALED_FIELDS], "grant")
            elif key.startswith(flows):
                yield _Place(key, "", [("", ("flow", key.removeprefix(flows)))], "flow")

    async def _reseal(self, places: Sequence[_Place], done: Resealed) -> None:
        """Reseal the values in *places*; a value that changes meanwhile is read again."""
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
        rows = await self._primary.pipeline_each([_read_command(place) for place in places])
        return [row if isinstance(row, list) else [] if isinstance(row, Exception) else [row] for row in rows]

    def _changes(self, place: _Place, values: Sequence[bytes | None], unreadable: set[str]) -> list[Argument]:
        changes: list[Argument] = []
        known = dict(zip(_FACTS, values[len(place.fields) :], strict=False))
        if not values and place.name:
            unreadable.add(place.name)
        for (field, context), value in zip(place.fields, values, strict=False):
            if value is None or self._sealer.is_current(value):
                continue
            try:
                if place.purpose == "grant":
                    resealed = self._binding.resealed(place.name, field, value, known)
                else:
                    resealed = self._sealer.reseal(value, *context, purpose=place.purpose)
                changes += [field, value, resealed]
            except (CannotOpen, ValueError):
                if place.name:
                    unreadable.add(place.name)
        return changes


def _call(key: str, changes: Sequence[Argument]) -> tuple[Sequence[str], Sequence[Argument]]:
    """Return the keys and arguments with which `reseal` makes *changes* under *key*."""
    return scripts.RESEAL.keys(sealed=key), scripts.RESEAL.args(changes)


def _read_command(place: _Place) -> Sequence[str]:
    fields = [field for field, _ in place.fields]
    if place.purpose == "grant":
        return ("HMGET", place.key, *fields, *_FACTS)
    return ("HMGET", place.key, *fields) if fields[0] else ("GET", place.key)


def _some(reply: object) -> bool:
    return isinstance(reply, int) and reply > 0


def literally(text: str) -> str:
    """Return a pattern of Redis that matches *text* only."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)
