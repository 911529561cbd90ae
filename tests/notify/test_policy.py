"""What is told and when, as decisions: no clock, no store, no network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from broker.model import Grant, NoticeEvent, Token
from broker.notify.policy import Decision, LastNotice, Limits, Problem, decide, ending, failed, grant_condition, sent
from broker.secret import Secret

DAY = 86_400_000
NOW = 1_800_000_000_000
ALL = get_args(NoticeEvent)
FAILING = Problem(1, "refresh_failing", "busy")
REJECTED = Problem(2, "refresh_failing", "invalid_scope")
DEAD = Problem(3, "reauthorization_required", "reauthorization_required")


def grant(**more: Any) -> Grant:
    """Return a grant that was refreshed a minute ago, but for what is said."""
    token = Token("g1", "acme", 1, Secret("x"), "Bearer", None, NOW - 60_000, NOW + 3_600_000, NOW + 1_800_000)
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


def notice_about(condition: Problem) -> LastNotice:
    """Return what is written down once that was told."""
    notice, _ = sent(condition, NOW - 1000)
    return notice


@pytest.mark.parametrize(
    ("condition", "before", "event"),
    [
        (FAILING, LastNotice(), "refresh_failing"),
        (REJECTED, LastNotice(), "refresh_failing"),
        (DEAD, LastNotice(), "reauthorization_required"),
        (DEAD, notice_about(FAILING), "reauthorization_required"),
        (REJECTED, notice_about(FAILING), "refresh_failing"),
        ("well", notice_about(DEAD), "recovered"),
        (FAILING, notice_about(FAILING), None),
        (FAILING, notice_about(DEAD), None),
        (DEAD, notice_about(DEAD), None),
        ("well", LastNotice(), None),
        ("unsure", notice_about(DEAD), None),
        ("gone", notice_about(DEAD), None),
        ("unsure", LastNotice(), None),
    ],
)
def test_change_is_told_once(condition: Any, before: LastNotice, event: str | None) -> None:
    """Worse than what was told is told, and well again after it; never the same twice, never an easing."""
    decision = decide(condition, before, NOW, ALL)
    assert decision.tell == event
    if event is None and before.level and condition != "gone":
        assert decision.told.level == before.level
        assert decision.look_at is not None
    if condition == "gone":
        assert decision == Decision(None, LastNotice(), None)


def test_unsent_news_that_healed_is_dropped() -> None:
    """Bad news that could not be sent before the grant was well again is never sent, nor is its recovery."""
    decision = decide(DEAD, LastNotice(), NOW, ALL)
    waiting, _ = failed(replace(decision.told, id="msg_1"), NOW, 0.5)
    assert decide("well", waiting, NOW + 5, ALL) == Decision(None, LastNotice(), None)


def test_repeats_under_one_id_until_the_news_is_another() -> None:
    """A notice keeps id and time over its tries; what is worse by then is another notice."""
    decision = decide(FAILING, LastNotice(), NOW, ALL)
    last_notice = replace(decision.told, id="msg_1")
    for tries in range(1, 30):
        last_notice, again = failed(last_notice, NOW, 1.0)
        assert (last_notice.tries, last_notice.id, last_notice.since) == (tries, "msg_1", NOW)
        assert 2_000 <= again - NOW <= 900_000
        assert decide(FAILING, last_notice, again, ALL).told == last_notice
    worse = decide(REJECTED, last_notice, NOW + 9, ALL).told
    assert (worse.id, worse.since, worse.tries) == ("", NOW + 9, 0)
    assert LastNotice.of(last_notice.record()) == last_notice
    assert LastNotice.of(LastNotice().record()) == LastNotice()


def test_events_filter() -> None:
    """What is not wanted is not told and not remembered as told; a recovery follows only what was told."""
    assert decide(FAILING, LastNotice(), NOW, ["recovered"]) == Decision(None, LastNotice(), None)
    assert decide("well", notice_about(DEAD), NOW, ["reauthorization_required"]) == Decision(None, LastNotice(), None)
    kept = decide(DEAD, notice_about(FAILING), NOW, ["refresh_failing", "recovered"])
    assert (kept.tell, kept.told.level) == (None, 1)


def test_recovery_that_must_settle() -> None:
    """A provider must be well for a while: one taken up by hand that fails again is not told as recovered."""
    last_notice = notice_about(Problem(1, "provider_suspended", "invalid_client"))
    decision = decide("well", last_notice, NOW, ALL, settle=10_000)
    assert (decision.tell, decision.told.well_at) == (None, NOW)
    again = decide(Problem(1, "provider_suspended", "invalid_client"), decision.told, NOW + 5_000, ALL, settle=10_000)
    assert (again.tell, again.told.well_at, again.told.level) == (None, 0, 1)
    assert decide("well", decision.told, NOW + 9_999, ALL, settle=10_000).tell is None
    assert decide("well", decision.told, NOW + 10_000, ALL, settle=10_000).tell == "recovered"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, "well"),
        ({"failures": 2, "last_outcome": "busy"}, "unsure"),
        ({"token": None}, "unsure"),
        ({"failures": 3, "last_outcome": "busy"}, 1),
        ({"reason": "invalid_scope"}, 2),
        ({"reason": "reauthorization_required", "last_outcome": "dead"}, 3),
        # taken up by hand: no reason, no failures, and no success yet
        ({"last_outcome": "dead"}, "unsure"),
        ({"last_outcome": "unchanged"}, "well"),
    ],
)
def test_condition_of_a_grant(state: dict[str, Any], expected: Any) -> None:
    """Well is only what was refreshed; a retry alone heals nothing."""
    condition = grant_condition(grant(**state), LastNotice())
    assert (condition.level if isinstance(condition, Problem) else condition) == expected


def test_login_heals_and_import_alone_does_not() -> None:
    """After a login its token is newer than what was told; an import waits for its first refresh."""
    fresh = grant(last_outcome=None, last_at=None)
    assert grant_condition(fresh, LastNotice(level=3, at=NOW - 120_000)) == "well"
    assert grant_condition(fresh, LastNotice(level=3, at=NOW - 30_000)) == "unsure"
    assert grant_condition(None, LastNotice(level=3)) == "gone"


def test_provider_s_words_are_taken_apart() -> None:
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
        # an idle limit of two weeks is always less than two weeks away: only its last three days tell
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
    condition = ending(grant(granted_at=NOW + int(granted * DAY), reauthorize_by=NOW + int(by * DAY)), limits, NOW)
    assert (condition.level if isinstance(condition, Problem) else 0) == level
    dead = grant(reauthorize_by=NOW, reason="reauthorization_required")
    assert ending(dead, limits, NOW) == ending(None, limits, NOW) == ending(grant(), limits, NOW) == "gone"
