"""The decisions, as pure functions: every outcome, at every age of the token."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model import (
    Answered,
    Busy,
    Commit,
    GrantLife,
    InvalidClient,
    InvalidGrant,
    NotSent,
    Outcome,
    Park,
    Postpone,
    Rejected,
    StatedLimits,
    TokenResponse,
    Unknown,
)
from broker.providers import Dialect
from broker.refresh import policy
from broker.secret import Secret
from broker.settings import Provider
from tests.refresh.claims import HOUR, NOW, claim


def dialect(**settings: Any) -> Dialect:
    """Return an oauth2 provider's dialect."""
    return Dialect.from_settings(
        "p", Provider(kind="oauth2", client_id="c", token_endpoint="https://as.test/token", **settings)
    )


def answer(**changes: Any) -> TokenResponse:
    """Return a whole answer with new tokens."""
    made = TokenResponse(
        access_token=Secret("a2"),
        refresh_token=Secret("r2"),
        token_type="Bearer",
        lifetime_ms=HOUR,
        refresh_in_ms=None,
        scope=None,
        extra={},
    )
    return replace(made, **changes)


def test_refreshed() -> None:
    """A new access token is a new generation, planned inside the window, failures forgotten."""
    step = policy.decide(claim(failures=4), Answered(answer()), dialect(), NOW, 0.5)
    assert isinstance(step, Commit)
    assert step.token is not None
    assert (step.outcome, step.fresh, step.failures, step.recovered) == ("refreshed", True, 0, True)
    assert step.token.generation == NOW
    assert step.token.expires_at == NOW + HOUR
    assert 0.70 * HOUR <= step.refresh_at - NOW <= 0.85 * HOUR


def test_generation_never_repeats_even_with_a_clock_behind() -> None:
    """With the clock behind the last generation the next one is still greater."""
    step = policy.decide(claim(generation=NOW + 99), Answered(answer()), dialect(), NOW, 0)
    assert isinstance(step, Commit)
    assert step.token is not None
    assert step.token.generation == NOW + 100


@pytest.mark.parametrize(
    ("left", "pause"),
    [(18_000_000, 9_000_000), (200_000, 100_000), (100_000, 60_000), (60_000, 54_000), (1_000, 1_000), (10, 1_000)],
)
def test_unchanged_is_asked_for_again_at_half_of_what_is_left(left: int, pause: int) -> None:
    """The same access token is no new generation; the next request comes at half, a minute at least, before its end."""
    same = answer(access_token=Secret("a1"), refresh_token=None, lifetime_ms=left)
    step = policy.decide(claim(failures=2), Answered(same), dialect(), NOW, 0)
    assert isinstance(step, Commit)
    assert step.token is not None
    assert (step.outcome, step.fresh, step.failures) == ("unchanged", False, 0)
    assert (step.token.expires_at, step.refresh_at) == (NOW + left, NOW + pause)


def test_unchanged_without_a_lifetime_lives_the_default_from_now() -> None:
    """The provider has just given that token out: it lives `default_lifetime` from now, and is no failure."""
    same = Answered(answer(access_token=Secret("a1"), lifetime_ms=None))
    step = policy.decide(claim(failures=6), same, dialect(default_lifetime="2h"), NOW, 0.99)
    assert isinstance(step, Commit)
    assert step.token is not None
    assert (step.token.expires_at, step.refresh_at, step.failures) == (NOW + 2 * HOUR, NOW + HOUR, 0)


def test_unchanged_with_no_life_left_backs_off() -> None:
    """The same token with a life of 0 is asked for again soon, but not at once, and ever more rarely."""
    same = Answered(answer(access_token=Secret("a1"), lifetime_ms=None, ended=True))
    step = policy.decide(claim(), same, dialect(), NOW, 0.99)
    assert isinstance(step, Commit)
    assert step.token is not None
    assert NOW + 1000 <= step.refresh_at <= NOW + 2000
    assert step.token.expires_at == claim().expires_at
    later = policy.decide(claim(failures=6), same, dialect(), NOW, 0.99)
    assert isinstance(later, Commit)
    assert later.refresh_at > NOW + 60_000


@pytest.mark.parametrize("same", [False, True])
def test_a_refresh_token_that_ends_first_is_used_before(same: bool) -> None:
    """A refresh token of ten minutes beside an access token of a day is redeemed within the ten minutes."""
    life = GrantLife(refresh_token_ms=600_000)
    access_token = Secret("a1") if same else Secret("a2")
    step = policy.decide(
        claim(),
        Answered(answer(access_token=access_token, lifetime_ms=24 * HOUR, grant_life=life)),
        dialect(),
        NOW,
        0.5,
    )
    assert isinstance(step, Commit)
    assert step.refresh_at == NOW + 510_000
    assert step.ending.reauthorize_by == NOW + 600_000


def test_what_a_login_said_survives_silent_answers() -> None:
    """The end and the members that only the login's answer had are those of the next commit, too."""
    stated = StatedLimits(NOW - 10 * HOUR, authorization_ends_at=NOW + 24 * HOUR)
    held = claim(extra={"athlete": {"id": 7}, "team": "a", "expires_on": 5}, stated=stated)
    step = policy.decide(held, Answered(answer(extra={"team": "b"})), dialect(), NOW, 0.5)
    assert isinstance(step, Commit)
    assert step.token is not None
    assert step.token.extra == {"athlete": {"id": 7}, "team": "b"}
    assert (step.ending.reauthorize_by, step.ending.stated) == (NOW + 24 * HOUR, stated)


def test_unusable_access_token_keeps_the_refresh_token() -> None:
    """The refresh token of an answer is kept although its access token cannot be used."""
    step = policy.decide(claim(), Answered(answer(access_token=None, problem="no")), dialect(), NOW, 0)
    assert isinstance(step, Commit)
    assert step.token is None
    assert step.refresh_token == Secret("r2")
    assert step.failures == 1


def test_server_says_when_to_refresh() -> None:
    """`refresh_in` wins over the window, inside the token's life."""
    step = policy.decide(claim(), Answered(answer(refresh_in_ms=60_000)), dialect(), NOW, 0.5)
    assert isinstance(step, Commit)
    assert step.refresh_at == NOW + 60_000


def test_idle_limit_bounds_a_long_life() -> None:
    """A refresh token that dies when unused for a day is used within that day, however long its access token lives."""
    limited = dialect(idle_limit="1d")
    step = policy.decide(claim(), Answered(answer(lifetime_ms=30 * 24 * HOUR)), limited, NOW, 0.5)
    assert isinstance(step, Commit)
    assert step.refresh_at < NOW + 24 * HOUR
    assert step.ending.reauthorize_by == NOW + 24 * HOUR


@pytest.mark.parametrize("outcome", [NotSent("dns"), Busy("http_503")])
def test_not_sent_and_busy_back_off_inside_the_life_that_is_left(outcome: Outcome) -> None:
    """Nothing was redeemed: several tries fit before the token's end, and the lane counts a failure."""
    for failures in range(20):
        step = policy.decide(claim(failures=failures), outcome, dialect(), NOW, 0.99)
        assert isinstance(step, Postpone)
        assert (step.lane, step.unknown, step.failures) == ("ailing", False, failures + 1)
        assert NOW + policy.LEAST_PAUSE <= step.due_at <= NOW + HOUR // 16
        assert step.failing == (failures + 1 == policy.FAILING_AFTER)


def test_retry_after_is_for_the_provider() -> None:
    """Retry-After is the provider's not_before; the grant's own due time is its backoff, so resuming ends the wait."""
    step = policy.decide(claim(), Busy("http_429", retry_after_ms=90_000), dialect(), NOW, 0)
    assert isinstance(step, Postpone)
    assert step.not_before == NOW + 90_000
    assert step.due_at < NOW + 5_000


def test_unknown_on_a_strict_server_waits_for_the_end() -> None:
    """Without a grace the current token is served, and the replay comes just before it dies."""
    step = policy.decide(claim(), Unknown("timeout"), dialect(), NOW + 10_000, 0)
    assert isinstance(step, Postpone)
    assert step.unknown
    assert step.due_at == NOW + HOUR // 4 - policy.REPLAY_MARGIN


def test_unknown_inside_the_grace_is_replayed_at_once() -> None:
    """Within a grace of half a minute the same request is sent again at once, and the lane stays open."""
    step = policy.decide(claim(), Unknown("timeout"), dialect(reuse_grace="30s"), NOW + 10_000, 0)
    assert isinstance(step, Postpone)
    assert step.due_at == NOW + 10_000
    assert step.lane == ""


def test_a_grace_counts_from_the_request() -> None:
    """A grace counts from the request: where the wait for its response outlasts the grace, no replay is inside it."""
    waited = 40_000
    step = policy.decide(claim(), Unknown("timeout"), dialect(reuse_grace="30s"), NOW + waited, 0)
    assert isinstance(step, Postpone)
    assert step.due_at == NOW + HOUR // 4 - policy.REPLAY_MARGIN
    earlier = claim(unknown_at=NOW - 25_000)
    step = policy.decide(earlier, Unknown("timeout"), dialect(reuse_grace="30s"), NOW + 10_000, 0)
    assert isinstance(step, Postpone)
    assert step.due_at == NOW + HOUR // 4 - policy.REPLAY_MARGIN


def test_an_attempt_of_the_future_is_in_no_grace() -> None:
    """After a clock was set back, an attempt whose time lies ahead by a grace or more is not replayed within it."""
    for ahead, held in ((20_000, False), (30_000, True), (HOUR, True)):
        step = policy.hold_back(claim(unknown_at=NOW + ahead), dialect(reuse_grace="30s"), NOW)
        assert (step is not None) == held, ahead


def test_unknown_with_nothing_left_is_replayed() -> None:
    """Once no valid token is left the replay comes at once."""
    step = policy.decide(claim(expires_at=NOW - 1), Unknown("timeout"), dialect(), NOW, 0)
    assert isinstance(step, Postpone)
    assert step.due_at == NOW


def test_forever_never_holds_back() -> None:
    """Where refresh tokens do not rotate an unknown outcome is an ordinary failure."""
    forgiving = dialect(reuse_grace="forever")
    assert policy.hold_back(claim(unknown_at=NOW - 24 * HOUR), forgiving, NOW) is None
    step = policy.decide(claim(failures=1, unknown_at=NOW - 9), Unknown("reset"), forgiving, NOW, 0.5)
    assert isinstance(step, Postpone)
    assert step.due_at >= NOW + policy.LEAST_PAUSE
    assert step.lane == "ailing"


def test_an_open_attempt_is_held_back() -> None:
    """After an attempt of unknown outcome a claim at a strict server waits for the replay."""
    held = policy.hold_back(claim(unknown_at=NOW - 5000), dialect(), NOW)
    assert held is not None
    assert held.due_at == NOW + HOUR // 4 - policy.REPLAY_MARGIN
    assert held.failures >= 1
    assert policy.hold_back(claim(), dialect(), NOW) is None
    assert policy.hold_back(claim(unknown_at=NOW, expires_at=NOW), dialect(), NOW + 1) is None


def test_dead_and_rejected_are_parked() -> None:
    """A refused request is not repeated; only invalid_grant requires a login."""
    dead = policy.decide(claim(), InvalidGrant("invalid_grant", "gone"), dialect(), NOW, 0)
    assert isinstance(dead, Park)
    assert (dead.reason, dead.event) == ("reauthorization_required", "reauthorization_required")
    assert dead.detail == "invalid_grant: gone"
    assert dead.verdict == "grant"
    often = claim(refusals=4, refused_since=NOW - HOUR)
    rejected = policy.decide(often, Rejected("http_403"), dialect(), NOW, 0)
    assert isinstance(rejected, Park)
    assert (rejected.reason, rejected.event) == ("http_403", "refresh_failing")


@pytest.mark.parametrize(
    ("outcome", "verdict", "reason"),
    [
        (InvalidClient("invalid_client"), "registration", "invalid_client"),
        (InvalidClient("unauthorized_client", sure=False), "doubtful", "unauthorized_client"),
        (InvalidGrant("http_401", sure=False), "doubtful", "reauthorization_required"),
    ],
)
def test_what_may_mean_the_registration_is_for_the_store_to_decide(outcome: Outcome, verdict: str, reason: str) -> None:
    """A refusal that may mean the client goes to the store, with what a grant that it means would be parked for."""
    step = policy.decide(claim(), outcome, dialect(), NOW, 1)
    assert isinstance(step, Park)
    assert (step.verdict, step.reason, step.exhausted) == (verdict, reason, False)
    assert step.due_at == NOW + policy.REFUSAL_FIRST


def run_of_refusals(life: int, draw: float) -> list[int]:
    """Return when a grant whose token has *life* ms left is asked, from the first refusal to the one that parks it."""
    asked, refused = claim(expires_at=NOW + life), [0]
    while True:
        now = NOW + refused[-1]
        step = policy.decide(asked, Rejected("http_403"), dialect(), now, draw)
        if isinstance(step, Park):
            return refused
        assert isinstance(step, Postpone)
        assert (step.outcome, step.refused_since) == ("rejected", NOW)
        assert step.lane == ("ailing" if len(refused) == 1 else ""), "each grant counts once for its provider"
        refused.append(step.due_at - NOW)
        asked = replace(asked, refusals=len(refused) - 1, refused_since=NOW)


@pytest.mark.parametrize("draw", [0.0, 0.999])
@pytest.mark.parametrize("life", [-1, 1, 5_000, 20_000, 90_000, HOUR, 6 * HOUR])
def test_a_refused_grant_is_parked_after_five_and_half_of_its_margin(life: int, draw: float) -> None:
    """Whichever is later, and never within a blip of 40 s; the pauses grow, and few requests are made."""
    refused = run_of_refusals(life, draw)
    assert len(refused) >= policy.REFUSALS
    assert refused[-1] >= max(life // 2, policy.REFUSED_FOR)
    assert refused[-1] < 2 * max(life // 2, policy.REFUSED_FOR)
    assert len(refused) <= 60
    pauses = [after - before for before, after in pairwise(refused)]
    assert all(pause >= policy.LEAST_PAUSE for pause in pauses)
    if life >= HOUR:
        assert pauses[:5] == sorted(pauses[:5])


def test_a_refusal_of_a_grant_that_never_had_a_token_says_nothing_of_its_provider() -> None:
    """It is tried again without a mark on the lane."""
    step = policy.decide(claim(issued_at=None, expires_at=None), Rejected("x"), dialect(), NOW, 0)
    assert isinstance(step, Postpone)
    assert step.lane == ""


OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(NotSent, st.just("x")),
    st.builds(Busy, st.just("x"), st.just(""), st.none() | st.integers(1, 86_400_000)),
    st.builds(Unknown, st.just("x")),
    st.builds(
        Answered,
        st.builds(
            answer,
            access_token=st.sampled_from([None, Secret("a1"), Secret("a2")]),
            refresh_token=st.sampled_from([None, Secret("r1"), Secret("r2")]),
            lifetime_ms=st.none() | st.integers(1, 10**12),
            refresh_in_ms=st.none() | st.integers(1, 10**12),
        ),
    ),
)


@given(
    outcome=OUTCOMES,
    failures=st.integers(0, 10**6),
    left=st.none() | st.integers(-(10**12), 10**12),
    unknown=st.none() | st.integers(0, 10**10),
    draw=st.floats(0, 1, exclude_max=True),
    grace=st.sampled_from(["0s", "30s", "forever"]),
)
def test_no_outcome_spins(
    outcome: Outcome, failures: int, left: int | None, unknown: int | None, draw: float, grace: str
) -> None:
    """After any failure the next request is at least a second away, except for one replay."""
    made = claim(
        failures=failures,
        expires_at=None if left is None else NOW + left,
        unknown_at=None if unknown is None else NOW - unknown,
    )
    step = policy.decide(made, outcome, dialect(reuse_grace=grace), NOW, draw)
    if isinstance(step, Postpone):
        replay = step.outcome == "unknown" and failures == 0
        assert step.due_at >= NOW + (0 if replay else policy.LEAST_PAUSE)
    else:
        assert isinstance(step, Commit)
        assert step.refresh_at >= NOW + policy.LEAST_LIFE
