"""Placeholders: every kind is refused wherever it stands, and no value that a provider may have issued is."""

from __future__ import annotations

import random
import secrets
import string
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from broker.cli.init import init
from broker.settings import Provider
from broker.settings.placeholders import require_values, why_no_secret, why_placeholder

from .conftest import ACME, REDIS, Wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

ANYWHERE = [
    "…",
    "……",
    "...",
    "<client id>",
    "<CLIENT_SECRET>",
    "<your tenant>",
    "${SECRET}",
    "${SECRET:-none}",
    "$(cat secret)",
    "$CLIENT_SECRET",
    "%CLIENT_SECRET%",
    "{{ client_secret }}",
    "https://…",
    "https://…/token",
    "https://<domain>/oauth2/default",
    "https://${HOST}/",
    " … ",
]
"""What no value is, whatever it is for."""
ISSUED = [
    "your-client-id",
    "YOUR_CLIENT_ID",
    "yourClientId",
    "Your Client Secret",
    "your-app-secret",
    "your-secret",
    "your-client-secret-here",
    "insert-your-client-id",
    "client-id-here",
    "paste the client secret here",
    "replace-with-client-id",
    "changeme",
    "change-me",
    "CHANGE_ME",
    "changeit",
    "replace-me",
    "placeholder",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "TODO",
    "FIXME",
    "xxx",
    "XXXXXXXX-XXXX-XXXX",
    "********",
    "••••••••",
    "abc…",
    "…xyz",
]
"""What nobody issues as a client id or secret."""
URLS = [
    "https://example.com",
    "https://sso.example.com/realms/x",
    "http://example.org:8080/token",
    "https://EXAMPLE.NET",
    "https://idp.example",
    "https://idp.example./x",
    "https://...",
    "https://.../x",
    "https://your-domain.okta.com",
    "https://YOUR_DOMAIN.auth0.com/",
    "https://your-subdomain.zendesk.com/oauth",
    "https://your_tenant.test",
    "https://login.microsoftonline.com/your-tenant-id/v2.0",
    "https://sso.test/realms/your-realm",
]
"""What no issuer and no endpoint is."""
LEGITIMATE = [
    "cameramanager.test",
    "secret",
    "password",
    "todo",
    "test",
    "x",
    "xx",
    "web",
    "my-client-id",
    "client-id",
    "client_id",
    "your-app",
    "yourbank",
    "yourkey",
    "here",
    "hemisphere",
    "secret-key",
    "api-key",
    "placeholders",
    "changemenow-7",
    "$2b$12$abcdefghijk",
    "${",
    "<",
    "a<b>c",
    "<a1>",
    "{shop}",
    "...x",
    "50%OFF%",
    "-",
    "0",
    "amzn1.application-oa2-client.0123456789abcdef",
    "0oa1gjh63g214q0Hq0g4",
    "1234-abc.apps.googleusercontent.com",
    "8Q~vN.d..._~x",
    "Iv1.8a61f9b3a7aba766",
    "https://client.test/id",
]
REAL_URLS = [
    "https://accounts.google.com",
    "https://login.microsoftonline.com/{tenantid}/v2.0",
    "https://acme.eu.auth0.com/",
    "https://login.microsoftonline.com/common/v2.0",
    "https://sso.acme.test/realms/example",
    "https://as.test/your",
    "https://myexample.com",
    "https://examples.org",
    "https://example.de",
    "https://example.company.com",
    "https://example/",
    "https://your-app.test",
    "https://yourcompany.com/oauth",
    "http://127.0.0.1:9000/rotating",
    "https://[::1]:8443/token",
    "https://{shop}.myshopify.com/admin/oauth/access_token",
    "https://as.invalid/token",
]


@pytest.mark.parametrize("text", [*ANYWHERE, *ISSUED])
def test_no_client_id_or_secret(text: str) -> None:
    """Each member of the kind is recognised as a client id, as a secret and in a secret's file."""
    assert why_placeholder(text, "issued")
    assert (why_no_secret(text, "issued") or "").startswith("holds a placeholder (it ")


@pytest.mark.parametrize("text", [*ANYWHERE, *URLS])
def test_no_endpoint(text: str) -> None:
    """Each member of the kind is recognised as issuer or endpoint."""
    assert why_placeholder(text, "endpoint")


@pytest.mark.parametrize("text", ANYWHERE)
def test_no_value_of_any_setting(text: str) -> None:
    """What no value is, is found in every setting of a provider that holds a text, inner members included."""
    for name, field in Provider.model_fields.items():
        if "str" in str(field.annotation) or "Path" in str(field.annotation):
            with pytest.raises(ValueError, match="is a placeholder"):
                require_values(name, {"x": text} if "dict" in str(field.annotation) else text)


@pytest.mark.parametrize("text", LEGITIMATE)
def test_values_that_may_be_issued(text: str) -> None:
    """Short, odd and ugly values are values."""
    assert why_placeholder(text, "issued") is None
    assert why_no_secret(text, "issued") is None


@pytest.mark.parametrize("text", REAL_URLS)
def test_urls_that_may_be_real(text: str) -> None:
    """Names near the reserved ones, and templates of issuers, are URLs."""
    assert why_placeholder(text, "endpoint") is None


@pytest.mark.parametrize("text", ["https://api.example.com", "write", "Please wait…", "your-client-id", "changeme"])
def test_other_values_are_free(text: str) -> None:
    """A parameter may be any text: the name of an API is often such a URL."""
    assert why_placeholder(text, "other") is None


def _issued(rng: random.Random) -> Iterator[str]:
    """Yield secrets as generators make them: every alphabet in use, all printable characters among them."""
    printable = string.ascii_letters + string.digits + string.punctuation
    for alphabet in (string.ascii_uppercase, string.ascii_letters + string.digits, string.hexdigits, printable):
        yield from ("".join(rng.choices(alphabet, k=rng.randint(12, 64))) for _ in range(5_000))
    yield from (secrets.token_urlsafe(24) for _ in range(2_000))
    yield from (str(uuid.uuid4()) for _ in range(500))


def test_no_issued_secret_is_refused() -> None:
    """22,500 random secrets pass."""
    assert [text for text in _issued(random.Random(12)) if why_no_secret(text, "issued")] == []


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "is empty"), (" \t", "is empty"), ("one\ntwo", "has 2 lines"), ("\none", "has 2 lines"), ("a\rb", "has 2")],
)
def test_no_secret(text: str, why: str) -> None:
    """An empty text and one of several lines are no secret."""
    assert (why_no_secret(text, "issued") or "").startswith(why)


def test_findings_name_the_key_and_the_cure(wrong: Wrong) -> None:
    """Each finding has file, line, key, what is wrong and the cure, and never the value."""
    text = REDIS + ACME.replace('"x"', '"your-client-id"').replace("acme.test", "idp.example.com")
    found = wrong(text + 'client_secret = "changeme"\nscope = "<scope>"\ntoken_params = { a = "b", c = "…" }\n')
    words, issued = "(it consists of the words of an example)", "that the provider shows for this registration"
    reserved = "(it has a host that is reserved for examples (RFC 2606))"
    assert [finding.removeprefix("broker.toml:") for finding in found] == [
        f"5: providers.acme.client_id: is a placeholder {words}: write the client id {issued}",
        f"6: providers.acme.token_endpoint: is a placeholder {reserved}: write the URL of the server",
        f"7: providers.acme.client_secret: is a placeholder {words}: write the client secret {issued}",
        "8: providers.acme.scope: is a placeholder (it stands in angle brackets): write its value, or remove it",
        '9: providers.acme.token_params: c is a placeholder (it holds "…"): write its value, or remove it',
    ]


@pytest.mark.parametrize("kind", ["cameramanager", "een-v3", "oidc", "oauth2"])
def test_what_init_prints_must_be_filled_in(wrong: Wrong, capsys: pytest.CaptureFixture[str], kind: Any) -> None:
    """Every key that `init` leaves open is found, and nothing else."""
    init(kind)
    text = capsys.readouterr().out
    left = [line.split(" ")[0] for line in text.splitlines() if "…" in line and not line.startswith("#")]
    assert "client_id" in left
    found = [finding.split(": ")[1].rpartition(".")[2] for finding in wrong(text)]
    assert sorted(found) == sorted(left)
