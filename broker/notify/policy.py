"""What people are told, and when. Pure: no I/O, no clock; `now` is given. Times are epoch ms, durations ms.

A notice is due when something is worse than what was told, and when it is well again after something was told. So
news that healed before it could be sent is never sent, and neither is its recovery.
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
"""Failures in a row after which a grant is failing; the scheduler tells subscribers after as many."""
RECHECK = 5_000
"""Between two looks at what is not well."""
RECHECK_ENDING = 3_600_000
SETTLED = 10_000
"""How long a provider must be well before that is told: one that is taken up again may be suspended a moment later."""
THRESHOLDS = (14 * 86_400_000, 3 * 86_400_000)
"""How long before its end a grant's coming end is told of."""
BACKOFF_FIRST, BACKOFF_LONGEST = 2_000, 900_000
"""Between two tries to send one notice."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is the matter with a subject. A higher *level* is worse, and worth telling after a lower one."""

    level: int
    event: NoticeEvent
    reason: str
    detail: str = ""
    ends_at: int | None = None
    """When a person must have logged in (reauthorize_soon), or until when a token is served; epoch ms."""


Condition = Problem | Literal["well", "unsure", "gone"]
"""*unsure*: nothing wrong to be seen, but no sign of success either. *gone*: nothing to be told about."""


class Limits(NamedTuple):
    """How long a provider's grants live: in all, and unused (ms; None: no limit that we know)."""

    absolute: int | None = None
    idle: int | None = None


@dataclass(frozen=True, slots=True)
class LastNotice:
    """What the last look at a subject wrote down."""

    level: int = 0
    """The worst that people know of; 0: nothing."""
    at: int = 0
    """When they were told."""
    well_at: int = 0
    """Since when it has been seen well; 0: it is not."""
    id: str = ""
    """Of the notice that is on its way, so that a receiver can tell a repetition; empty: none is."""
    news: str = ""
    """What that notice says, so that another one gets another id."""
    since: int = 0
    """When that notice was due first."""
    tries: int = 0

    def record(self) -> str:
        """As the store keeps it."""
        return "" if self == LastNotice() else json.dumps({key: value for key, value in asdict(self).items() if value})

    @classmethod
    def of(cls, record: str) -> LastNotice:
        """As the store kept it."""
        return cls(**json.loads(record)) if record else cls()


class Decision(NamedTuple):
    """What comes of a look: an event to tell of, or None; what to write down; when to look again (None: never)."""

    tell: NoticeEvent | None
    told: LastNotice
    look_at: int | None


def decide(condition: Condition, told: LastNotice, now: int, wanted: Collection[str], *, settle: int = 0) -> Decision:
    """What to tell of a subject whose *condition* is that, and of which *told* was told until now.

    Only what is *wanted* is told, and a recovery only of what was told. *settle*: how long it must be well for that.
    """
    match condition:
        case "gone":
            return _DROP
        case "unsure":
            return Decision(None, replace(told, well_at=0), now + RECHECK) if told.level else _DROP
        case "well":
            if not told.level or "recovered" not in wanted:
                return _DROP
            since = told.well_at or now
            if now - since < settle:
                return Decision(None, replace(told, well_at=since), now + RECHECK)
            return Decision("recovered", _pending(replace(told, well_at=since), "recovered", now), now)
        case Problem(level, event):
            if level > told.level and event in wanted:
                return Decision(event, _pending(replace(told, well_at=0), f"{event} {level}", now), now)
            again = now + (RECHECK_ENDING if event == "reauthorize_soon" else RECHECK)
            return Decision(None, replace(told, well_at=0, id="", news="", tries=0), again) if told.level else _DROP


def _pending(told: LastNotice, news: str, now: int) -> LastNotice:
    """The same, with *news* on its way: as it is if it was before, else as what has no id yet."""
    return told if told.news == news else replace(told, id="", news=news, since=now, tries=0)


_DROP = Decision(None, LastNotice(), None)


def sent(condition: Condition, now: int) -> tuple[LastNotice, int | None]:
    """What to write down, and when to look again, after the pending notice reached its receiver."""
    if not isinstance(condition, Problem):
        return LastNotice(), None
    again = RECHECK_ENDING if condition.event == "reauthorize_soon" else RECHECK
    return LastNotice(level=condition.level, at=now), now + again


def failed(told: LastNotice, now: int, draw: float) -> tuple[LastNotice, int]:
    """Likewise after it did not. *draw* is a number in [0, 1)."""
    pause = min(BACKOFF_LONGEST, BACKOFF_FIRST * 2 ** min(told.tries, 16))
    return replace(told, tries=told.tries + 1), now + int(pause * (0.5 + draw / 2))


def grant_condition(grant: Grant | None, told: LastNotice) -> Condition:
    """Whether a grant is refreshed as it should be. It is well again only after a refresh, or a login, since *told*."""
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
        return "unsure"
    if grant.last_outcome is None:  # logged in or imported, and not refreshed since
        return "well" if grant.token.issued_at > told.at else "unsure"
    return "well" if grant.last_outcome in {"refreshed", "unchanged"} else "unsure"


def provider_condition(state: ProviderState) -> Condition:
    """Whether a provider takes our requests."""
    if state.suspended is None:
        return "well"
    return Problem(1, "provider_suspended", state.suspended, state.detail or "")


def ending(grant: Grant | None, limits: Limits, now: int) -> Condition:
    """Whether a person must log in again soon: at level 1 two weeks before, at level 2 three days before.

    Not so where a threshold is more than half of what the limit grants: a grant whose idle limit is two weeks is not
    near its end on its first day. A dead grant has come to it, and one that was logged in again needs no all-clear.
    """
    if grant is None or grant.reason == "reauthorization_required" or grant.reauthorize_by is None:
        return "gone"
    level = nearness(grant.granted_at, grant.reauthorize_by, limits, now)
    return Problem(level, "reauthorize_soon", "reauthorize_by", ends_at=grant.reauthorize_by) if level else "gone"


def nearness(granted_at: int, by: int, limits: Limits, now: int) -> int:
    """How near the end *by* of a grant is: 0, 1 within two weeks, 2 within three days; see `ending`."""
    span = by - granted_at
    if limits.absolute is not None and by >= granted_at + limits.absolute:
        span = limits.absolute
    elif limits.idle is not None:
        span = limits.idle
    level = sum(now >= by - before for before in THRESHOLDS if before <= span / 2)
    return level and level + sum(before > span / 2 for before in THRESHOLDS)
