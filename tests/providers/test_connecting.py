"""Connecting to a provider: what prevents a request from being sent, TLS above all, and how connections are kept."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme

from broker.model import Answered, NotSent
from broker.providers import Endpoint, faults, open_http
from broker.providers import http as provider_http
from broker.settings import Provider

from .asking import TOKENS, refresh

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from broker.providers import Http
    from tests.scripted_server import ScriptedServer

    Serve = Callable[..., Awaitable[ScriptedServer]]
    EndpointAt = Callable[..., Endpoint]
    MakeAnswer = Callable[..., bytes]


async def test_refused(endpoint_at: EndpointAt) -> None:
    """A refused port: nothing was sent. By name too, where more than one address refuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for host in ("127.0.0.1", "localhost"):
        outcome = await refresh(endpoint_at(f"http://{host}:{port}"))
        assert outcome == NotSent("connection_refused", "Connection refused")


async def test_unknown_name(endpoint_at: EndpointAt) -> None:
    """A name that does not resolve: nothing was sent."""
    outcome = await refresh(endpoint_at("https://no-such-host.invalid"), 5)
    assert isinstance(outcome, NotSent)
    assert outcome.code == "dns"
    assert outcome.detail


async def test_connect_timeout(endpoint_at: EndpointAt) -> None:
    """A server that does not accept in time: nothing was sent."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = []
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        outcome = await refresh(endpoint_at(f"http://127.0.0.1:{address[1]}"), 0.3)
        for filler in fillers:
            filler.close()
    assert isinstance(outcome, NotSent)
    assert outcome.code == "connect_timeout"


@pytest.mark.parametrize("limit", [0, -1])
async def test_too_late(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, http: Http, limit: float) -> None:
    """Without time left nothing is sent, and no connection is opened."""
    server = await serve(answer(TOKENS))
    outcome = await refresh(endpoint_at(server.url), limit)
    assert outcome == await http.send(provider_http.Request(method="GET", url=server.url, headers={}), timeout=limit)
    assert isinstance(outcome, NotSent)
    assert outcome.code == "too_late"
    assert server.connections == 0


async def test_a_process_that_was_frozen_sends_nothing_when_it_wakes(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the deadline passes while connecting, the request is not sent even if the timer has not fired yet."""
    server = await serve(answer(TOKENS))
    endpoint = endpoint_at(server.url)
    genuine = provider_http.Http._trust
    thawed = time.monotonic() + 0.3

    async def freeze(http: Http) -> ssl.SSLContext:
        while time.monotonic() < thawed:
            pass
        return await genuine(http)

    monkeypatch.setattr(provider_http.Http, "_trust", freeze)
    # The loop's timer must not win: it is armed far later than the deadline says.
    timeout = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda delay: timeout(None if delay is None else delay + 5))
    outcome = await refresh(endpoint, 0.2)
    assert outcome == NotSent("too_late", "no time was left to send the request")
    assert server.requests == []


async def test_closed_session_is_not_sent(serve: Serve, endpoint_at: EndpointAt, http: Http) -> None:
    """Even an unexpected error is an outcome."""
    server = await serve(b"")
    endpoint = endpoint_at(server.url)
    await http._session.close()
    assert await refresh(endpoint) == NotSent("unexpected", "RuntimeError")


async def test_ipv6_literal(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """`http://[::1]:port/token` works."""
    try:
        server = await serve(answer(TOKENS), host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert isinstance(await refresh(endpoint_at(server.url)), Answered)


async def test_idle_connection_is_not_kept_long(http: Http) -> None:
    """Idle connections live at most two seconds: a server that closes one looks like "sent, no response"."""
    connector = http._session.connector
    assert connector is not None
    assert (connector._keepalive_timeout or 99) <= 2


class TestTls:
    """Endpoints with certificates that the test makes, trusted by SSL_CERT_FILE."""

    @pytest.fixture
    def bundle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return the path of the trust bundle."""
        path = tmp_path / "bundle.pem"
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        return path

    @pytest.fixture
    async def open_endpoint(self) -> AsyncIterator[Callable[[str], Awaitable[Endpoint]]]:
        """Make an endpoint whose session is opened only now, when the trust bundle is written."""
        async with AsyncExitStack() as stack:

            async def make(url: str) -> Endpoint:
                http = await stack.enter_async_context(open_http(2.0))
                provider = Provider(kind="oauth2", client_id="id", token_endpoint=f"{url}/token")
                return Endpoint.from_settings("acme", provider, http, clock=lambda: 0)

            yield make

    @staticmethod
    def context(authority: trustme.CA, name: str = "127.0.0.1", **more: Any) -> ssl.SSLContext:
        """Make a server's context with a certificate for *name*."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name, **more).configure_cert(context)
        return context

    @pytest.mark.parametrize(
        ("name", "age", "words"),
        [
            pytest.param("127.0.0.1", None, "", id="good"),
            pytest.param("127.0.0.1", timedelta(hours=1), "certificate has expired", id="expired"),
            pytest.param("other.test", None, "certificate is not valid for", id="wrong host"),
        ],
    )
    async def test_certificate(
        self,
        serve: Serve,
        answer: MakeAnswer,
        bundle: Path,
        open_endpoint: Callable[[str], Awaitable[Endpoint]],
        name: str,
        age: timedelta | None,
        words: str,
    ) -> None:
        """With a bad certificate nothing is sent, and the words name certificate and reason."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(bundle))
        more = {} if age is None else {"not_after": datetime.now(UTC) - age}
        server = await serve(answer(TOKENS), tls=self.context(authority, name, **more))
        outcome = await refresh(await open_endpoint(server.url), 3)
        if not words:
            assert isinstance(outcome, Answered), outcome
        else:
            assert isinstance(outcome, NotSent)
            assert outcome.code == "tls"
            assert words in outcome.detail
            assert server.requests == []

    async def test_old_tls(
        self, serve: Serve, answer: MakeAnswer, bundle: Path, open_endpoint: Callable[[str], Awaitable[Endpoint]]
    ) -> None:
        """A server that offers TLS 1.1 at most receives nothing."""
        import ssl
        import warnings

        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(bundle))
        context = self.context(authority)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        server = await serve(answer(TOKENS), tls=context)
        outcome = await refresh(await open_endpoint(server.url), 3)
        assert isinstance(outcome, NotSent)
        assert outcome.code in {"tls", "connection_reset"}
        assert server.requests == []

    async def test_plain_http_where_tls_is_expected(self, endpoint_at: EndpointAt) -> None:
        """A server without TLS behind an https URL receives no request, and the operator reads that it is about TLS."""

        async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        async with server:
            outcome = await refresh(endpoint_at(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        assert isinstance(outcome, NotSent)
        assert outcome.code == "tls"

    async def test_renewed_trust_bundle_is_taken_up(
        self,
        serve: Serve,
        answer: MakeAnswer,
        bundle: Path,
        open_endpoint: Callable[[str], Awaitable[Endpoint]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """After a certificate failure the bundle is read again, at most every ten seconds."""
        first, second = trustme.CA(), trustme.CA()
        first.cert_pem.write_to_path(str(bundle))
        server = await serve(answer(TOKENS), tls=self.context(second))
        endpoint = await open_endpoint(server.url)
        outcome = await refresh(endpoint, 3)
        assert isinstance(outcome, NotSent)
        assert "certificate" in outcome.detail
        second.cert_pem.write_to_path(str(bundle))
        assert isinstance(await refresh(endpoint, 3), NotSent)
        monkeypatch.setattr(provider_http, "TLS_RENEWAL", 0)
        assert isinstance(await refresh(endpoint, 3), Answered)


def os_error(number: int) -> aiohttp.ClientConnectorError:
    """Make a connection failure of that number."""
    key = aiohttp.client_reqrep.ConnectionKey("as.test", 443, True, True, None, None, None)
    return aiohttp.ClientConnectorError(key, OSError(number, "words with a secret"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (os_error(errno.ECONNREFUSED), "connection_refused"),
        (os_error(errno.ENETUNREACH), "unreachable"),
        (os_error(errno.EHOSTUNREACH), "unreachable"),
        (os_error(errno.ETIMEDOUT), "connect_timeout"),
        (os_error(errno.ECONNRESET), "connection_reset"),
        (os_error(errno.EMFILE), "connection_failed"),
        (ConnectionResetError("secret"), "connection_reset"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "dns"),
        (aiohttp.InvalidURL("https://as.test/?secret"), "invalid_url"),
        (ValueError("secret"), "invalid_url"),
        (TimeoutError("secret"), "connect_timeout"),
        (KeyError("secret"), "unexpected"),
    ],
)
def test_why_nothing_was_sent(error: Exception, code: str) -> None:
    """Each failure before sending has its code, and none shows an exception's own text."""
    outcome = faults.not_sent(error)
    assert outcome.code == code
    assert outcome.detail
    assert "secret" not in outcome.detail
