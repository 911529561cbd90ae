"""The authorization request, PKCE and the issuer check."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from broker.errors import InvalidRequest
from broker.providers import authorization_url, challenge, check_issuer, new_verifier
from broker.providers.dialects import Dialect
from broker.secret import Secret
from broker.settings import Provider

REDIRECT = "http://127.0.0.1:8080/callback"


def dialect(kind: str = "oauth2", **settings: Any) -> Dialect:
    """Make a dialect of such settings."""
    given = {"kind": kind, "client_id": "an id", "token_endpoint": "https://as.test/token", **settings}
    return Dialect.from_settings("acme", Provider.model_validate(given))


def test_order_and_encoding() -> None:
    """Parameters come in one order, all encoded, those of the settings last."""
    settings = dialect(scope="a b", authorization_params={"prompt": "consent", "state": "evil", "x": "é&"})
    url = authorization_url(
        settings, "https://as.test/authorize", redirect_uri=REDIRECT, state="s+/", code_challenge="c"
    )
    assert url == (
        "https://as.test/authorize?response_type=code&client_id=an%20id"
        "&redirect_uri=http%3A%2F%2F127.0.0.1%3A8080%2Fcallback&scope=a%20b&state=s%2B%2F"
        "&code_challenge=c&code_challenge_method=S256&prompt=consent&x=%C3%A9%26"
    )


@pytest.mark.parametrize("endpoint", ["https://as.test/a?tenant=1", "https://as.test/a?tenant=1&"])
def test_query_of_the_endpoint_is_kept(endpoint: str) -> None:
    """RFC 6749 §3.1: an endpoint keeps its own query; a parameter without a value is absent."""
    url = authorization_url(dialect(), endpoint, redirect_uri=REDIRECT, state="s", code_challenge=None)
    assert parse_qsl(urlsplit(url).query, strict_parsing=True) == [
        ("tenant", "1"),
        ("response_type", "code"),
        ("client_id", "an id"),
        ("redirect_uri", REDIRECT),
        ("state", "s"),
    ]


def test_v3_wants_a_plain_redirect_uri() -> None:
    """Eagle Eye V3 gets `://` and `/` verbatim; what would break the query is encoded anyway."""
    url = authorization_url(
        dialect("een-v3"), "https://v3.test/a", redirect_uri=f"{REDIRECT}?a=b&c#d", state="s", code_challenge=None
    )
    assert "redirect_uri=http://127.0.0.1:8080/callback%3Fa%3Db%26c%23d&scope=vms.all&" in url


def test_pkce_s256() -> None:
    """The example of RFC 7636, appendix B, and verifiers of the required alphabet that never repeat."""
    assert (
        challenge(Secret("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"))
        == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    )
    verifiers = {new_verifier().reveal() for _ in range(100)}
    assert len(verifiers) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", verifier) for verifier in verifiers)


@pytest.mark.parametrize(
    ("issuer", "iss", "required", "accepted"),
    [
        ("https://as.test", "https://as.test", True, True),
        ("https://as.test", "https://as.test/", False, False),
        ("https://as.test", "https://evil.test", False, False),
        ("https://as.test", None, False, True),
        ("https://as.test", None, True, False),
        ("https://as.test", "", False, False),
        (None, "https://anything.test", False, True),
        (None, None, False, True),
    ],
)
def test_rfc_9207(issuer: str | None, iss: str | None, required: bool, accepted: bool) -> None:
    """`iss` is compared character by character, and required if the metadata promises it."""
    settings = dialect(issuer=issuer)
    if accepted:
        check_issuer(settings, iss, required=required)
    else:
        with pytest.raises(InvalidRequest):
            check_issuer(settings, iss, required=required)


def test_params_replace_and_remove() -> None:
    """Any parameter may be replaced or left out but state and PKCE; scopes are joined as the provider wants."""
    settings = dialect(
        scope="a b",
        scope_separator=",",
        authorization_params={
            "client_id": "",
            "client_key": "{client_id}",
            "response_type": "code id_token",
            "scope": "",
            "user_scope": "{scope}",
            "state": "",
            "code_challenge": "evil",
            "code_challenge_method": "plain",
        },
    )
    url = authorization_url(settings, "https://as.test/a", redirect_uri=REDIRECT, state="s", code_challenge="c")
    assert parse_qsl(urlsplit(url).query, strict_parsing=True) == [
        ("response_type", "code id_token"),
        ("redirect_uri", REDIRECT),
        ("state", "s"),
        ("code_challenge", "c"),
        ("code_challenge_method", "S256"),
        ("client_key", "an id"),
        ("user_scope", "a,b"),
    ]
    assert "scope=a%2Cb&" in authorization_url(
        dialect(scope="a b", scope_separator=","), "https://as.test/a", redirect_uri="x", state="s", code_challenge="c"
    )
