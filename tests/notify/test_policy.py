"""When people are notified, and of what, as decisions: no clock, no store, no network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from broker.model import Grant, NoticeEvent, Token
from broker.notify.policy import (
    Decision,
    LastNotice,
    Limits,
    Problem,
    after_delivery,
    after_failure,
    decide,
    ending_condition,
    grant_condition,
)
from broker.secret import Secret

DAY = 86_400_000
NOW = 1_800_000_000_000
ALL = get_args(NoticeEvent)
FAILING = Problem(1, "refresh_failing", "busy")
REJECTED = Problem(2, "refresh_failing", "invalid_scope")
DEAD = Problem(3, "reauthorization_required", "reauthorization_required")


def grant(**more: Any) -> Grant:
    """Make a grant that was refreshed a minute ago, with the fields that *more* gives."""
    end = NOW + 3_600_000
    token = Token("g1", "acme", 1, Secret("x"), "Bearer", None, NOW - 60_000, end, NOW + 1_800_000, end)
    fields: dict[str, Any] = {
        "grant_id": "g1",
        "provider": "acme",
        "generation": 1,
        "token": token,
        "granted_at": NOW - DAY,
        "reauthorize_by": None,
        "refresh_at": NOW,
        "failures": 0,
        "reason": None,
        "last_outcome": "refreshed",
        "last_detail": "",
        "last_at": NOW - 60_000,
    }
    return Grant(**fields | more)


def notified_of(condition: Problem) -> LastNotice:
    """Return what the store remembers after a notice of *condition*."""
    last, _ = after_delivery(condition, NOW - 1000)
    return last


@pytest.mark.parametrize(
    ("condition", "before", "event"),
    [
        (FAILING, LastNotice(), "refresh_failing"),
        (REJECTED, LastNotice(), "refresh_failing"),
        (DEAD, LastNotice(), "reauthorization_required"),
        (DEAD, notified_of(FAILING), "reauthorization_required"),
        (REJECTED, notified_of(FAILING), "refresh_failing"),
        ("healthy", notified_of(DEAD), "recovered"),
        (FAILING, notified_of(FAILING), None),
        (FAILING, notified_of(DEAD), None),
        (DEAD, notified_of(DEAD), None),
        ("healthy", LastNotice(), None),
        ("uncertain", notified_of(DEAD), None),
        ("gone", notified_of(DEAD), None),
        ("uncertain", LastNotice(), None),
    ],
)
def test_change_causes_one_notice(condition: Any, before: LastNotice, event: str | None) -> None:
    """A worse condition causes a notice, and so does its recovery; the same one twice or a milder one does not."""
    decision = decide(condition, before, NOW, ALL)
    assert decision.event == event
    if event is None and before.level and condition != "gone":
        assert decision.last.level == before.level
        assert decision.check_at is not None
    if condition == "gone":
        assert decision == Decision(None, LastNotice(), None)


def test_unsent_notice_is_dropped_on_recovery() -> None:
    """A notice that could not be sent before the grant recovered is never sent, nor is one of the recovery."""
    decision = decide(DEAD, LastNotice(), NOW, ALL)
    waiting, _ = after_failure(replace(decision.last, id="msg_1"), NOW, 0.5)
    assert decide("healthy", waiting, NOW + 5, ALL) == Decision(None, LastNotice(), None)


def test_repeats_under_one_id_until_the_problem_is_another() -> None:
    """A notice keeps id and time over its tries; a worse problem by then is another notice."""
    decision = decide(FAILING, LastNotice(), NOW, ALL)
    last = replace(decision.last, id="msg_1")
    for tries in range(1, 30):
        last, again = after_failure(last, NOW, 1.0)
        assert (last.tries, last.id, last.since) == (tries, "msg_1", NOW)
        assert 2_000 <= again - NOW <= 900_000
        assert decide(FAILING, last, again, ALL).last == last
    worse = decide(REJECTED, last, NOW + 9, ALL).last
    assert (worse.id, worse.since, worse.tries) == ("", NOW + 9, 0)
    assert LastNotice.parse(last.serialize()) == last
    assert LastNotice.parse(LastNotice().serialize()) == LastNotice()


def test_events_filter() -> None:
    """An unwanted event is neither sent nor remembered as sent; a recovery follows only a notice."""
    assert decide(FAILING, LastNotice(), NOW, ["recovered"]) == Decision(None, LastNotice(), None)
    assert decide("healthy", notified_of(DEAD), NOW, ["reauthorization_required"]) == Decision(None, LastNotice(), None)
    kept = decide(DEAD, notified_of(FAILING), NOW, ["refresh_failing", "recovered"])
    assert (kept.event, kept.last.level) == (None, 1)


def test_recovery_that_must_last() -> None:
    """A provider must be healthy for a while: one resumed by hand that fails again causes no notice of recovery."""
    last = notified_of(Problem(1, "provider_suspended", "invalid_client"))
    decision = decide("healthy", last, NOW, ALL, recovered_after=10_000)
    assert (decision.event, decision.last.well_at) == (None, NOW)
    again = decide(
        Problem(1, "provider_suspended", "invalid_client"), decision.last, NOW + 5_000, ALL, recovered_after=10_000
    )
    assert (again.event, again.last.well_at, again.last.level) == (None, 0, 1)
    assert decide("healthy", decision.last, NOW + 9_999, ALL, recovered_after=10_000).event is None
    assert decide("healthy", decision.last, NOW + 10_000, ALL, recovered_after=10_000).event == "recovered"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, "healthy"),
        ({"failures": 2, "last_outcome": "busy"}, "uncertain"),
        ({"token": None}, "uncertain"),
        ({"failures": 3, "last_outcome": "busy"}, 1),
        ({"reason": "invalid_scope"}, 2),
        ({"reason": "reauthorization_required", "last_outcome": "dead"}, 3),
        # retried by hand: no reason, no failures, and no success yet
        ({"last_outcome": "dead"}, "uncertain"),
        ({"last_outcome": "unchanged"}, "healthy"),
    ],
)
def test_condition_of_a_grant(state: dict[str, Any], expected: Any) -> None:
    """Only a refreshed grant is healthy; a retry alone changes nothing."""
    condition = grant_condition(grant(**state), LastNotice())
    assert (condition.level if isinstance(condition, Problem) else condition) == expected


def test_login_heals_and_import_alone_does_not() -> None:
    """After a login the token is newer than the notice; an import waits for its first refresh."""
    fresh = grant(last_outcome=None, last_at=None)
    assert grant_condition(fresh, LastNotice(level=3, at=NOW - 120_000)) == "healthy"
    assert grant_condition(fresh, LastNotice(level=3, at=NOW - 30_000)) == "uncertain"
    assert grant_condition(None, LastNotice(level=3)) == "gone"


def test_reason_is_cut_from_the_provider_s_words() -> None:
    """The reason the store gives a dead grant is not taken for the provider's error code."""
    dead = grant_condition(
        grant(reason="reauthorization_required", last_detail="reauthorization_required: invalid_grant: revoked"),
        LastNotice(),
    )
    assert isinstance(dead, Problem)
    assert dead.detail == "invalid_grant: revoked"


@pytest.mark.parametrize(
    ("granted", "by", "limits", "level"),
    [
        (-60, 30, Limits(90 * DAY), 0),
        (-77, 13, Limits(90 * DAY), 1),
        (-88, 2, Limits(90 * DAY), 2),
        (-91, -1, Limits(90 * DAY), 2),
        # an idle limit of two weeks is always less than two weeks away: only its last three days count
        (-30, 13.5, Limits(90 * DAY, 14 * DAY), 0),
        (-30, 2.5, Limits(90 * DAY, 14 * DAY), 2),
        (-80, 10, Limits(90 * DAY, 14 * DAY), 1),
        # a life shorter than the warning
        (-0.1, 4.9, Limits(5 * DAY), 0),
        (-1, 6, Limits(7 * DAY), 0),
        (-5, 2, Limits(7 * DAY), 2),
        # a provider that is no longer in the settings: by its own dates
        (-40, 10, Limits(), 1),
        (-1, 2, Limits(), 0),
    ],
)
def test_coming_end(granted: float, by: float, limits: Limits, level: int) -> None:
    """Two weeks and three days before the end, where that is not half of the grant's life."""
    condition = ending_condition(
        grant(granted_at=NOW + int(granted * DAY), reauthorize_by=NOW + int(by * DAY)), limits, NOW
    )
    assert (condition.level if isinstance(condition, Problem) else 0) == level
    dead = grant(reauthorize_by=NOW, reason="reauthorization_required")
    assert (
        ending_condition(dead, limits, NOW)
        == ending_condition(None, limits, NOW)
        == ending_condition(grant(), limits, NOW)
        == "gone"
    )


@pytest.mark.parametrize(
    ("granted", "by", "limit", "level"),
    [
        pytest.param(-300, 0.02, 0.02, 0, id="a session of half an hour, said anew with each answer"),
        pytest.param(-300, 29, 30, 0, id="a month, said anew with each answer"),
        pytest.param(-300, 13, 30, 1, id="the same, and nobody has refreshed it"),
        pytest.param(-352, 13, 365, 1, id="a year from the login"),
        pytest.param(-363, 2, 365, 2, id="its last days"),
    ],
)
def test_coming_end_of_a_limit_that_an_answer_said(granted: float, by: float, limit: float, level: int) -> None:
    """The limit's own length decides which threshold counts, not the grant's age or the settings' limits."""
    held = grant(
        granted_at=NOW + int(granted * DAY), reauthorize_by=NOW + int(by * DAY), reauthorize_limit=int(limit * DAY)
    )
    condition = ending_condition(held, Limits(absolute=DAY, idle=DAY), NOW)
    assert (condition.level if isinstance(condition, Problem) else 0) == level
