"""Decide when to notify people, and of what. Pure: no I/O, no clock; `now` is given. Times are epoch ms, durations ms.

Notify when a condition gets worse than last reported, and once when it clears. A condition that clears before its
notice could be sent causes no notice, and neither does its recovery.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from broker.model import Grant, NoticeEvent
    from broker.store import ProviderState

FAILING_AFTER = 3
"""Failures in a row after which a grant counts as failing; the scheduler informs subscribers at the same count."""
RECHECK = 5_000
"""Between two checks of a subject that has a problem."""
RECHECK_ENDING = 3_600_000
"""Between two checks of a grant whose end is near."""
RECOVERED_AFTER = 10_000
"""How long a provider must be healthy before people hear of it: a resumed one may be suspended a moment later."""
THRESHOLDS = (14 * 86_400_000, 3 * 86_400_000)
"""How long before a grant's end a notice is due."""
BACKOFF_FIRST, BACKOFF_LONGEST = 2_000, 900_000
"""Between two tries to send one notice."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a subject. A higher *level* is worse, and causes a notice after a lower one."""

    level: int
    event: NoticeEvent
    reason: str
    detail: str = ""
    ends_at: int | None = None
    """When a person must have logged in (reauthorize_soon), or until when a token is served; epoch ms."""


Condition = Problem | Literal["healthy", "uncertain", "gone"]
"""*uncertain*: no visible problem, but no success either. *gone*: nothing is left to notify of."""


class Limits(NamedTuple):
    """How long a provider's grants live: in all, and unused (ms; None: no known limit)."""

    absolute: int | None = None
    idle: int | None = None


@dataclass(frozen=True, slots=True)
class LastNotice:
    """What the store remembers of a subject between two checks: the last notice, and the pending one."""

    level: int = 0
    """The worst level that people know of; 0: none."""
    at: int = 0
    """When they were notified."""
    well_at: int = 0
    """Since when the subject is healthy; 0: it is not."""
    id: str = ""
    """Of the pending notice, so that a receiver recognises a repetition; empty: none is pending."""
    news: str = ""
    """Event and level of the pending notice, so that another one gets another id."""
    since: int = 0
    """When the pending notice was first due."""
    tries: int = 0
    incident: str = ""
    """Of a channel that groups: the incident that people know the problem by, as `timing` names it."""

    def serialize(self) -> str:
        """Return the form that the store keeps."""
        return "" if self == LastNotice() else json.dumps({key: value for key, value in asdict(self).items() if value})

    @classmethod
    def parse(cls, record: str) -> LastNotice:
        """Parse what the store kept; members that only a later version knows are left out."""
        if not record:
            return cls()
        return cls(**{name: value for name, value in json.loads(record).items() if name in cls.__slots__})


class Decision(NamedTuple):
    """The result of a check: what to notify of (None: nothing), what to remember, when to check again (None: never)."""

    event: NoticeEvent | None
    last: LastNotice
    check_at: int | None


def decide(
    condition: Condition,
    last: LastNotice,
    now: int,
    wanted: Collection[str],
    *,
    recovered_after: int = 0,
    repeat_after: int | None = None,
) -> Decision:
    """Decide what to notify of, given the subject's *condition* and its *last* notice.

    Args:
        condition: of the subject now.
        last: what people know of it.
        now: epoch ms.
        wanted: the events to notify of. A recovery is reported only after a problem was.
        recovered_after: how long (ms) the subject must be healthy before its recovery is reported.
        repeat_after: of a receiver that keeps problems open until it hears of their end: how long (ms) after a notice
            it is repeated. Such a receiver also gets the end of a subject that is gone, and of a worse condition.
    """
    match condition:
        case "gone" if repeat_after is not None and last.level and "recovered" in wanted:
            return Decision("recovered", _pending(last, "recovered", now), now)
        case "gone":
            return _DROP
        case "uncertain":
            return Decision(None, replace(last, well_at=0), now + RECHECK) if last.level else _DROP
        case "healthy":
            if not last.level or "recovered" not in wanted:
                return _DROP
            since = last.well_at or now
            if now - since < recovered_after:
                return Decision(None, replace(last, well_at=since), now + RECHECK)
            return Decision("recovered", _pending(replace(last, well_at=since), "recovered", now), now)
        case Problem(level, event):
            news = f"{event} {level}"
            due = level > last.level
            if repeat_after is not None and last.level:
                due = level != last.level or now - last.at >= repeat_after
            if due and event in wanted:
                return Decision(event, _pending(replace(last, well_at=0), news, now), now)
            again = now + (RECHECK_ENDING if event == "reauthorize_soon" else RECHECK)
            return Decision(None, replace(last, well_at=0, id="", news="", tries=0), again) if last.level else _DROP


def _pending(last: LastNotice, news: str, now: int) -> LastNotice:
    """Return *last* with a pending notice of *news*: unchanged if that is pending already, else one without an id."""
    return last if last.news == news else replace(last, id="", news=news, since=now, tries=0)


_DROP = Decision(None, LastNotice(), None)


def after_delivery(condition: Condition, now: int) -> tuple[LastNotice, int | None]:
    """Return what to remember, and when to check again, after the pending notice was delivered."""
    if not isinstance(condition, Problem):
        return LastNotice(), None
    again = RECHECK_ENDING if condition.event == "reauthorize_soon" else RECHECK
    return LastNotice(level=condition.level, at=now), now + again


def after_failure(last: LastNotice, now: int, draw: float) -> tuple[LastNotice, int]:
    """Return the same after the pending notice was not delivered. *draw* is a random number in [0, 1)."""
    pause = min(BACKOFF_LONGEST, BACKOFF_FIRST * 2 ** min(last.tries, 16))
    return replace(last, tries=last.tries + 1), now + int(pause * (0.5 + draw / 2))


def grant_condition(grant: Grant | None, last: LastNotice) -> Condition:
    """Return whether a grant is refreshed as it should be; healthy only after a refresh, or a login, since *last*."""
    if grant is None:
        return "gone"
    served_until = grant.token.expires_at if grant.token else None
    detail = grant.last_detail or ""
    if grant.reason == "reauthorization_required":
        detail = detail.removeprefix("reauthorization_required").removeprefix(": ")
        return Problem(3, "reauthorization_required", grant.reason, detail, served_until)
    if grant.reason is not None:
        return Problem(2, "refresh_failing", grant.reason, detail, served_until)
    if grant.failures >= FAILING_AFTER:
        return Problem(1, "refresh_failing", grant.last_outcome or "unknown", detail, served_until)
    if grant.failures or grant.token is None:
        return "uncertain"
    if grant.last_outcome is None:  # logged in or imported, and not refreshed since
        return "healthy" if grant.token.issued_at > last.at else "uncertain"
    return "healthy" if grant.last_outcome in {"refreshed", "unchanged"} else "uncertain"


def provider_condition(state: ProviderState) -> Condition:
    """Return whether a provider accepts this broker's requests."""
    if state.suspended is None:
        return "healthy"
    return Problem(1, "provider_suspended", state.suspended, state.detail or "")


def ending_condition(grant: Grant | None, limits: Limits, now: int) -> Condition:
    """Return whether a person must log in again soon: level 1 two weeks before the end, level 2 three days before.

    A threshold of more than half of the limit does not count: a grant whose idle limit is two weeks is not near its
    end on its first day. A dead grant has reached its end, and a new login needs no all-clear.
    """
    if grant is None or grant.reason == "reauthorization_required" or grant.reauthorize_by is None:
        return "gone"
    level = warning_level(grant.granted_at, grant.reauthorize_by, grant.reauthorize_limit, limits, now)
    return Problem(level, "reauthorize_soon", "reauthorize_by", ends_at=grant.reauthorize_by) if level else "gone"


def warning_level(granted_at: int, by: int, limit: int | None, limits: Limits, now: int) -> int:
    """Return how near the end *by* is: 0, 1 within two weeks, 2 within three days; see `ending_condition`.

    *limit* is the whole length of the limit that *by* comes of; where it is not known, *limits* stand in.
    """
    span = by - granted_at
    if limit is not None:
        span = limit
    elif limits.absolute is not None and by >= granted_at + limits.absolute:
        span = limits.absolute
    elif limits.idle is not None:
        span = limits.idle
    level = sum(now >= by - before for before in THRESHOLDS if before <= span / 2)
    return level and level + sum(before > span / 2 for before in THRESHOLDS)
