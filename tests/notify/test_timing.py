"""When a notice is sent, as decisions: groups, quiet hours, what is urgent, and what a service hears of an end."""

from __future__ import annotations

from datetime import datetime, time
from typing import get_args
from zoneinfo import ZoneInfo

import pytest

from broker.model import NoticeEvent
from broker.notify import policy
from broker.notify.policy import Condition, LastNotice, Problem
from broker.notify.timing import Plan, Quiet, Timing, after_delivery, event_of, plan, provider_of

BERLIN = ZoneInfo("Europe/Berlin")
ALL = get_args(NoticeEvent)
NIGHT = Quiet(time(22), time(7), BERLIN)
DEAD = Problem(3, "reauthorization_required", "reauthorization_required")
FAILING = Problem(1, "refresh_failing", "busy")


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> int:
    """Return epoch ms of a local time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp() * 1000)


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-11-30T21:59:59", None),
        ("2026-11-30T22:00", "2026-12-01T07:00"),
        ("2026-12-01T06:59:59", "2026-12-01T07:00"),
        ("2026-12-01T07:00", None),
        ("2026-03-28T23:30", "2026-03-29T07:00"),  # the night loses an hour
        ("2026-10-24T23:30", "2026-10-25T07:00"),  # and gains one
    ],
)
def test_overnight(now: str, end: str | None) -> None:
    """Quiet hours end at the next morning's time of the clock, whatever the night's length is."""
    assert NIGHT.ends_at(at(now)) == (at(end) if end else None)


def test_by_day_and_over_a_repeated_hour() -> None:
    """Quiet hours within a day end that day; in an hour that the clock repeats, each repetition has its own end."""
    noon = Quiet(time(12), time(14), BERLIN)
    assert noon.ends_at(at("2026-11-30T13:00")) == at("2026-11-30T14:00")
    assert noon.ends_at(at("2026-11-30T11:59")) is None
    early = Quiet(time(1), time(2, 30), BERLIN)
    assert early.ends_at(at("2026-10-25T02:15", fold=1)) == at("2026-10-25T02:30", fold=1)


@pytest.mark.parametrize(
    ("event", "served_until", "due"),
    [
        ("reauthorization_required", None, "2026-11-30T23:01"),
        ("reauthorization_required", "2026-11-30T22:10", "2026-11-30T23:01"),
        ("reauthorization_required", "2026-12-01T03:00:30", "2026-12-01T03:01"),
        ("reauthorization_required", "2026-12-01T09:00", "2026-12-01T07:00"),
        ("refresh_failing", None, "2026-11-30T23:01"),
        ("refresh_failing", "2026-12-01T09:00", "2026-12-01T07:00"),
        ("reauthorize_soon", None, "2026-12-01T07:00"),
        ("recovered", None, "2026-12-01T07:00"),
        ("provider_suspended", None, "2026-11-30T23:00:10"),
    ],
)
def test_due_at_night(event: NoticeEvent, served_until: str | None, due: str) -> None:
    """At night only those are sent whose callers get no token any more, as soon as that is so."""
    timing = Timing(60_000, NIGHT)
    assert timing.due_at(event, at("2026-11-30T23:00:10"), at(served_until) if served_until else None) == at(due)


def test_an_end_wakes_nobody() -> None:
    """A service that keeps problems open hears of their end at night, too."""
    timing = Timing(60_000, NIGHT, repeat_ms=300_000)
    assert timing.due_at("recovered", at("2026-11-30T23:00:10"), None) == at("2026-11-30T23:01")


def decided(condition: Condition, last: LastNotice, now: int, timing: Timing) -> Plan:
    """Plan for a grant of the provider acme."""
    return plan(condition, last, now, ALL, timing, provider="acme")


def test_what_falls_due_together_is_one_incident() -> None:
    """Two grants that die within the time of a group are sent at the same time, under the same incident."""
    timing = Timing(30_000)
    plans = []
    for now in (60_001, 89_999):
        first = decided(DEAD, LastNotice(), now, timing)
        assert (first.event, first.check_at) == (None, min(90_000, now + policy.RECHECK))
        plans.append(decided(DEAD, first.last, 90_000, timing))
    assert {(sent.event, sent.incident) for sent in plans} == {
        ("reauthorization_required", "acme/reauthorization_required/90000")
    }
    assert (provider_of(plans[0].incident), event_of(plans[0].incident)) == ("acme", "reauthorization_required")
    later = decided(DEAD, LastNotice(), 90_000, timing)
    assert decided(DEAD, later.last, 120_000, timing).incident != plans[0].incident


def test_what_ends_while_it_waits_is_not_sent() -> None:
    """A problem of the night that is over by the morning causes no notice; one that gets urgent does at once."""
    timing, night = Timing(0, NIGHT), at("2026-11-30T23:00")
    waiting = decided(FAILING, LastNotice(), night, timing)
    assert waiting.event == "refresh_failing"  # no token is left: urgent
    served = Problem(1, "refresh_failing", "busy", ends_at=at("2026-12-01T09:00"))
    waiting = decided(served, LastNotice(), night, timing)
    assert (waiting.event, waiting.last.news) == (None, "refresh_failing 1")
    assert decided("healthy", waiting.last, night + 5000, timing) == Plan(None, LastNotice(), None)
    assert decided(DEAD, waiting.last, night + 5000, timing).event == "reauthorization_required"
    assert decided(served, waiting.last, at("2026-12-01T07:00"), timing).event == "refresh_failing"


def test_services_that_keep_problems_open() -> None:
    """They hear a problem again after a while, its ease, and its end, also where the grant is gone."""
    timing = Timing(0, repeat_ms=300_000)
    sent = decided(DEAD, LastNotice(), 1000, timing)
    last, check_at = after_delivery(DEAD, 1000, sent.incident)
    assert (last.incident, check_at) == (sent.incident, 1000 + policy.RECHECK)
    assert decided(DEAD, last, 300_999, timing).event is None
    again = decided(DEAD, last, 301_000, timing)
    assert (again.event, again.incident) == ("reauthorization_required", sent.incident)
    eased = decided(FAILING, last, 2000, timing)
    assert (eased.event, event_of(eased.incident)) == ("refresh_failing", "refresh_failing")
    gone = decided("gone", last, 2000, timing)
    assert (gone.event, gone.incident) == ("recovered", sent.incident)
    assert after_delivery("gone", 2000, gone.incident) == (LastNotice(), None)
    for condition in (FAILING, "gone"):  # others hear nothing of either
        assert decided(condition, last, 2000, Timing(0)).event is None


def test_records_of_a_later_version() -> None:
    """A record with a member that this version does not know is read all the same."""
    assert LastNotice.parse('{"level": 2, "at": 5, "colour": "red"}') == LastNotice(level=2, at=5)
