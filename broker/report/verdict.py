"""The verdict on a broker: how many grants have no valid token, why, what happens next, and what a person must do.

Pure: `judge` takes facts. One cause is one entry: what follows from another cause is not a cause of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from broker.report.broker_causes import find_broker_causes
from broker.report.cause import RANKS, Cause, Status
from broker.report.facts import Memory
from broker.report.grant_causes import GrantCauses
from broker.report.times import moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import tzinfo

    from broker.report.facts import Facts

EXIT_CODES: Mapping[Status, Literal[0, 1, 75, 77]] = {"ok": 0, "recovering": 75, "login_needed": 77, "failing": 1}
"""Exit codes of `token-broker status`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of a broker. Times are epoch seconds; None: not known."""

    status: Status
    summary: str
    """One sentence: what is wrong, and what to do."""
    public_summary: str
    """The same without the ids of grants, for routes that need no key."""
    at: int
    grants: int | None
    alive: int | None
    unserved: int | None
    next_end_at: int | None
    causes: Sequence[Cause] = ()
    providers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By name: grants, and those among them without a valid token."""
    memory: Memory = field(default_factory=Memory)


def judge(facts: Facts, zone: tzinfo | None = None) -> Verdict:
    """Return the verdict on *facts*; times in sentences are in *zone*, None: the local one."""
    known = facts.providers if facts.started else None
    causes = [*find_broker_causes(facts)]
    if known is not None and facts.store is None:
        causes += GrantCauses(facts, zone).find(known)
    causes.sort(key=_urgency)
    grants = None if known is None else sum(each.grants for each in known)
    unserved = None if known is None else sum(each.unserved for each in known)
    status: Status = max((cause.status for cause in causes), key=RANKS.index, default="ok")
    if status == "ok" and (known is None or unserved):
        status = "recovering"  # it starts, it counts, or a token ended while this was read
    head = _head(facts, grants, unserved, zone) + ("; " if unserved == 0 else ": ")
    return Verdict(
        status=status,
        summary=_summary(head, causes, with_ids=True),
        public_summary=_summary(head, causes, with_ids=False),
        at=facts.now,
        grants=grants,
        alive=None if grants is None or unserved is None else grants - unserved,
        unserved=unserved,
        next_end_at=min((each.next_end_at for each in known or () if each.next_end_at), default=None),
        causes=causes,
        providers={} if known is None else {each.name: (each.grants, each.unserved) for each in known},
        memory=facts.memory,
    )


def _urgency(cause: Cause) -> tuple[bool, bool, int, int]:
    """Return the place of a cause among others: Redis first, then what leaves callers without a token."""
    return (
        cause.kind not in {"redis", "wrong_store"},
        not (cause.unserved or cause.kind in {"journal", "audit"}),
        -RANKS.index(cause.status),
        -(cause.unserved or 0),
    )


def _head(facts: Facts, grants: int | None, unserved: int | None, zone: tzinfo | None) -> str:
    """Return how many grants have no valid token."""
    if facts.counting:
        return "The grants are being counted, as once after an upgrade"
    if grants is None or unserved is None:
        return _of_memory(facts, zone)
    if grants == 0:
        return "No grant is left" if facts.lost else "There are no grants yet"
    if unserved == 0:
        return "The grant has a valid token" if grants == 1 else f"All {grants:,} grants have a valid token"
    if unserved == grants:
        return "The only grant has no valid token" if grants == 1 else f"None of {grants:,} grants has a valid token"
    return f"{unserved:,} of {grants:,} grants {'has' if unserved == 1 else 'have'} no valid token"


def _of_memory(facts: Facts, zone: tzinfo | None) -> str:
    memory = facts.memory
    if not facts.started and facts.store is None:
        return "token-broker is starting"
    if not memory.tokens or memory.first_end_at is None or memory.last_end_at is None:
        return "No token is in memory, so callers get none"
    first, last = (moment(at, facts.now, zone) for at in (memory.first_end_at, memory.last_end_at))
    if memory.tokens == 1:
        return f"Only the token in memory is served, until {first}"
    if first == last:
        return f"Only the {memory.tokens:,} tokens in memory are served, until {first}"
    return f"Only the {memory.tokens:,} tokens in memory are served: the first ends at {first}, the last at {last}"


def _summary(head: str, causes: Sequence[Cause], *, with_ids: bool) -> str:
    if not causes:
        return f"{head[:-2]}."
    first, others = causes[0], len(causes) - 1
    more = "" if not others else " (and one more cause)" if others == 1 else f" (and {others} more causes)"
    return f"{head}{first.brief if with_ids else first.public_brief or first.brief}{more}."
