"""What `check --online` says of providers: each kind of finding, from a server that is really like that."""

from __future__ import annotations

import datetime as dt
import email.utils
import re
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from broker.check.finding import Finding
from broker.check.providers import of_provider
from broker.providers import Endpoint, open_http
from broker.providers.facts import look
from broker.sandbox import Sandbox
from broker.settings import Provider
from tests.conftest import provider_settings
from tests.ports import free_port
from tests.regressions.black_hole import black_hole
from tests.regressions.certificates import server_context, sha1, tls_1_0
from tests.regressions.conftest import provider_at
from tests.scripted_server import CLIENT_SECRET, AuthorizationServer, authorization_server, says

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


async def found(provider: dict[str, Any], name: str = "as") -> list[Finding]:
    """Return the findings of one provider."""
    async with open_http(3) as http:
        endpoint = Endpoint.of(name, Provider(**provider), http, clock=lambda: int(time.time() * 1000))
        return list(of_provider(await look(endpoint, 3), time.time()))


def bad(findings: list[Finding]) -> list[tuple[str, str]]:
    """Level and words of what is not as it should be."""
    return [(finding.level, finding.what) for finding in findings if finding.level != "ok"]


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Return an authority that is trusted."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "bundle.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "bundle.pem"))
    return made


@pytest.mark.parametrize("provider", ["cameramanager", "een", "acme"])
async def test_nothing_wrong(sandbox: Sandbox, provider: str) -> None:
    """Good servers of all kinds: good news alone, and no secret, client id or token is sent by asking."""
    settings = provider_settings(sandbox)[provider]
    findings = await found(settings, provider)
    assert bad(findings) == [] != findings
    assert not any(settings["client_secret"] in str(finding) for finding in findings)


async def test_only_looks(auth_server: AuthorizationServer) -> None:
    """One GET without a body, credentials or parameters; nothing was redeemed."""
    auth_server.page = says("", 405, f"Date: {email.utils.formatdate(usegmt=True)}")
    assert bad(await found(provider_at(auth_server))) == []
    (asked,) = auth_server.pages
    assert (asked.target, asked.body, auth_server.requests) == ("/token", b"", [])
    assert "authorization" not in asked.headers
    assert CLIENT_SECRET not in str(asked)


@pytest.fixture
async def auth_server() -> Any:
    """Return a scripted authorization server."""
    async with authorization_server() as server:
        yield server


@pytest.mark.parametrize(("seconds", "words"), [(-600, "ahead of"), (3600, "behind")])
async def test_clocks_apart(auth_server: AuthorizationServer, seconds: int, words: str) -> None:
    """A server's clock that is far from ours, by its Date header, in seconds."""
    auth_server.page = says("", 200, f"Date: {email.utils.formatdate(time.time() + seconds, usegmt=True)}")
    ((level, what),) = bad(await found(provider_at(auth_server)))
    said = re.fullmatch(rf"our clock is (\d+) s {words} its clock", what)
    assert (level, said is not None) == ("warning", True), what
    assert said is not None
    assert abs(int(said[1]) - abs(seconds)) <= 2


@pytest.mark.parametrize("date", [None, "Date: yesterday"])
async def test_no_clock(auth_server: AuthorizationServer, date: str | None) -> None:
    """A server that does not say what time it is: cannot tell."""
    auth_server.page = says("", 200, *([date] if date else []))
    assert bad(await found(provider_at(auth_server))) == [("unknown", "what time it is there")]


async def test_fault_of_the_server(auth_server: AuthorizationServer) -> None:
    """HTTP 503 is warned of."""
    auth_server.page = says("", 503, f"Date: {email.utils.formatdate(usegmt=True)}")
    assert bad(await found(provider_at(auth_server))) == [("warning", f"{auth_server.url}/token answers HTTP 503")]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://127.0.0.1:{port}/token", "Connection refused"),
        ("https://nobody.invalid/token", ""),
        ("https://token-broker.test:99/token", ""),
    ],
)
async def test_not_there(url: str, why: str) -> None:
    """Nobody listens, or the name means nothing: failed, with URL and reason."""
    url = url.format(port=free_port())
    ((level, what),) = bad(await found({"kind": "oauth2", "client_id": "x", "token_endpoint": url}))
    assert (level, what.startswith(f"{url} cannot be asked: {why}")) == ("failed", True)


@pytest.mark.parametrize(
    ("days", "level"),
    [(60, None), (13, "warning"), (1, "warning"), (-1, "failed")],
    ids=["good", "soon", "now", "over"],
)
async def test_certificate_expiring(authority: trustme.CA, days: int, level: str | None) -> None:
    """A certificate that ends within two weeks is warned of with the days; one that has ended has failed."""
    context = server_context(authority, not_before=NOW - 30 * DAY, not_after=NOW + days * DAY + DAY / 2)
    async with authorization_server(tls=context, name="localhost") as server:
        server.page = says("", 200, f"Date: {email.utils.formatdate(usegmt=True)}")
        findings = await found(provider_at(server))
    if level is None:
        assert bad(findings) == []
        assert "over TLSv1.3" in " ".join(finding.what for finding in findings)
    else:
        ((said, what),) = bad(findings)
        assert said == level
        assert (f"in {days} days" if days > 0 else "certificate has expired") in what


def misnamed(authority: trustme.CA, _folder: Path) -> ssl.SSLContext:
    """Return a certificate for another host."""
    return server_context(authority, "elsewhere.test")


def unknown(_authority: trustme.CA, _folder: Path) -> ssl.SSLContext:
    """Return a certificate of an authority that is not trusted."""
    return server_context(trustme.CA())


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [(misnamed, "localhost"), (unknown, "unable to get local issuer"), (sha1, "too weak")],
    ids=["wrong name", "unknown authority", "sha-1"],
)
async def test_certificate_not_accepted(
    authority: trustme.CA, tmp_path: Path, spoilt: Callable[[trustme.CA, Path], ssl.SSLContext], words: str
) -> None:
    """What the daemon would not accept has failed here too, for the same reason."""
    async with authorization_server(tls=spoilt(authority, tmp_path), name="localhost") as server:
        (finding,) = [finding for finding in await found(provider_at(server)) if finding.level != "ok"]
    assert (finding.level, words in finding.what) == ("failed", True)
    assert "SSL_CERT_FILE" in finding.mend


async def test_too_old_tls(authority: trustme.CA, tmp_path: Path, ended: list[subprocess.Popen[Any]]) -> None:
    """A server that speaks TLS 1.0 alone."""
    port = free_port()
    ended.append(await tls_1_0(authority, tmp_path, port))
    url = f"https://localhost:{port}/token"
    ((level, what),) = bad(await found({"kind": "oauth2", "client_id": "x", "token_endpoint": url}))
    assert (level, "PROTOCOL_VERSION" in what) == ("failed", True)


async def test_addresses(authority: trustme.CA) -> None:
    """A literal IPv6 address; and an IPv6 that leads nowhere beside an IPv4 that works."""
    page = says("", 200, f"Date: {email.utils.formatdate(usegmt=True)}")
    async with authorization_server(tls=server_context(authority, "::1"), host="::1", name="[::1]") as server:
        server.page = page
        assert bad(await found(provider_at(server))) == []
    async with authorization_server(tls=server_context(authority), name="localhost") as server:
        server.page = page
        with black_hole(server.port):
            assert bad(await found(provider_at(server))) == []


@pytest.mark.parametrize(
    ("said", "level", "words"),
    [
        ("/r", "error", "they must be equal to the letter, a trailing slash included"),
        (None, "failed", "HTTP 503"),
        ("", "failed", "no discovery document"),
    ],
)
async def test_discovery(auth_server: AuthorizationServer, said: str | None, level: str, words: str) -> None:
    """An issuer that differs by its slash is a wrong setting that names both; no document is a failure."""
    issuer = f"{auth_server.url}/r/"
    document = {"issuer": f"{auth_server.url}{said}", "token_endpoint": f"{auth_server.url}/token"}
    auth_server.page = says(document) if said else says("", 503) if said is None else says("no JSON")
    findings = await found({"kind": "oidc", "client_id": "x", "issuer": issuer})
    ((found_level, what),) = bad(findings)
    assert (found_level, words in what) == (level, True), what
    assert issuer in what
    if said:
        assert f"'{auth_server.url}{said}'" in what
    assert {page.target for page in auth_server.pages} == {"/r/.well-known/openid-configuration"}
