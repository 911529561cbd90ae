"""Decide how long a notice waits: for more of the same, and for the end of quiet hours. Pure; times are epoch ms.

Every time follows from the notice alone, so that all replicas, and every try, come to the same one. Notices that fall
due together about one provider are one group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from broker.notify import policy
from broker.notify.policy import Problem

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import time, tzinfo

    from broker.model import NoticeEvent
    from broker.notify.policy import Condition, LastNotice


@dataclass(frozen=True, slots=True)
class Quiet:
    """Hours of the day in which only urgent notices are sent."""

    first: time
    last: time
    zone: tzinfo = UTC

    def ends_at(self, at: int) -> int | None:
        """Return when the quiet hours that *at* falls in end; None if it falls in none."""
        local = datetime.fromtimestamp(at / 1000, self.zone)
        clock = local.time()
        overnight = self.last < self.first
        if not (clock >= self.first or clock < self.last if overnight else self.first <= clock < self.last):
            return None
        day = local.date() + timedelta(days=1 if overnight and clock >= self.first else 0)
        end = datetime.combine(day, self.last, self.zone).replace(fold=local.fold)
        return max(at, int(end.timestamp() * 1000))


@dataclass(frozen=True, slots=True)
class Timing:
    """When the notices of one channel are sent."""

    group_ms: int = 0
    quiet: Quiet | None = None
    repeat_ms: int | None = None
    """Of a receiver that keeps problems open until it hears of their end; see `policy.decide`."""

    def due_at(self, event: NoticeEvent, since: int, served_until: int | None) -> int:
        """Return when a notice is sent that was first due at *since*.

        In quiet hours a suspended provider is urgent, since the tokens of all its grants run out; so is a grant that
        is not refreshed, as soon as its last token has ended. A receiver that keeps problems open hears of their end
        at any time: that wakes nobody.

        Args:
            event: what the notice says.
            since: when it was first due.
            served_until: when the grant's last token ends; None: it has none.
        """
        if event == "provider_suspended":
            return since
        due = self._group_end(since)
        ends_at = self.quiet.ends_at(due) if self.quiet else None
        if ends_at is None or (event == "recovered" and self.repeat_ms is not None):
            return due
        if event not in {"reauthorization_required", "refresh_failing"}:
            return ends_at
        return min(ends_at, self._group_end(max(since, served_until or 0)))

    def _group_end(self, at: int) -> int:
        return (at // self.group_ms + 1) * self.group_ms if self.group_ms else at


class Plan(NamedTuple):
    """What happens to a subject: *event* is sent now under *incident*, or (None) it is checked again at *check_at*."""

    event: NoticeEvent | None
    last: LastNotice
    check_at: int | None
    incident: str = ""


def plan(
    condition: Condition,
    last: LastNotice,
    now: int,
    wanted: Collection[str],
    timing: Timing,
    *,
    provider: str,
    recovered_after: int = 0,
) -> Plan:
    """Decide as `policy.decide` does, and let what it decides wait as long as *timing* says.

    An incident is `PROVIDER/EVENT/TIME`: what fell due together. It is kept until the problem ends or changes.
    """
    decision = policy.decide(
        condition, last, now, wanted, recovered_after=recovered_after, repeat_after=timing.repeat_ms
    )
    event, pending = decision.event, decision.last
    if event is None:
        return Plan(None, pending, decision.check_at)
    if isinstance(condition, Problem) and condition.level == last.level:  # a repetition
        return Plan(event, pending, now, last.incident)
    due = timing.due_at(event, pending.since, condition.ends_at if isinstance(condition, Problem) else None)
    if due > now:  # what is urgent, and what is over, must be seen before
        return Plan(None, pending, min(due, now + policy.RECHECK))
    return Plan(event, pending, now, last.incident if event == "recovered" else f"{provider}/{event}/{due}")


def after_delivery(condition: Condition, now: int, incident: str) -> tuple[LastNotice, int | None]:
    """Return what to remember, and when to check again, after the notice of *incident* was delivered."""
    last, check_at = policy.after_delivery(condition, now)
    return (replace(last, incident=incident) if last.level else last), check_at


def provider_of(incident: str) -> str:
    """Return the provider of an incident."""
    return incident.partition("/")[0]


def event_of(incident: str) -> str:
    """Return the event that opened an incident."""
    return incident.split("/")[1] if "/" in incident else ""
