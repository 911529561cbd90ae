"""Walk all that is sealed, a few seconds at a time, until a whole pass finds no value sealed with another key.

`resealing` reseals one page; this decides how many pages a request does, when a new pass begins, and what the end means
for the other keys. Knows no HTTP.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from broker.errors import Conflict, InvalidRequest
from broker.process.data_dir import sealing_keys
from broker.secret import Sealer
from broker.store.cursor import FOREIGN_CURSOR

if TYPE_CHECKING:
    from broker.settings import Settings
    from broker.store.resealing import Resealing

_BUDGET = 3.0
"""Seconds of work in one step."""
_MAX_PASSES = 5
_CURSOR = re.compile(r"([1-9])~([01])~(.*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a walk is: the number of its pass over all keys, whether this pass resealed anything, and its page."""

    number: int = 1
    found: bool = False
    page: str | None = None

    @classmethod
    def parse(cls, cursor: str | None) -> Position:
        """Parse a cursor; None begins a walk.

        Raises:
            InvalidRequest: no step gave this cursor.
        """
        if cursor is None:
            return cls()
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            raise InvalidRequest(FOREIGN_CURSOR)
        return cls(int(match[1]), match[2] == "1", match[3] or None)

    def __str__(self) -> str:
        return f"{self.number}~{int(self.found)}~{self.page or ''}"


@dataclass(slots=True)
class Step:
    """What one step did, and where the next one goes on: None at the end of the walk."""

    position: Position
    next: Position | None = None
    grants: int = 0
    """How many grants it looked at."""
    grants_resealed: int = 0
    logins_resealed: int = 0
    unreadable: frozenset[str] = frozenset()
    """Grants with a value that no key opens."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What the end of a walk means for the other keys, and what to do."""

    old_keys_may_go: bool
    detail: str


def require_same_keys(settings: Settings, sealer: Sealer) -> None:
    """Refuse to reseal with another first key than the key file holds by now. Reads the file: run it in a thread.

    Raises:
        Conflict: the first key in the file is another one, so this broker would seal with the key that is to go.
    """
    if Sealer(sealing_keys(settings)).first != sealer.first:
        raise Conflict(
            "sealing.keys_file begins with another key than it did when this broker started: restart every broker, "
            "then reseal"
        )


async def walk(resealing: Resealing, position: Position) -> Step:
    """Reseal pages from *position* on, until the time is up or a whole pass has found nothing to reseal.

    Raises:
        Conflict: values sealed with another key appear in every pass.
        StoreUnavailable: Redis does not answer; what was resealed until then stays so.
    """
    step = Step(position)
    if position == Position():
        await resealing.begin()
    until = time.monotonic() + _BUDGET
    while True:
        page = await resealing.page(position.page)
        if page.restarted:
            position = replace(position, found=True)  # Redis was restarted: this pass has not seen all keys
        step.grants += page.grants
        step.grants_resealed += page.grants_resealed
        step.logins_resealed += page.logins_resealed
        step.unreadable |= {*page.unreadable}
        found = position.found or page.canary_resealed or bool(page.grants_resealed or page.logins_resealed)
        step.position = position = Position(position.number, found, page.next)
        if page.next is None:
            if not found:
                return step
            if position.number == _MAX_PASSES:
                raise Conflict(
                    "every pass finds values sealed with another key, so another broker still seals with it: restart "
                    "every broker with the new key first, then reseal again"
                )
            step.position = position = Position(position.number + 1)
        if time.monotonic() > until:
            step.next = position
            return step


async def conclude(resealing: Resealing, unreadable: frozenset[str]) -> Conclusion:
    """Return what the end of a walk means; *unreadable* are the grants that its last step could not open."""
    on_disk = await resealing.on_disk()
    if unreadable:
        detail = (
            f"{len(unreadable)} grants are sealed with a key that sealing.keys_file does not hold "
            f"({', '.join(sorted(unreadable)[:3])}): put that key back, or log them in again, then reseal again"
        )
    elif not on_disk:
        detail = (
            "all is sealed with the first key, but nothing proves that Redis has written it to its disk: keep the "
            "other keys until it has (appendonly yes proves that), then reseal again"
        )
    else:
        await resealing.finish()
        detail = (
            "all that Redis holds is sealed with the first key: remove the other keys from sealing.keys_file once "
            "every broker was restarted with the new key first (each reseals its own journal at its start); keep them "
            "as long as you keep backups that they open"
        )
    return Conclusion(on_disk and not unreadable, detail)
