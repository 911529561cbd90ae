"""Where the members of an answer stand, and which of them go on to callers."""

from __future__ import annotations

from typing import Any

import pytest

from broker.providers import extra_members
from broker.providers.dialects import Dialect
from broker.secret import Secret
from broker.settings import Provider

from .reading import answered

INNER = {"access_token": "a-in", "refresh_token": "r-in", "expires_in": 60, "scope": "in", "id": "U1"}


def dialect(path: str) -> Dialect:
    """Return the dialect of a provider whose tokens stand at *path*."""
    provider = Provider(kind="oauth2", client_id="c", token_endpoint="https://as.test/token", response_path=path)
    return Dialect.from_settings("p", provider)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"user": INNER}, ("a-in", "r-in", 60_000, "in")),
        ({"user": INNER, "access_token": "a", "refresh_token": "r", "scope": "x"}, ("a-in", "r-in", 60_000, "in")),
        ({"user": INNER, "access_token": "a", "expires_in": 9}, ("a-in", "r-in", 60_000, "in")),
        ({"access_token": "a", "refresh_token": "r"}, ("a", "r", None, None)),
        ({"access_token": "a", "refresh_token": "r", "user": {"id": "U1"}}, ("a", "r", None, None)),
        ({"access_token": "a", "refresh_token": "r", "user": "U1"}, ("a", "r", None, None)),
        ({"access_token": "a", "refresh_token": "r", "user": {"access_token": "a-in"}}, ("a", "r", None, None)),
        ({"refresh_token": "r", "user": {"access_token": "a-in"}}, ("a-in", "r", None, None)),
        ({"access_token": "a", "user": {"refresh_token": "r-in"}}, ("a", "r-in", None, None)),
        ({"access_token": "a", "user": {"access_token": "a-in"}}, ("a-in", None, None, None)),
    ],
)
def test_tokens_are_read_where_they_stand(body: dict[str, Any], expected: tuple[object, ...]) -> None:
    """The path comes first, the top level stands in for it, and a refresh token is found at either."""
    read_as = answered(body, dialect=dialect("user"))
    access, refresh = read_as.access_token, read_as.refresh_token
    shown = (access and access.reveal(), refresh and refresh.reveal())
    assert (*shown, read_as.lifetime_ms, read_as.scope) == expected


def test_the_rest_stays_where_it_stood() -> None:
    """What callers get beside the token stands where the provider put it; no token is among it."""
    body = {"ok": True, "data": {"token": INNER, "more": 1}, "access_token": "a-of-the-bot"}
    assert answered(body, dialect=dialect("data.token")).extra == {
        "ok": True,
        "data": {"token": {"id": "U1"}, "more": 1},
    }


def test_a_refresh_token_elsewhere_is_warned_of() -> None:
    """A whole set of tokens at the top level is taken where the path has only half of one, and that is said."""
    body = {"access_token": "a", "refresh_token": "r", "user": {"access_token": "a-in"}}
    (warning,) = answered(body, dialect=dialect("user")).warnings
    assert "user has no refresh_token" in warning


def test_callback_parameters_repeat_no_secret() -> None:
    """Only what the settings name is kept, never a standard member, never a text with the code in it."""
    query = {"realmId": "1", "shop": "code-0123456789 again", "other": "x", "scope": "y", "code": "code-0123456789"}
    names, code = ["realmId", "shop", "scope", "absent", "code"], Secret("code-0123456789")
    assert extra_members.of_callback(query, names, (code,)) == {"realmId": "1"}


def test_members_are_kept_until_they_are_named_anew() -> None:
    """A later answer replaces what it names, null included; lifetimes were true of their own answer only."""
    before = {"athlete": 1, "team": "a", "hook": "h", "refresh_expires_in": 5, "session_timeout": 6}
    assert extra_members.carry(before, {"team": "b", "hook": None}) == {"athlete": 1, "team": "b", "hook": None}
    assert extra_members.carry({}, {"team": "b"}) == {"team": "b"}


def test_what_is_kept_is_bounded() -> None:
    """A server that names members at random with each answer does not fill the store."""
    kept: Any = {}
    for number in range(50):
        kept = extra_members.carry(kept, {f"m{number}": "x" * 10_000})
        assert len(str(kept)) < extra_members.MOST_KEPT + 10_100
