"""Offline access: when `prompt=consent` is sent, and the words for a login that brought no refresh token."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from broker.providers import authorization_url
from broker.providers.dialects import Dialect
from broker.providers.offline import why_no_refresh_token
from broker.settings import Provider


def dialect(kind: str = "oidc", **settings: Any) -> Dialect:
    """Make a dialect of such settings."""
    given = {"kind": kind, "client_id": "id", "issuer": "https://as.test", "token_endpoint": "https://as.test/t"}
    return Dialect.from_settings("acme", Provider.model_validate({**given, **settings}))


def prompt_of(settings: Dialect) -> list[str]:
    """Return the values of `prompt` in the authorization URL."""
    url = authorization_url(settings, "https://as.test/a", redirect_uri="https://b.test", state="s", code_challenge="c")
    return parse_qs(urlsplit(url).query, keep_blank_values=True).get("prompt", [])


@pytest.mark.parametrize(
    ("settings", "prompts"),
    [
        ({}, ["consent"]),
        ({"scope": "read,offline_access", "kind": "oauth2"}, ["consent"]),
        ({"scope": "openid"}, []),
        ({"scope": "openid offline_access_not"}, []),
        ({"kind": "oauth2"}, []),
        ({"kind": "een-v3"}, []),
        ({"authorization_params": {"prompt": ""}}, []),
        ({"authorization_params": {"prompt": "login"}}, ["login"]),
        ({"authorization_params": {"prompt": "login consent"}}, ["login consent"]),
        ({"scope": "openid", "authorization_params": {"prompt": "consent"}}, ["consent"]),
    ],
)
def test_prompt(settings: dict[str, Any], prompts: list[str]) -> None:
    """It is sent where the scope holds offline_access, once; a setting replaces or drops it."""
    assert prompt_of(dialect(**settings)) == prompts


@pytest.mark.parametrize(
    ("settings", "granted", "words"),
    [
        ({"scope": "openid"}, None, '(granted scope: openid): add "offline_access" to the provider\'s scope'),
        ({"scope": "read", "kind": "oauth2"}, "read", 'access_type = "offline"'),
        ({"kind": "oauth2"}, None, "(granted scope: none): the scope is probably missing"),
        ({}, None, "(granted scope: openid offline_access): allow refresh tokens"),
        ({}, "openid", "(granted scope: openid; dropped: offline_access): allow the scope offline_access"),
        ({}, "", "(granted scope: none; dropped: openid offline_access): allow the scope"),
        ({}, "openid offline_access more", "openid offline_access more): allow refresh tokens"),
        ({"scope": "openid offline_access a b"}, "openid offline_access b", "dropped: a): allow refresh tokens"),
        ({"authorization_params": {"prompt": ""}}, "openid", "dropped: offline_access): remove prompt from"),
        ({"authorization_params": {"prompt": "login consent"}}, "openid", "allow the scope offline_access"),
    ],
)
def test_why_there_is_no_refresh_token(settings: dict[str, Any], granted: str | None, words: str) -> None:
    """The words name what was granted, what was dropped and what to set."""
    assert words in why_no_refresh_token(dialect(**settings), granted)


def test_a_hostile_scope_is_bounded() -> None:
    """The scope of an answer is shown bounded, on one line."""
    shown = why_no_refresh_token(dialect(), "a\x1b[31m\n" * 9000)
    assert len(shown) < 700
    assert shown.isprintable()
