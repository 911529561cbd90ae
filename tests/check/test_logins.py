"""What `check` says of what protects logins."""

from __future__ import annotations

from typing import Any

import pytest

from broker.check.logins import check_logins
from broker.settings import Settings

ACME = {
    "kind": "oauth2",
    "client_id": "x",
    "authorization_endpoint": "https://as.test/a",
    "token_endpoint": "https://as.test/t",
}
CAMERA, EBAY, OWN, KNOWN = (
    {"kind": "cameramanager", "client_id": "x"},
    {"kind": "ebay", "client_id": "x", "parameters": {"ru_name": "Acme-RuName"}},
    {"redirect_path": "provider"},
    {"issuer": "https://as.test"},
)


def found(**providers: dict[str, Any]) -> dict[str, list[str]]:
    """Return the findings on a broker below a path, by level; of a warning its cure."""
    settings = Settings(redis={"url": "embedded:"}, http={"public_url": "https://x.test/broker/"}, providers=providers)
    levels: dict[str, list[str]] = {"ok": [], "warning": []}
    for finding in check_logins(settings, lambda *keys: ".".join(keys)):
        levels[finding.level].append(f"{finding.what}: {finding.cure}" if finding.level == "warning" else finding.what)
    return levels


def test_every_redirect_uri_is_printed() -> None:
    """Each provider's, with the path of public_url; and what is sent in its place."""
    printed = found(a=ACME | KNOWN, b=ACME | KNOWN | OWN, c=ACME | KNOWN | OWN | {"redirect_uri": "Acme-RuName"})["ok"]
    assert printed == [
        "the redirect URI to register is https://x.test/broker/callback",
        "the redirect URI to register is https://x.test/broker/callback/b",
        "Acme-RuName is sent as redirect_uri, and leads to https://x.test/broker/callback/c",
    ]


NO_ISSUER, SHARES = "a has no issuer: set issuer", "a has no issuer, and shares its redirect path: set redirect_path"


@pytest.mark.parametrize(
    ("providers", "warnings"),
    [
        ({"a": ACME | KNOWN}, []),
        ({"a": CAMERA}, []),
        ({"a": CAMERA | {"state": "optional", "pkce": False}}, []),
        ({"a": EBAY}, []),
        ({"a": ACME | KNOWN | {"state": "optional"}}, ['a.state = "optional": remove it, unless']),
        ({"a": ACME | KNOWN | {"pkce": False}}, ["a.pkce = false: remove it, unless"]),
        ({"a": EBAY | {"state": "optional"}}, ['a.state = "optional": remove it, unless']),
        ({"a": ACME}, [NO_ISSUER]),
        ({"a": ACME | {"authorization_endpoint": None}, "b": ACME | KNOWN}, []),
        ({"a": CAMERA, "b": ACME | KNOWN}, [SHARES]),
        ({"a": CAMERA, "b": EBAY}, [SHARES, SHARES.replace("a", "b", 1)]),
        ({"a": CAMERA, "b": EBAY | OWN}, []),
        ({"a": CAMERA | OWN, "b": ACME | KNOWN}, []),
        (
            {"a": CAMERA, "b": ACME},
            [SHARES, "b has no issuer, and shares its redirect path: set issuer"],
        ),
    ],
)
def test_warnings(providers: dict[str, Any], warnings: list[str]) -> None:
    """A setting that weakens a login is a warning; what a kind cannot do otherwise is none."""
    shown = found(**providers)["warning"]
    assert [
        words.removeprefix("providers.")[: len(start)] for words, start in zip(shown, warnings, strict=True)
    ] == warnings


def test_the_cure_of_a_missing_issuer() -> None:
    """Beside another provider it is a path of its own, with what to register; the issuer where a person may know it."""
    (of_kind,) = found(a=CAMERA, b=ACME | KNOWN)["warning"]
    own = 'set redirect_path = "provider" and register https://x.test/broker/callback/{} at the provider'
    assert of_kind.endswith(f": {own.format('a')}")
    (described,) = found(a=ACME, b=ACME | KNOWN | {"redirect_path": "shared"})["warning"]
    assert 'set issuer = "https://…", as the server names itself; if it sends no iss, ' in described
    assert described.endswith(own.format("a"))


def test_what_a_kind_fixes_is_a_fact() -> None:
    """It is named with what protects in its place, and is no warning: `check --strict` exits 0."""
    camera, ebay = found(a=CAMERA), found(a=EBAY | OWN)
    assert camera["warning"] == ebay["warning"] == []
    state, pkce, issuer = camera["ok"][1:]
    assert state == (
        "Eagle Eye Networks CameraManager returns no state: only the browser that opened the login link completes a "
        "login, and whoever logs in confirms account and grant on a page before anything is kept"
    )
    assert pkce == (
        "Eagle Eye Networks CameraManager is not known to take PKCE: the browser's cookie and the client secret "
        "protect a login's code"
    )
    assert issuer.endswith("none is needed: no other provider's redirects come back to its path")
    pkce, issuer = ebay["ok"][1:]
    assert "eBay is not known to take PKCE: state, the browser's cookie and the client secret" in pkce
    assert issuer.endswith("come back to https://x.test/broker/callback/a, which no other provider uses")


def test_a_logout_that_revokes_nothing_is_named() -> None:
    """A kind's endpoint of logouts is not used for another host's tokens; `check` says so, and which it is."""
    elsewhere = {"kind": "gitlab", "client_id": "x", "token_endpoint": "https://git.test/oauth/token"}
    (warning,) = [words for words in found(a=elsewhere | OWN)["warning"] if "revocation_endpoint" in words]
    assert "at another host" in warning
    assert '"https://gitlab.com/oauth/revoke"' in warning
    chosen = {"revocation_endpoint": "https://git.test/oauth/revoke"}
    for sound in (elsewhere | chosen, {"kind": "gitlab", "client_id": "x"}):
        assert not [words for words in found(a=sound | OWN)["warning"] if "revocation_endpoint" in words]
