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
CAMERA, OWN, KNOWN = (
    {"kind": "cameramanager", "client_id": "x"},
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
    printed = found(a=ACME | KNOWN, b=ACME | OWN, c=ACME | OWN | {"redirect_uri": "Acme-RuName"})["ok"]
    assert printed == [
        "the redirect URI to register is https://x.test/broker/callback",
        "the redirect URI to register is https://x.test/broker/callback/b",
        "Acme-RuName is sent as redirect_uri, and leads to https://x.test/broker/callback/c",
    ]


@pytest.mark.parametrize(
    ("providers", "warnings"),
    [
        ({"a": ACME | KNOWN}, []),
        ({"a": CAMERA}, []),
        ({"a": ACME | KNOWN | {"state": "optional"}}, ['a.state = "optional": remove it, unless']),
        ({"a": ACME | KNOWN | {"pkce": False}}, ["a.pkce = false: remove it, unless"]),
        ({"a": ACME}, ["a has no issuer: set issuer"]),
        ({"a": CAMERA, "b": ACME | KNOWN}, ["a has no issuer: set issuer"]),
        ({"a": CAMERA, "b": ACME | OWN}, []),
        ({"a": CAMERA | OWN, "b": ACME | KNOWN}, []),
        ({"a": CAMERA, "b": ACME}, ["a has no issuer: set issuer", "b has no issuer: set issuer"]),
    ],
)
def test_warnings(providers: dict[str, Any], warnings: list[str]) -> None:
    """A setting that weakens a login is a warning; what a kind cannot do otherwise is none."""
    shown = found(**providers)["warning"]
    assert [
        words.removeprefix("providers.")[: len(start)] for words, start in zip(shown, warnings, strict=True)
    ] == warnings


def test_the_cure_of_a_missing_issuer() -> None:
    """Beside another provider it is the issuer, or a path of its own, with what to register."""
    (warning,) = found(a=CAMERA, b=ACME | KNOWN)["warning"]
    assert 'set redirect_path = "provider" and register https://x.test/broker/callback/a there' in warning
    (alone,) = found(a=ACME)["warning"]
    assert "redirect_path" not in alone
    assert found(a=CAMERA)["ok"][1:] == [
        "a redirect may carry no state, so whoever logs in then confirms it on a page",
        "logins are without PKCE, which the provider is not known to take",
    ]
