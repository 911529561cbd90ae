"""How long tokens and grants live: spans, points in time, what is odd, and what a silent answer leaves as it was."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model import Ending, GrantLife, StatedLimits
from broker.providers import lifetimes
from broker.providers.dialects import Dialect
from broker.settings import Provider

from .reading import NOW, answered

HOUR, DAY = 3_600_000, 86_400_000
TOKEN_ENDPOINT = "https://as.test/token"


def dialect(**settings: Any) -> Dialect:
    """Return the dialect of a plain provider with these settings."""
    return Dialect.from_settings(
        "p", Provider.model_validate({"kind": "oauth2", "client_id": "c", "token_endpoint": TOKEN_ENDPOINT, **settings})
    )


@pytest.mark.parametrize("name", ["expires_at", "expire_time", "expires_on", "expires"])
@pytest.mark.parametrize(
    ("value", "life_ms"),
    [
        ("2027-01-15T09:00:00Z", HOUR),
        ("2027-01-15T09:00:00z", HOUR),
        ("2027-01-15T10:00:00+01:00", HOUR),
        ("2027-01-15T04:00:00.500-05:00", HOUR + 500),
        ("2027-01-15 09:00:00", HOUR),
        (" 2027-01-15T09:00:00.000000Z ", HOUR),
        ("2027-01-16", 16 * HOUR),
        (NOW // 1000 + 3600, HOUR),
        (str(NOW // 1000 + 3600), HOUR),
        (NOW + HOUR, HOUR),
        (float(NOW + HOUR), HOUR),
    ],
)
def test_points_in_time(name: str, value: object, life_ms: int) -> None:
    """A point in time is read as ISO 8601 or as an epoch in seconds or milliseconds, and is nothing to warn of."""
    read_as = answered({"access_token": "a2", name: value})
    assert (read_as.lifetime_ms, read_as.warnings) == (life_ms, ())


@pytest.mark.parametrize(
    ("value", "ended"),
    [
        ("2027-01-15T07:59:59Z", True),
        (NOW // 1000 - 1, True),
        (NOW - 1, True),
        ("1970-01-01T00:00:00Z", True),
        ("9999-12-31T23:59:59Z", False),
        ("9999-12-31T23:59:59-12:00", False),
        ("0001-01-01T00:00:00+14:00", True),
        (253_402_300_799, False),
        ("2027-02-30T00:00:00Z", False),
        ("2027-01-15T25:00:00Z", False),
        ("tomorrow", False),
        (True, False),
        ([], False),
    ],
)
def test_points_in_time_that_give_no_life(value: object, ended: bool) -> None:
    """The past, the year 9999 and what is no time leave `default_lifetime` in force; the member is named."""
    read_as = answered({"access_token": "a2", "expires_at": value})
    assert (read_as.lifetime_ms, read_as.ended) == (None, ended)
    assert [warning.split()[0] for warning in read_as.warnings] == ["expires_at"]


def test_a_point_in_time_is_measured_on_the_servers_clock() -> None:
    """With a clock ten minutes behind, ISO 8601 still gives the lifetime that the server meant."""
    date = {"Date": formatdate(NOW // 1000 - 600, usegmt=True)}
    assert answered({"access_token": "a2", "expires_at": "2027-01-15T07:55:00Z"}, headers=date).lifetime_ms == 300_000


@pytest.mark.parametrize(
    ("members", "life_ms"),
    [
        ({"expires_in": 3_600_000, "expires_in_sec": 3600}, HOUR),
        ({"expires_in": 60, "expires_at": NOW // 1000 + 3600}, 60_000),
        ({"expires_in": 0, "expires_at": NOW // 1000 + 3600}, HOUR),
        ({"expires": NOW // 1000 + 60, "expires_at": NOW // 1000 + 3600}, HOUR),
        ({"expires_in_sec": "soon", "expires_in": 60}, 60_000),
    ],
)
def test_which_member_counts(members: dict[str, Any], life_ms: int) -> None:
    """`expires_in_sec` comes before `expires_in`, and that before points in time; an unusable one is passed over."""
    assert answered({"access_token": "a2", **members}).lifetime_ms == life_ms


def test_the_setting_overrules_the_answer() -> None:
    """With `lifetime` nothing of the access token's life is read, so there is nothing to warn of either."""
    read_as = answered(
        {"access_token": "a2", "expires_in": "soon", "access_token_expiration": 5}, dialect=dialect(lifetime="1h")
    )
    assert (read_as.lifetime_ms, read_as.warnings) == (HOUR, ())


@pytest.mark.parametrize(
    ("name", "value", "warned"),
    [
        ("access_token_expiration", "2026-11-30T12:30:00Z", True),
        ("expiresIn", 3600, True),
        ("token_ttl", "900", True),
        ("max_age", 60, True),
        ("validUntil", NOW, True),
        ("expired", False, False),
        ("expiration_policy", "sliding", False),
        ("expirations", [1], False),
        ("settlement", 5, False),
        ("ext_expires_in", 7200, False),
        ("not-before-policy", 0, False),
        ("issued_at", str(NOW), False),
    ],
)
def test_what_looks_like_a_lifetime_is_never_passed_over_in_silence(name: str, value: object, warned: bool) -> None:
    """A member that looks like a lifetime and is not read is named; one that only sounds so is not."""
    warnings = answered({"access_token": "a2", "expires_in": 60, name: value}).warnings
    assert bool(warnings) == warned
    assert all(name in warning for warning in warnings)


def test_many_such_members_are_not_all_named() -> None:
    """A warning has an end, however many members there are."""
    assert len(answered({"access_token": "a2", **{f"expires{n}": 5 for n in range(99)}}).warnings) == 8


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"refresh_token_expires_in": 60}, GrantLife(refresh_token_ms=60_000)),
        ({"refresh_expires_in": "60"}, GrantLife(refresh_token_ms=60_000)),
        ({"x_refresh_token_expires_in": 8_726_400}, GrantLife(refresh_token_ms=8_726_400_000)),
        ({"refresh_token_expires_at": "2027-01-15T09:00:00Z"}, GrantLife(refresh_token_ms=HOUR)),
        ({"refresh_expires_in": 0}, GrantLife(refresh_token_ms=0)),
        ({"refresh_expires_in": "0"}, GrantLife(refresh_token_ms=0)),
        ({"refresh_token_timeout": 604_800}, GrantLife(idle_ms=7 * DAY)),
        ({"authorization_expires_in": "864000"}, GrantLife(authorization_ms=10 * DAY)),
        ({"authorization_expires_in": 315_569_520}, GrantLife(authorization_ms=315_569_520_000)),
        ({"refresh_token_expires_in": NOW // 1000 + 60}, GrantLife(refresh_token_ms=60_000)),
    ],
)
def test_lifetimes_of_the_grant(members: dict[str, Any], said: GrantLife) -> None:
    """They are read as numbers or text, 0 as "never", long ones to the letter, and need no warning."""
    read_as = answered({"access_token": "a2", "expires_in": 60, **members})
    assert (read_as.grant_life, read_as.warnings) == (said, ())


@pytest.mark.parametrize("value", [-1, "soon", True, [], 10**30, 0.0001, "9999-12-31T23:59:59Z"])
def test_a_lifetime_of_the_grant_that_is_none(value: object) -> None:
    """What cannot be one is named, and the settings' limits hold."""
    read_as = answered({"access_token": "a2", "expires_in": 60, "refresh_token_expires_in": value})
    assert read_as.grant_life == GrantLife()
    assert [warning.split()[0] for warning in read_as.warnings] == ["refresh_token_expires_in"]


def after(*said: GrantLife, every: int = HOUR, rotated: bool = True, settings: dict[str, Any] | None = None) -> Ending:
    """Return the end that is known after answers at NOW and *every* ms later; the first is the login's."""
    stated, now = None, NOW
    for number, life in enumerate(said):
        now = NOW + number * every
        stated = lifetimes.carry(stated, life, granted_at=NOW, now=now, rotated=rotated)
    return lifetimes.ending(dialect(**(settings or {})), stated, granted_at=NOW, answered_at=now)


def test_the_authorization_ends_when_the_login_said() -> None:
    """`authorization_expires_in` counts from the answer that said it, and holds while later ones are silent."""
    ending = after(GrantLife(authorization_ms=10 * DAY), GrantLife(), GrantLife())
    assert (ending.reauthorize_by, ending.reauthorize_limit) == (NOW + 10 * DAY, 10 * DAY)


def test_a_later_answer_may_say_another_end() -> None:
    """The last that was said counts, also where it is "never"."""
    ten, twenty = GrantLife(authorization_ms=10 * DAY), GrantLife(authorization_ms=20 * DAY)
    assert after(ten, twenty).reauthorize_by == NOW + HOUR + 20 * DAY
    assert after(ten, GrantLife(authorization_ms=0), settings={"absolute_limit": "5d"}).reauthorize_by is None


def test_the_idle_time_counts_from_each_answer() -> None:
    """`refresh_token_timeout` holds while later answers are silent, counted from the last of them."""
    ending = after(GrantLife(idle_ms=7 * DAY), GrantLife(), GrantLife())
    assert (ending.reauthorize_by, ending.reauthorize_limit) == (NOW + 2 * HOUR + 7 * DAY, 7 * DAY)


def test_the_end_of_a_refresh_token_holds_as_long_as_the_token() -> None:
    """A silent answer leaves the end of the same refresh token; of another one nothing is known."""
    said = GrantLife(refresh_token_ms=30 * DAY)
    assert after(said, GrantLife(), rotated=False).reauthorize_by == NOW + 30 * DAY
    assert after(said, GrantLife(), rotated=True).reauthorize_by is None
    assert after(said, GrantLife(), rotated=True, settings={"idle_limit": "9d"}).reauthorize_by == NOW + HOUR + 9 * DAY


def test_the_settings_hold_where_the_answer_is_silent() -> None:
    """Each limit of the settings gives way only to what the answer says of the same thing."""
    limits = {"idle_limit": "14d", "absolute_limit": "90d"}
    assert after(GrantLife(), settings=limits).reauthorize_by == NOW + 14 * DAY
    assert after(GrantLife(refresh_token_ms=30 * DAY), settings=limits).reauthorize_by == NOW + 30 * DAY
    assert after(GrantLife(refresh_token_ms=0), settings=limits).reauthorize_by == NOW + 90 * DAY
    assert after(GrantLife(idle_ms=0), settings=limits).reauthorize_by == NOW + 90 * DAY
    assert after(GrantLife(authorization_ms=5 * DAY), settings=limits).reauthorize_by == NOW + 5 * DAY


def test_an_end_that_has_passed_was_none() -> None:
    """A provider that still answers after the end it said is no longer believed."""
    assert after(GrantLife(authorization_ms=HOUR), GrantLife()).reauthorize_by is None
    assert after(GrantLife(refresh_token_ms=HOUR), GrantLife(), rotated=False).reauthorize_by is None


def test_a_fixed_end_that_is_said_again_keeps_its_whole_length() -> None:
    """LinkedIn says the days that are left of 365: the limit is 365 days, so that the notices come in time."""
    fixed = [GrantLife(refresh_token_ms=365 * DAY - number * DAY) for number in range(300)]
    ending = after(*fixed, every=DAY)
    assert (ending.reauthorize_by, ending.reauthorize_limit) == (NOW + 365 * DAY, 365 * DAY)
    rolling = [GrantLife(refresh_token_ms=30 * DAY)] * 300
    ending = after(*rolling, every=DAY)
    assert (ending.reauthorize_by, ending.reauthorize_limit) == (NOW + 299 * DAY + 30 * DAY, 30 * DAY)


def test_what_was_said_at_an_earlier_login_does_not_count() -> None:
    """A login or an import begins anew."""
    before = StatedLimits(NOW - DAY, authorization_ends_at=NOW + DAY, idle_ms=HOUR)
    assert lifetimes.carry(before, GrantLife(), granted_at=NOW, now=NOW, rotated=False) is None


@pytest.mark.parametrize(
    ("stated", "settings", "expected"),
    [
        (None, {}, None),
        (None, {"idle_limit": "14d"}, 14 * DAY),
        (StatedLimits(NOW, idle_ms=HOUR), {"idle_limit": "14d"}, HOUR),
        (StatedLimits(NOW, idle_ms=0), {"idle_limit": "14d"}, None),
        (StatedLimits(NOW, token_ends_at=NOW + HOUR), {"idle_limit": "14d"}, HOUR),
        (StatedLimits(NOW, token_ends_at=0), {"idle_limit": "14d"}, None),
        (StatedLimits(NOW, authorization_ends_at=NOW + HOUR), {}, None),
    ],
)
def test_how_long_a_refresh_token_may_stay_unused(
    stated: StatedLimits | None, settings: dict[str, Any], expected: int | None
) -> None:
    """Its own end and the idle time bound that; the end of the authorization does not move by a refresh."""
    assert lifetimes.longest_unused(dialect(**settings), stated, NOW) == expected


NAMES = ["expires_in_sec", "expires_in", "expires_at", "expires", "refresh_expires_in", "refresh_token_timeout", "ttl"]
_values = st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none(), st.datetimes().map(str))


@given(st.dictionaries(st.sampled_from(NAMES), _values))
def test_whatever_is_said_a_life_is_positive(members: dict[str, Any]) -> None:
    """No member, whatever it holds, is an error, or makes a life that is not one."""
    clock = lambda: NOW  # noqa: E731
    life = lifetimes.of_access_token(members, dialect(), clock, [])
    assert life.ms is None or life.ms > 0
    said = lifetimes.of_grant(members, clock, [])
    stated = lifetimes.carry(None, said, granted_at=NOW, now=NOW, rotated=True)
    by = lifetimes.ending(dialect(), stated, granted_at=NOW, answered_at=NOW).reauthorize_by
    assert by is None or by > NOW
