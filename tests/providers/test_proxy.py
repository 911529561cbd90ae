"""Requests through a real HTTP proxy: what reaches the server, and what a refusal of the proxy means."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, get_args

import pytest
import trustme

from broker.model import Answered, NotSent, Unknown
from broker.providers import Endpoint, open_http
from broker.providers.account import AccountUnknown, fetch_account
from broker.providers.proxy import Proxy
from broker.providers.revocation import revoke
from broker.secret import Secret
from broker.settings import Outgoing, Provider
from tests.connect_proxy import Fault, connect_proxy
from tests.ports import free_port
from tests.regressions.certificates import server_context
from tests.scripted_server import CLIENT_SECRET, AuthorizationServer, authorization_server, says

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from broker.model import Outcome

NAME = "as.test"
PAIR = "jürgen:p%40ss:wörd"
SERVER_FAULTS = {"reset answer", "slow"}
PROXY_FAULTS: list[Any] = [fault for fault in get_args(Fault) if fault not in SERVER_FAULTS]


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Make an authority that is trusted."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "bundle.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "bundle.pem"))
    return made


@pytest.fixture
async def server(authority: trustme.CA) -> AsyncIterator[AuthorizationServer]:
    """Start an authorization server behind https://as.test, which only the proxy can find."""
    async with authorization_server(tls=server_context(authority, NAME), name=NAME) as started:
        yield started


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """Return the file with the credentials."""
    file = tmp_path / "proxy_credentials"
    file.write_text(f"{PAIR}\n")
    return file


@contextlib.asynccontextmanager
async def endpoint(
    url: str, outgoing: dict[str, Any] | None = None, *, limit: float = 3, **settings: Any
) -> AsyncIterator[Endpoint]:
    """Make an endpoint at *url* whose requests go as these settings say."""
    given = {"kind": "oauth2", "client_id": "id", "client_secret": CLIENT_SECRET, "token_endpoint": f"{url}/token"}
    provider = Provider.model_validate({**given, **settings})
    async with open_http(limit) as http:
        proxy = Proxy.from_settings("providers.acme", provider, Outgoing(**(outgoing or {})))
        yield Endpoint.from_settings("acme", provider, http.through(proxy), clock=lambda: 0)


async def refresh(server: AuthorizationServer, outgoing: dict[str, Any], limit: float = 3, **settings: Any) -> Outcome:
    """Refresh a new grant of *server*."""
    token = Secret(server.issue("g"))
    async with endpoint(server.url, outgoing, **settings) as made:
        return await made.refresh(token, timeout=limit)


def context(authority: trustme.CA, *, tls: bool) -> Any:
    """Return the TLS context of a proxy; None: plain http."""
    return server_context(authority) if tls else None


def secrets_in(outcome: Outcome) -> list[str]:
    """Return which parts of the credentials an outcome shows."""
    return [part for part in ("jürgen", "p%40ss", "wörd", "Basic") if part in repr(outcome)]


@pytest.mark.parametrize("tls", [False, True], ids=["http proxy", "https proxy"])
@pytest.mark.parametrize("fault", [None, "slow"])
async def test_tunnel(
    authority: trustme.CA, server: AuthorizationServer, credentials: Path, fault: Any, *, tls: bool
) -> None:
    """A refresh passes a tunnel once, also a slow one; the server sees neither credentials nor lines of the proxy."""
    async with connect_proxy(PAIR, tls=context(authority, tls=tls), names={NAME: server.port}) as proxy:
        proxy.fault = fault
        outcome = await refresh(server, {"proxy": proxy.url, "proxy_credentials_file": credentials})
    assert isinstance(outcome, Answered), outcome
    assert (proxy.tunnels, len(server.requests), server.reuse) == (1, 1, 0)
    assert proxy.heads[0].startswith(f"CONNECT {NAME}:{server.port} HTTP/1.1\r\n")
    assert "User-Agent: token-broker/" in proxy.heads[0]
    assert "authorization: basic" not in proxy.heads[0].lower().replace("proxy-authorization", "")
    assert not [name for name in server.requests[0].headers if name.startswith("proxy")]


@pytest.mark.parametrize("tls", [False, True], ids=["http proxy", "https proxy"])
@pytest.mark.parametrize("fault", PROXY_FAULTS)
async def test_fault_before_the_request(
    authority: trustme.CA, server: AuthorizationServer, credentials: Path, fault: Fault, *, tls: bool
) -> None:
    """Whatever a proxy does before the request passes: nothing was sent, and the words name the proxy."""
    async with connect_proxy(PAIR, tls=context(authority, tls=tls), names={NAME: server.port}) as proxy:
        proxy.fault = fault
        outcome = await refresh(server, {"proxy": proxy.url, "proxy_credentials_file": credentials}, 0.7)
    assert isinstance(outcome, NotSent), outcome
    assert proxy.url in outcome.detail
    assert (server.requests, secrets_in(outcome)) == ([], [])
    assert len(proxy.heads) == 1


@pytest.mark.parametrize("status", [301, 403, 407, 429, 500, 502, 503, 504])
async def test_refused(server: AuthorizationServer, status: int) -> None:
    """Each refusal of CONNECT by a status is not sent, with the status: a 503 is not the provider's."""
    async with connect_proxy(names={NAME: server.port}) as proxy:
        proxy.fault, proxy.status = "refuse", status
        outcome = await refresh(server, {"proxy": proxy.url})
    assert isinstance(outcome, NotSent)
    assert (outcome.code, f"the proxy {proxy.url} refused with HTTP {status}" in outcome.detail) == (
        "proxy_refused",
        True,
    )
    assert server.requests == []


@pytest.mark.parametrize("tls", [False, True], ids=["http proxy", "https proxy"])
async def test_fault_after_the_request(authority: trustme.CA, server: AuthorizationServer, *, tls: bool) -> None:
    """A link that is lost after the request passed is unknown, as without a proxy."""
    async with (
        connect_proxy(tls=context(authority, tls=tls), names={NAME: server.port}) as proxy,
        endpoint(server.url, {"proxy": proxy.url}) as made,
    ):
        assert isinstance(await made.refresh(Secret(server.issue("g")), timeout=3), Answered)
        proxy.fault = "reset answer"
        outcome = await made.refresh(Secret(server.issue("h")), timeout=3)
    assert isinstance(outcome, Unknown), outcome
    assert len(server.requests) == 2


async def test_credentials_are_read_again(server: AuthorizationServer, credentials: Path) -> None:
    """Credentials that the proxy refuses send nothing; once their file is changed, the next request passes."""
    credentials.write_text("jürgen:old\n")
    async with connect_proxy(PAIR, names={NAME: server.port}) as proxy:
        outgoing = {"proxy": proxy.url, "proxy_credentials_file": credentials}
        async with endpoint(server.url, outgoing) as made:
            token = Secret(server.issue("g"))
            refused = await made.refresh(token, timeout=3)
            assert isinstance(refused, NotSent)
            assert refused.detail == (f"the proxy {proxy.url} refused with HTTP 407: it asks for other credentials")
            credentials.write_text(f"{PAIR}\r\n")
            assert isinstance(await made.refresh(token, timeout=3), Answered)
            credentials.unlink()
            gone = await made.refresh(token, timeout=3)
    assert isinstance(gone, NotSent)
    assert (gone.code, str(credentials) in gone.detail) == ("proxy_credentials_unreadable", True)
    assert (len(server.requests), server.reuse) == (1, 0)


@pytest.mark.parametrize("spoilt", ["refused", "unknown name", "unknown authority", "wrong name"])
async def test_proxy_not_reached(authority: trustme.CA, server: AuthorizationServer, spoilt: str) -> None:
    """A proxy that cannot be connected to, by TLS or at all, is named as what failed."""
    contexts = {
        "unknown authority": server_context(trustme.CA()),
        "wrong name": server_context(authority, "elsewhere.test"),
    }
    async with connect_proxy(tls=contexts.get(spoilt), names={NAME: server.port}) as proxy:
        url = {
            "refused": f"http://localhost:{free_port()}",
            "unknown name": "http://nobody.invalid:3128",
        }.get(spoilt, proxy.url)
        outcome = await refresh(server, {"proxy": url})
    assert isinstance(outcome, NotSent)
    assert (outcome.code, outcome.detail.startswith(f"the proxy {url} cannot be reached: ")) == (
        "proxy_unreachable",
        True,
    ), outcome
    assert (server.requests, proxy.heads) == ([], [])


async def test_certificate_of_the_server(authority: trustme.CA) -> None:
    """Within the tunnel the server's own certificate counts."""
    async with (
        authorization_server(tls=server_context(authority, "other.test"), name=NAME) as server,
        connect_proxy(names={NAME: server.port}) as proxy,
    ):
        outcome = await refresh(server, {"proxy": proxy.url})
    assert isinstance(outcome, NotSent)
    assert outcome.code == "tls"
    assert outcome.detail.endswith(f"(through the proxy {proxy.url})")
    assert (server.connections, server.requests) == (0, [])


class TestPlainHttp:
    """An endpoint without TLS: the proxy reads the request, and passes it on."""

    @pytest.fixture
    async def plain(self) -> AsyncIterator[AuthorizationServer]:
        """Start an authorization server at http://as.test."""
        async with authorization_server(name=NAME) as started:
            yield started

    async def test_passed_on(self, plain: AuthorizationServer, credentials: Path) -> None:
        """The request has an absolute URL and the credentials for the proxy."""
        async with connect_proxy(PAIR, names={NAME: plain.port}) as proxy:
            outgoing = {"proxy": proxy.url, "proxy_credentials_file": credentials}
            outcome = await refresh(plain, outgoing, allow_http=True)
        assert isinstance(outcome, Answered), outcome
        assert proxy.heads[0].startswith(f"POST http://{NAME}:{plain.port}/token HTTP/1.1\r\n")
        assert (proxy.forwarded, len(plain.requests), plain.reuse) == (1, 1, 0)

    async def test_refused(self, plain: AuthorizationServer) -> None:
        """407 is the proxy's, so nothing was sent; after any other failure the server may have the request."""
        async with connect_proxy(PAIR, names={NAME: plain.port}) as proxy:
            refused = await refresh(plain, {"proxy": proxy.url}, allow_http=True)
            assert isinstance(refused, NotSent)
            assert "407" in refused.detail
            proxy.credentials = None
            for fault in ("refuse", "close", "reset"):
                proxy.fault = fault
                outcome = await refresh(plain, {"proxy": proxy.url}, allow_http=True)
                assert isinstance(outcome, Unknown), (fault, outcome)
        assert plain.requests == []


async def test_everything_goes_through(server: AuthorizationServer, authority: trustme.CA) -> None:
    """Discovery, code exchange, refresh, revocation and the question about the account: no host is found otherwise."""
    document = {
        "issuer": server.url,
        "token_endpoint": f"{server.url}/token",
        "revocation_endpoint": f"{server.url}/revoke",
    }
    server.page = says(document)
    async with connect_proxy(names={NAME: server.port}) as proxy:
        settings: dict[str, Any] = {"kind": "oidc", "issuer": server.url, "token_endpoint": None, "proxy": proxy.url}
        async with endpoint(server.url, account_endpoint=f"{server.url}/me", **settings) as made:
            answer = await made.refresh(Secret(server.issue("g")), timeout=3)
            assert isinstance(answer, Answered)
            await made.exchange_code(Secret("c"), redirect_uri="http://localhost/", code_verifier=None, timeout=3)
            tokens = {"access_token": Secret("at"), "refresh_token": Secret("rt")}
            await revoke(made, **tokens, timeout=3)
            with contextlib.suppress(AccountUnknown):
                await fetch_account(made, answer.answer)
        async with endpoint(server.url, {"proxy": proxy.url}, logout_endpoint=f"{server.url}/out") as made:
            await revoke(made, **tokens, timeout=3)
    assert [page.path for page in server.pages] == ["/.well-known/openid-configuration", "/me"]
    assert [request.path for request in server.requests] == ["/token", "/token", "/revoke", "/out"]


class TestChoice:
    """Which proxy a URL is requested through."""

    @staticmethod
    async def chosen(url: str, own: str | None = None, outgoing: str | None = None) -> str | None:
        """Return the URL of the proxy for *url*."""
        provider = Provider.model_validate(
            {"kind": "oauth2", "client_id": "id", "token_endpoint": "https://as.test/t", "proxy": own}
        )
        proxy = Proxy.from_settings("providers.acme", provider, Outgoing(proxy=outgoing))
        hop = None if proxy is None else await proxy.hop(url)
        return None if hop is None else hop.name

    @pytest.mark.parametrize(
        ("own", "outgoing", "url", "wanted"),
        [
            (None, None, "https://as.test/t", None),
            (None, "", "https://as.test/t", None),
            (None, "none", "https://as.test/t", None),
            (None, "http://p:1", "https://as.test/t", "http://p:1"),
            ("none", "http://p:1", "https://as.test/t", None),
            ("", "http://p:1", "https://as.test/t", None),
            ("https://q:2/", "http://p:1", "https://as.test/t", "https://q:2"),
            (None, "http://p:1", "https://127.0.0.1:9/t", None),
            (None, "http://p:1", "https://localhost/t", None),
            (None, "http://p:1", "http://[::1]:9/t", None),
            ("http://q:2", None, "https://localhost/t", "http://q:2"),
        ],
    )
    async def test_settings(self, own: str | None, outgoing: str | None, url: str, wanted: str | None) -> None:
        """A provider's own key wins; loopback goes directly unless it is the provider's own."""
        assert await self.chosen(url, own, outgoing) == wanted

    @pytest.mark.parametrize(
        ("variables", "url", "wanted"),
        [
            ({}, "https://as.test/t", None),
            ({"HTTPS_PROXY": "http://p:1"}, "https://as.test/t", "http://p:1"),
            ({"https_proxy": "http://p:1"}, "https://as.test/t", "http://p:1"),
            ({"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:2"}, "https://as.test/t", "http://q:2"),
            ({"HTTPS_PROXY": "p:1"}, "https://as.test/t", "http://p:1"),
            ({"HTTPS_PROXY": "http://user:pw@p:1"}, "https://as.test/t", "http://p:1"),
            ({"HTTPS_PROXY": "http://p:1"}, "http://as.test/t", None),
            ({"HTTP_PROXY": "http://p:1"}, "http://as.test/t", "http://p:1"),
            ({"ALL_PROXY": "http://p:1"}, "https://as.test/t", "http://p:1"),
            ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "as.test"}, "https://as.test/t", None),
            ({"HTTPS_PROXY": "http://p:1", "no_proxy": ".test, b"}, "https://as.test:8443/t", None),
            ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "as.test:8443"}, "https://as.test:8443/t", None),
            ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "as.test:8443"}, "https://as.test/t", "http://p:1"),
            ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://as.test/t", None),
            ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "bas.test"}, "https://as.test/t", "http://p:1"),
            ({"HTTPS_PROXY": "http://p:1"}, "https://localhost/t", None),
        ],
    )
    async def test_environment(
        self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, wanted: str | None
    ) -> None:
        """The variables hold only where a setting says so: upper and lower case, all schemes, and the exceptions."""
        clear(monkeypatch)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert await self.chosen(url, outgoing="environment") == wanted
        assert await self.chosen(url) is None


def clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables that name proxies."""
    for scheme in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme.upper()}_PROXY", raising=False)


async def test_credentials_of_the_environment(monkeypatch: pytest.MonkeyPatch, server: AuthorizationServer) -> None:
    """User and password of HTTPS_PROXY are decoded, sent to the proxy, and never shown."""
    clear(monkeypatch)
    async with connect_proxy("jürgen:p@ss:wörd", names={NAME: server.port}) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//j%C3%BCrgen:p%40ss:w%C3%B6rd@"))
        assert isinstance(await refresh(server, {"proxy": "environment"}), Answered)
        proxy.credentials = "other:pair"
        refused = await refresh(server, {"proxy": "environment"})
    assert isinstance(refused, NotSent)
    assert f"the proxy {proxy.url} refused" in refused.detail
    assert secrets_in(refused) == []
    assert server.reuse == 0
