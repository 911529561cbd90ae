"""The last attempts of a grant: when, by which replica, with which outcome, and what was decided.

A list beside each grant, oldest first; the script that decides about an attempt appends to it. The entries are no
fields of the grant's own hash, as they once were: ten entries are half of a grant's data, and a claim, which needs none
of them, had to read past them, cold, for each of its 32 grants (with a million grants 1.5 times the cost with a
thousand).

An entry is `decided outcome at next_in replica error error_description`, separated by tabs, with times in seconds. It
is bounded, since a provider's description may be long.
"""

from __future__ import annotations

import functools
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.model import Commit, Park, Postpone
from broker.store.damaged import list_or_empty, numbers
from broker.store.fields import maybe_int, maybe_text, score_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.model import Grant, Step
    from broker.store.clock import Clock
    from broker.store.redis.primary import Primary
    from broker.store.scripts import Keys

KEPT = 10
"""How many attempts are kept of each grant; the prelude of the scripts says the same."""
REGISTERED = "registered"
"""What an entry says that is no attempt: a login or an import replaced the grant here."""
_FIELDS = ("unknown_at", "attempt_at", "attempt_by")
_LONGEST = 240
"""Most bytes of an entry, without `decided`."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One token request that ended, or of which nobody recorded how it ended."""

    at: int
    """When its grant was claimed for it (epoch ms, whole seconds)."""
    replica: str
    outcome: str
    error: str
    error_description: str
    decided: str
    """kept, postponed, parked, suspended, restored (from a journal) or open (its lease ended without a record).

    Of a refusal that may mean the client registration also undecided, and postponed_alone or parked_alone where other
    grants of the provider succeed meanwhile.
    """
    next_at: int | None
    """When the next attempt was planned (epoch ms, whole seconds)."""

    @classmethod
    def parse(cls, line: bytes) -> Attempt:
        """Return the attempt of an entry as a script wrote it."""
        decided, outcome, at, next_in, replica, error, description = line.decode("utf-8", "replace").split("\t", 6)
        at_ms = int(float(at)) * 1000
        next_at = at_ms + int(next_in) * 1000 if next_in else None
        return cls(at_ms, replica, outcome, error, error_description=description, decided=decided, next_at=next_at)


@dataclass(frozen=True, slots=True)
class Past:
    """The attempts of a grant, and what they mean for its next one. Times are epoch ms."""

    attempts: list[Attempt]
    """Oldest first."""
    under_way: tuple[int, str] | None
    """Since when a token request is under way, and by which replica."""
    unknown_at: int | None
    """When a request with the stored refresh token was sent, whose answer nobody saw."""
    next_at: int | None
    """When the grant is due, or when its lease ends; None while it is parked."""
    fenced_until: int | None
    """Nobody claims anything until then, because another run of the server was noticed."""
    forgotten_at: int | None
    lost_at: int | None = None
    """When its data was found to be gone from Redis (see `lost`)."""


class Attempts:
    """Reads the attempts of grants. Raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, primary: Primary, keys: Keys, clock: Clock) -> None:
        self._primary = primary
        self._keys = keys
        self._clock = clock

    async def fence(self) -> tuple[int, int] | None:
        """Return since when and until when nobody claims anything (epoch ms), because another run was noticed."""
        open_at, hold_off = await self._primary.call("HMGET", self._keys.epoch, "open_at", "hold_off")
        until, length = maybe_int(open_at) or 0, maybe_int(hold_off) or 0
        return (until - length, until) if self._clock() < until <= self._clock() + length else None

    async def for_grant(self, grant_id: str, grant: Grant | None) -> Past:
        """Return the past of a grant, or of an id that has no grant any more (*grant* is None)."""
        keys, provider = self._keys, grant.provider if grant else ""
        row, tried, due, leased, open_at, forgotten, lost = await self._primary.pipeline_each(
            [
                ("HMGET", keys.grant(grant_id), *_FIELDS),
                ("LRANGE", keys.attempts_of(grant_id), 0, -1),
                ("ZSCORE", keys.ids("due", provider), grant_id),
                ("ZSCORE", keys.ids("leased", provider), grant_id),
                ("HGET", keys.epoch, "open_at"),
                ("ZSCORE", keys.forgotten, grant_id),
                ("HGET", keys.lost, grant_id),
            ]
        )
        unknown_at, attempt_at, attempt_by = [None] * len(_FIELDS) if isinstance(row, Exception) else row
        unknown, began = numbers((unknown_at, attempt_at))
        due, leased = (None if isinstance(score, Exception) else score for score in (due, leased))
        open_at, forgotten = (None if isinstance(at, Exception) else at for at in (open_at, forgotten))
        score, fence = due or leased, maybe_int(open_at) or 0
        return Past(
            attempts=[each for each in _parsed(list_or_empty(tried)) if each.decided != REGISTERED],
            under_way=(began, maybe_text(attempt_by) or "") if leased and began else None,
            unknown_at=unknown,
            next_at=score_ms(score) if score else None,
            fenced_until=fence if fence > self._clock() else None,
            forgotten_at=score_ms(forgotten) if forgotten and grant is None else None,
            lost_at=_lost_at(lost) if grant is None else None,
        )


def _lost_at(noted: bytes | Exception | None) -> int | None:
    """Return since when a grant is lost, of what is noted of it; None where that is damaged, or nothing is noted."""
    parts = noted.split() if isinstance(noted, bytes) else []
    return maybe_int(parts[2]) if len(parts) > 2 else None


def _parsed(lines: Sequence[bytes]) -> list[Attempt]:
    """Return the attempts of the entries that are ones: others were not written by a broker."""
    found = []
    for line in lines:
        with suppress(ValueError, OverflowError):
            found.append(Attempt.parse(line))
    return found


def attempt_record(step: Step, replica: str) -> str:
    """Return the entry of the attempt that ended with *step*; the script puts its decision in front."""
    at = step.claim.claimed_at
    match step:
        case Commit():
            return entry(step.outcome, at, step.refresh_at, replica, description=step.detail or "")
        case Postpone():
            return entry(step.outcome, at, step.due_at, replica, error=step.code, description=step.detail)
        case Park():
            detail = step.detail.removeprefix(step.code).removeprefix(": ") if step.code else step.detail
            return entry(step.outcome, at, None, replica, error=step.code or step.reason, description=detail)


def entry(outcome: str, at: int, next_at: int | None, replica: str, *, error: str = "", description: str = "") -> str:
    """Return an entry without `decided`; *at* and *next_at* are epoch ms."""
    second = at // 1000
    next_in = "" if next_at is None else max(0, next_at // 1000 - second)
    head = f"{outcome}\t{second}\t{next_in}\t{replica}\t{_plain(error)}\t"
    if not description:
        return head
    room = _LONGEST - len(head.encode())
    shown = _plain(description).encode()
    return head + (shown.decode() if len(shown) <= room else shown[: room - 3].decode("utf-8", "ignore") + "…")


def _plain(text: str) -> str:
    return text.replace("\t", " ").encode("utf-8", "replace").decode()


@functools.cache
def replica_name() -> str:
    """Return the name of this replica among others: its host (a container's id, a pod's name) and its process id."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', socket.gethostname())[:48]}:{os.getpid()}"
