"""What an id_token says, and which ones are refused (OpenID Connect Core 3.1.3.7)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from broker.errors import ProviderRefused
from broker.model.account import Account
from broker.providers.id_token import LEEWAY_MS, is_encrypted, read_account
from broker.secret import Secret

NOW = 1_800_000_000_000
ISSUER = "https://id.example.com"
ENTRA = "https://login.microsoftonline.com"
TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"


def made(**claims: Any) -> Secret:
    """Return an id_token of ISSUER for the client c1; None leaves a claim out."""
    given = {"iss": ISSUER, "sub": "s1", "aud": "c1", "exp": NOW // 1000 + 60, **claims}
    payload = json.dumps({name: value for name, value in given.items() if value is not None}).encode()
    return Secret(f"e30.{base64.urlsafe_b64encode(payload).rstrip(b'=').decode()}.c2ln")


def read(token: Secret, issuer: str | None = ISSUER) -> Account:
    """Read an id_token as of NOW."""
    return read_account(token, issuer=issuer, client_id="c1", now=NOW)


def test_members_that_people_know_are_kept() -> None:
    """`sub` is the account; the address and the names help people; whatever else stands there is left."""
    token = made(email="j@example.com", preferred_username="jane", name="Jane", picture="https://x", nonce="n")
    assert read(token) == Account("s1", "j@example.com", "jane", "Jane")
    assert str(read(token)) == "j@example.com (s1)"
    assert read(made(email=7, name="")) == Account("s1")
    assert str(read(made())) == "s1"


@pytest.mark.parametrize("audience", ["c1", ["c1"], ["project-9", "c1"]])
def test_the_audience_holds_the_client(audience: object) -> None:
    """One audience or many: the client is among them (Zitadel adds its project)."""
    assert read(made(aud=audience)).id == "s1"


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://evil.example.com"}, "names the issuer 'https://evil.example.com'"),
        ({"iss": ISSUER + "/"}, "names the issuer"),
        ({"iss": None}, "names the issuer 'no iss'"),
        ({"iss": ["x"]}, "names the issuer"),
        ({"aud": "c2"}, "another client"),
        ({"aud": ["c2"]}, "another client"),
        ({"aud": {"c1": 1}}, "another client"),
        ({"aud": None}, "another client"),
        ({"exp": None}, "no expiry"),
        ({"exp": "soon"}, "no expiry"),
        ({"exp": (NOW - LEEWAY_MS) // 1000}, "expired 300 s ago"),
        ({"sub": None}, "no sub"),
        ({"sub": ""}, "no sub"),
        ({"sub": 7}, "no sub"),
        ({"sub": "x" * 256}, "no sub"),
        ({"sub": "a\nb"}, "no sub"),
    ],
)
def test_what_is_refused(claims: dict[str, Any], why: str) -> None:
    """Another issuer, another client, no end or one that has passed, nobody: the login fails in words."""
    with pytest.raises(ProviderRefused, match=why) as refused:
        read(made(**claims))
    assert refused.value.code == "invalid_id_token"


@pytest.mark.parametrize(
    "token", ["", "x", "a.b", "a.!.c", "a.e30", f"a.{base64.urlsafe_b64encode(b'[1]').decode()}.c", "a.W1tb.c"]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    """Text that is no JWT, or whose payload is no JSON object, is refused, and not quoted."""
    with pytest.raises(ProviderRefused, match=r"no JWT|no JSON"):
        read(Secret(token))


def test_clocks_may_differ_a_little() -> None:
    """A token that has just expired by this host's clock counts: the clocks may differ by five minutes."""
    assert read(made(exp=(NOW - LEEWAY_MS) // 1000 + 1)).id == "s1"


def test_an_issuer_that_is_not_known_is_not_compared() -> None:
    """Without `issuer` in the settings there is nothing to compare `iss` with; audience and expiry still count."""
    assert read(made(iss="https://any.example.com"), None).id == "s1"
    with pytest.raises(ProviderRefused):
        read(made(aud="c2"), None)


@pytest.mark.parametrize(
    "issuer", [f"{ENTRA}/common/v2.0", f"{ENTRA}/organizations/v2.0", f"{ENTRA}/{{tenantid}}/v2.0"]
)
def test_the_issuer_for_every_tenant_is_checked_against_the_tokens_tenant(issuer: str) -> None:
    """Entra's `iss` holds the tenant of the person: it must be the one of `tid`, and nothing else may differ."""
    iss = f"{ENTRA}/{TENANT}/v2.0"
    assert read(made(iss=iss, tid=TENANT), issuer).id == "s1"
    for claims in (
        {"iss": iss, "tid": "another"},
        {"iss": iss},
        {"iss": f"{ENTRA}/a/b/v2.0", "tid": "a/b"},
        {"iss": f"https://evil.example.com/{TENANT}/v2.0", "tid": TENANT},
        {"iss": f"{ENTRA}/{{tenantid}}/v2.0", "tid": TENANT},
    ):
        with pytest.raises(ProviderRefused, match="issuer"):
            read(made(**claims), issuer)


def test_the_issuer_of_one_tenant_is_that_tenants() -> None:
    """With one tenant in the settings a person of another tenant is refused, whatever `tid` says."""
    with pytest.raises(ProviderRefused):
        read(made(iss=f"{ENTRA}/other/v2.0", tid="other"), f"{ENTRA}/{TENANT}/v2.0")


def test_an_encrypted_token_is_known_as_such() -> None:
    """Five parts: only the key of the registration opens it, which the broker does not have."""
    assert is_encrypted(Secret("a.b.c.d.e"))
    assert not is_encrypted(made())
