"""The last attempts of a grant: when, by which replica, what they came to, and what was decided.

A list beside each grant, oldest first, written by the script that settles the attempt. Not fields of the grant's own
hash, which is where they were once: ten entries are half of what is known of a grant, and a claim, which wants none of
them, had to read past them, cold, for each of its 32 grants (with a million grants 1.5 times the cost with a thousand).

An entry is `decided outcome at next_in replica error error_description`, separated by tabs, times in seconds, and
bounded, since what a provider says may be long.
"""

from __future__ import annotations

import functools
import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.model import Commit, Park, Postpone

if TYPE_CHECKING:
    from broker.model import Grant, Step
    from broker.store.clock import Clock
    from broker.store.redis.primary import Primary
    from broker.store.scripts import Keys

KEPT = 10
"""Attempts remembered of each grant; the scripts count by it too."""
_FIELDS = ("unknown_at", "attempt_at", "attempt_by")
_LONGEST = 240
"""Bytes of an entry, without `decided`."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One token request that is over, or of which nobody said how it ended."""

    at: int
    """When its grant was claimed for it (epoch ms, whole seconds)."""
    replica: str
    outcome: str
    error: str
    error_description: str
    decided: str
    """kept, postponed, parked, suspended, restored (out of a journal) or open (its lease ended without a word)."""
    next_at: int | None
    """When the next was planned to be (epoch ms, whole seconds)."""


@dataclass(frozen=True, slots=True)
class Past:
    """What is remembered of a grant, and what that means for its next attempt. Times are epoch ms."""

    attempts: list[Attempt]
    """Oldest first."""
    under_way: tuple[int, str] | None
    """Since when, and by which replica, a token request is under way."""
    unknown_at: int | None
    """When a request went out, with the very refresh token held, whose answer nobody saw."""
    next_at: int | None
    """When it is due, or when its lease ends; None while it is parked."""
    fenced_until: int | None
    """Nobody claims anything until then: the store is another run than before."""
    forgotten_at: int | None


class Attempts:
    """Reads them. Raises `StoreUnavailable` when Redis cannot answer."""

    def __init__(self, primary: Primary, keys: Keys, clock: Clock) -> None:
        self._primary = primary
        self._keys = keys
        self._clock = clock

    async def of(self, grant_id: str, grant: Grant | None) -> Past:
        """The past of a grant, or of an id that has none any more."""
        keys, provider = self._keys, grant.provider if grant else ""
        row, tried, due, leased, open_at, forgotten = await self._primary.pipeline([
            ("HMGET", keys.grant(grant_id), *_FIELDS),
            ("LRANGE", keys.attempts_of(grant_id), 0, -1),
            ("ZSCORE", keys.ids("due", provider), grant_id),
            ("ZSCORE", keys.ids("leased", provider), grant_id),
            ("HGET", keys.epoch, "open_at"),
            ("ZSCORE", keys.forgotten, grant_id),
        ])  # fmt: skip
        unknown_at, attempt_at, attempt_by = row
        score, fence = due or leased, int(float(open_at or 0))
        return Past(
            attempts=[read(line) for line in tried],
            under_way=(int(attempt_at), (attempt_by or b"").decode()) if leased and attempt_at else None,
            unknown_at=int(unknown_at) if unknown_at else None,
            next_at=int(float(score)) if score else None,
            fenced_until=fence if fence > self._clock() else None,
            forgotten_at=int(float(forgotten)) if forgotten and grant is None else None,
        )


def read(line: bytes) -> Attempt:
    """An entry as a script wrote it."""
    decided, outcome, at, next_in, replica, error, description = line.decode("utf-8", "replace").split("\t", 6)
    at_ms = int(float(at)) * 1000
    next_at = at_ms + int(next_in) * 1000 if next_in else None
    return Attempt(
        at=at_ms,
        replica=replica,
        outcome=outcome,
        error=error,
        error_description=description,
        decided=decided,
        next_at=next_at,
    )


def remembered(step: Step, replica: str) -> str:
    """What is to be remembered of an attempt that came to *step*; the script puts what was decided in front."""
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
    """An entry without what was decided; *at* and *next_at* are epoch ms."""
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
    """How this broker is called where several are told apart: its host (a container's id, a pod's name) and process."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', socket.gethostname())[:48]}:{os.getpid()}"
