"""Lost grants: the hash of a grant is gone (evicted, or deleted by hand), but its id stands in the schedule.

Whoever notices one takes it out of its set and notes where it stood. A record of a journal restores it, but only where
something that survived shows that nothing came after that record: the due time that the answer planned, or the last
attempts, which have a key of their own. An older refresh token may be spent, and must not be presented again.

Knows nothing of how a journal keeps its records.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from broker.model import GRANT_ID
from broker.store import scripts
from broker.store.attempts import REGISTERED, Attempt
from broker.store.damaged import list_or_empty
from broker.store.fields import texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.model import State
    from broker.store.clock import Clock
    from broker.store.redis.primary import Primary
    from broker.store.registry import Registry

_ANSWERED = frozenset({"kept", "restored", REGISTERED})
"""What an entry of the attempts says when it replaced what was stored before."""
_KEY = re.compile(rf"[a-z]+(:{GRANT_ID.pattern})?")
"""A key without its prefix."""
PAGE_SIZE = 250
"""How many grants one search examines."""


class LostGrant(NamedTuple):
    """A grant whose hash is gone, and where it stood. Times are epoch ms."""

    grant_id: str
    provider: str
    state: State
    score: int
    """When it was due, when its lease ended, or since when it was parked."""
    at: int
    """When that was noticed."""


class Searched(NamedTuple):
    """What a search found."""

    examined: int
    """How many grants of its page."""
    lost: int
    """How many grants are lost by now."""
    damaged: frozenset[str]
    """Keys that were of another type within the last ten minutes, without their prefix."""


class Position(NamedTuple):
    """Where a restored grant stands in the schedule."""

    at: int
    """When it is due, or since when it is parked; epoch ms."""
    reason: str = ""
    """Why it is parked; empty: it is due."""
    unknown_at: int | None = None
    """When a token request with its refresh token was sent whose outcome is unknown; epoch ms."""


Recovered = Literal["older", "restored", "known", "replaced", "forgotten", "forgot", "another store"]


class Lost:
    """Finds lost grants and restores them. Every method raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, primary: Primary, keys: scripts.Keys, registry: Registry, clock: Clock) -> None:
        self._primary = primary
        self._keys = keys
        self._registry = registry
        self._clock = clock

    async def find(self, provider: str, state: Literal["due", "parked"], offset: int) -> Searched:
        """Examine a page of one set; what is lost among the leased a claim notes, once the lease has ended."""
        script = scripts.FIND_LOST
        keys = script.keys(
            ids=self._keys.ids(state, provider),
            lost=self._keys.lost,
            grant_prefix=self._keys.grants,
            noted=self._keys.damaged,
        )
        args = script.args(provider=provider, state=state, offset=offset, page_size=PAGE_SIZE)
        examined, lost, noted = await self._primary.run(script, keys, args)
        damaged = frozenset(name for name in texts(noted[::2]) if _KEY.fullmatch(name))
        return Searched(int(examined), int(lost), damaged)

    async def all(self) -> list[LostGrant]:
        """Return every lost grant; one that a login or an import replaced meanwhile is lost no longer."""
        flat = await self._primary.call("HGETALL", self._keys.lost)
        found = [each for each in (_maybe(name, text) for name, text in _pairs(flat)) if each is not None]
        there = await self._primary.pipeline([("EXISTS", self._keys.grant(each.grant_id)) for each in found])
        for each, exists in zip(found, there, strict=True):
            if exists:
                await self.drop(each.grant_id)
        return [each for each, exists in zip(found, there, strict=True) if not exists]

    async def drop(self, grant_id: str) -> bool:
        """Note that a grant is lost no longer; return whether it was noted."""
        script = scripts.DROP_LOST
        return bool(await self._primary.run(script, script.keys(lost=self._keys.lost), script.args(grant_id=grant_id)))

    async def restore(self, grant_id: str, record: str) -> Recovered:
        """Restore a grant from a journal's *record* of it; *older*: nothing shows that the record is the last."""
        members = json.loads(record)
        if "forget" in members:
            return "forgotten"
        noted, lines, due = await self._primary.pipeline_each(
            [
                ("HGET", self._keys.lost, grant_id),
                ("LRANGE", self._keys.attempts_of(grant_id), 0, -1),
                ("ZSCORE", self._keys.ids("due", members["provider"]), grant_id),
            ]
        )
        lines = list_or_empty(lines)
        noted, due = (None if isinstance(reply, Exception) else reply for reply in (noted, due))
        if noted is not None:
            lost = _parse(grant_id.encode(), noted)
        elif due is not None:
            lost = LostGrant(grant_id, members["provider"], "due", int(float(due)), self._clock())
        else:
            return "older"
        position = find_position(lost, members, [Attempt.parse(line) for line in lines])
        if position is None:
            return "older"
        restored = await self._registry.restore(record, position)
        if restored != "another store":
            await self.drop(grant_id)
        return restored


def find_position(lost: LostGrant, record: Mapping[str, int | str], attempts: Sequence[Attempt]) -> Position | None:
    """Return where a grant stands once it is restored from *record*; None: nothing shows that the record is the last.

    Args:
        lost: Where it stood.
        record: What a journal has of it.
        attempts: The last attempts, oldest first.
    """
    planned = int(record["refresh_at"])
    answers = [number for number, each in enumerate(attempts) if each.decided in _ANSWERED]
    last = attempts[answers[-1]] if answers else None
    is_planned = lost.state == "due" and lost.score == planned
    if lost.provider != record["provider"] or not (
        is_planned or (last is not None and last.next_at == planned // 1000 * 1000)
    ):
        return None
    later = attempts[answers[-1] + 1 :] if answers and not is_planned else ()
    unknown_at = next((each.at for each in later if each.outcome == "unknown"), None)
    if lost.state == "leased":  # a request was under way, and nobody recorded how it ended
        return Position(lost.at, unknown_at=unknown_at or lost.at)
    if lost.state == "parked":
        refusal = attempts[-1]
        return Position(lost.score, "reauthorization_required" if refusal.outcome == "dead" else refusal.error)
    return Position(lost.score, unknown_at=unknown_at)


def _parse(grant_id: bytes, text: bytes) -> LostGrant:
    state, score, at, provider = text.decode().split(" ", 3)
    return LostGrant(grant_id.decode(), provider, state, int(float(score)), int(at))  # type: ignore[arg-type]


def _maybe(grant_id: bytes, text: bytes) -> LostGrant | None:
    try:
        return _parse(grant_id, text)
    except (ValueError, OverflowError):  # no broker wrote it
        return None


def _pairs(flat: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
