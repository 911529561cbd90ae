"""Token requests over real loopback sockets: what goes out, and what is made of whatever comes back."""

from __future__ import annotations

import asyncio
import base64
import errno
import gzip
import json
import socket
import time
import zlib
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import aiohttp
import pytest
import trustme

from broker.model import Answered, Busy, Dead, NotSent, Outcome, Rejected, Unknown
from broker.providers import Endpoint, open_http, wire
from broker.providers.client_secret import ClientSecret
from broker.providers.endpoint import authenticated
from broker.secret import Secret
from broker.settings import Provider

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from broker.providers import Http

    from .conftest import Scripted

    Serve = Callable[..., Awaitable[Scripted]]
    EndpointAt = Callable[..., Endpoint]
    MakeAnswer = Callable[..., bytes]

TOKENS = {"access_token": "a2", "refresh_token": "r2", "expires_in": 3600}
BODY = json.dumps(TOKENS).encode()
TOKEN = Secret("r1/+ä:10003")


async def refresh(endpoint: Endpoint, limit: float = 1.0, scope: str | None = None) -> Outcome:
    """Refresh with the token of these tests."""
    return await endpoint.refresh(TOKEN, scope=scope, timeout=limit)


def raw(head: str, body: bytes = b"") -> bytes:
    """An answer from its head, lines parted by `|`."""
    return head.replace("|", "\r\n").encode() + b"\r\n\r\n" + body


async def test_refresh_request(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """A refresh is RFC 6749 §6 to the letter, with form-encoded Basic and stable headers of our own."""
    server = await serve(answer(TOKENS))
    outcome = await refresh(endpoint_at(server.url, scope="write"))
    assert isinstance(outcome, Answered)
    assert outcome.answer.refresh_token == Secret("r2")
    (got,) = server.requests
    assert (got.method, got.target) == ("POST", "/token")
    assert got.form == {"grant_type": ["refresh_token"], "refresh_token": [TOKEN.reveal()]}
    user, _, password = base64.b64decode(got.headers["authorization"].removeprefix("Basic ")).decode().partition(":")
    assert (user, unquote_plus(password)) == ("an+id", "s3cr3t/+ä")
    assert got.headers["content-type"] == "application/x-www-form-urlencoded"
    assert (got.headers["accept"], got.headers["accept-encoding"]) == ("application/json", "identity")
    assert got.headers["user-agent"].startswith("token-broker/")
    assert "cookie" not in got.headers


async def test_exchange_request(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """A code exchange carries code, redirect_uri and verifier, and the answer is read as a refresh's is."""
    server = await serve(answer(TOKENS))
    outcome = await endpoint_at(server.url).exchange_code(
        Secret("4/0A+b%2Fc=="), redirect_uri="http://127.0.0.1:8080/callback", code_verifier=Secret("v"), timeout=1
    )
    assert isinstance(outcome, Answered)
    assert server.requests[0].form == {
        "grant_type": ["authorization_code"],
        "code": ["4/0A+b%2Fc=="],
        "redirect_uri": ["http://127.0.0.1:8080/callback"],
        "code_verifier": ["v"],
    }


async def test_cameramanager_sends_its_scope_on_every_call(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer
) -> None:
    """CameraManager requires `scope` on refresh and exchange; the grant's own wins on refresh."""
    server = await serve(answer(TOKENS))
    endpoint = endpoint_at(server.url, kind="cameramanager", revocation_endpoint=None)
    await refresh(endpoint)
    await refresh(endpoint, scope="read")
    await endpoint.exchange_code(Secret("c"), redirect_uri="http://x/callback", code_verifier=None, timeout=1)
    assert [got.form["scope"] for got in server.requests] == [["write"], ["read"], ["write"]]
    assert all(got.query == {} for got in server.requests)


async def test_parameters_in_the_query_never_carry_credentials(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer
) -> None:
    """The documented form of CameraManager puts parameters into the URL, beside a query that is there already."""
    server = await serve(answer(TOKENS))
    url = f"{server.url}/token?tenant=1"
    for method in ("client_secret_basic", "client_secret_post"):
        outcome = await refresh(
            endpoint_at(server.url, token_endpoint=url, parameters="query", token_endpoint_auth_method=method)
        )
        assert isinstance(outcome, Answered)
    basic, post = server.requests
    assert basic.query == {"tenant": ["1"], "grant_type": ["refresh_token"], "refresh_token": [TOKEN.reveal()]}
    assert (basic.body, basic.headers["content-length"]) == (b"", "0")
    assert post.query == basic.query
    assert post.form == {"client_id": ["an id"], "client_secret": ["s3cr3t/+ä"]}


@pytest.mark.parametrize(
    ("settings", "authorization", "credentials"),
    [
        ({"basic_encoding": "plain"}, "an id:s3cr3t/+ä", {}),
        ({"token_endpoint_auth_method": "client_secret_post"}, None, {"client_id", "client_secret"}),
        ({"client_secret": None}, None, {"client_id"}),
        ({"token_endpoint_auth_method": "none"}, None, {"client_id"}),
    ],
)
async def test_client_authentication(
    serve: Serve,
    endpoint_at: EndpointAt,
    answer: MakeAnswer,
    settings: dict[str, Any],
    authorization: str | None,
    credentials: set[str],
) -> None:
    """Basic in plain, credentials in the body, and public clients, all as the settings say."""
    server = await serve(answer(TOKENS))
    await refresh(endpoint_at(server.url, **settings))
    (got,) = server.requests
    if authorization is None:
        assert "authorization" not in got.headers
    else:
        assert base64.b64decode(got.headers["authorization"].removeprefix("Basic ")).decode() == authorization
    assert got.form.keys() - {"grant_type", "refresh_token"} == set(credentials)


async def test_t16_token_params_are_added_but_replace_nothing(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer
) -> None:
    """A server that insists on a further parameter gets it (T16); ours cannot be overridden by accident."""
    server = await serve(answer(TOKENS))
    params = {"redirect_uri": "https://x/cb", "refresh_token": "evil", "audience": "é"}
    await refresh(endpoint_at(server.url, token_params=params))
    assert server.requests[0].form == {
        "grant_type": ["refresh_token"],
        "refresh_token": [TOKEN.reveal()],
        "redirect_uri": ["https://x/cb"],
        "audience": ["é"],
    }


async def test_the_clock_is_asked_when_the_answer_is_there(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer
) -> None:
    """A point in time in the answer is measured from its receipt."""
    server = await serve(answer({"access_token": "a2", "expires_on": 1_900_000_000}))
    outcome = await refresh(endpoint_at(server.url, clock=lambda: 1_899_999_000_000))
    assert isinstance(outcome, Answered)
    assert outcome.answer.lifetime_ms == 1_000_000


GZIP = gzip.compress(BODY)
BARE = zlib.compress(BODY)[2:-4]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        pytest.param(raw("HTTP/1.1 200 OK|Connection: close", BODY), "answered", id="whole by FIN"),
        pytest.param(raw("HTTP/1.0 200 OK", BODY), "answered", id="HTTP/1.0"),
        pytest.param(
            raw("HTTP/1.1 200 OK|Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
            "answered",
            id="T30 chunked",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(BODY), BODY)),
            "answered",
            id="T30 chunked with trailers",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Transfer-Encoding: chunked|Connection: close", b"%x\r\n%s\r\n" % (len(BODY), BODY)),
            "answered",
            id="T30 no last chunk, JSON whole",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Transfer-Encoding: chunked|Connection: close", b"9\r\n" + BODY[:9] + b"\r\n"),
            "truncated",
            id="T30 no last chunk, JSON cut",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Length: 999|Connection: close", BODY), "answered", id="short, JSON whole"
        ),
        pytest.param(raw("HTTP/1.1 200 OK|Content-Length: 999|Connection: close", BODY[:20]), "truncated", id="short"),
        pytest.param(raw("HTTP/1.1 400 No|Content-Length: 999|Connection: close"), "truncated", id="refusal cut off"),
        pytest.param(raw("HTTP/1.1 503 No|Content-Length: 9|Connection: close"), "http_503", id="503 cut off"),
        pytest.param(
            raw(f"HTTP/1.1 200 OK|Content-Encoding: gzip|Content-Length: {len(GZIP)}", GZIP), "answered", id="T27 gzip"
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: x-gzip|Connection: close", GZIP), "answered", id="T27 x-gzip"
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: gzip, gzip|Connection: close", gzip.compress(GZIP)),
            "answered",
            id="T27 gzip twice",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: deflate|Connection: close", zlib.compress(BODY)),
            "answered",
            id="T27 deflate",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: deflate|Connection: close", BARE), "answered", id="T27 bare deflate"
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: br|Connection: close", b"\x8b\x02\x80{}\x03"),
            "undecodable",
            id="T27 br, though not asked",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: gzip|Connection: close", BODY), "undecodable", id="T27 no gzip"
        ),
        pytest.param(
            raw("HTTP/1.1 403 No|Content-Encoding: br|Connection: close", b"\x8b"), "http_403", id="T27 refusal in br"
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: gzip|Connection: close", GZIP[:-20]), "truncated", id="gzip cut"
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: gzip|Connection: close", gzip.compress(b" " * 30_000_000)),
            "oversized",
            id="gzip bomb",
        ),
        pytest.param(raw("HTTP/1.1 204 No Content|Content-Encoding: gzip"), "empty", id="T28 204 with a coding"),
        pytest.param(raw("HTTP/1.1 200 OK|Content-Length: 0"), "empty", id="T28 nothing"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", "malformed", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nbroken", "disconnected", id="head cut"),
        pytest.param(raw("HTTP/1.1 200 OK|X: " + "y" * 200_000), "malformed", id="endless header"),
    ],
)
async def test_odd_answers(serve: Serve, endpoint_at: EndpointAt, step: bytes, expected: str) -> None:
    """Whatever shape an answer has: read as whole when its JSON is, else unknown with the reason, and sent once."""

    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(step)
        await writer.drain()

    server = await serve(say)
    outcome = await refresh(endpoint_at(server.url))
    if expected == "answered":
        assert isinstance(outcome, Answered), outcome
        assert outcome.answer.access_token == Secret("a2")
    else:
        assert not isinstance(outcome, Answered)
        assert outcome.code == expected
        assert isinstance(outcome, {"http_503": Busy, "http_403": Rejected}.get(expected, Unknown))
    assert len(server.requests) == 1


async def test_t30_gzip_as_transfer_coding(serve: Serve, endpoint_at: EndpointAt) -> None:
    """`Transfer-Encoding: gzip, chunked` is read or unknown, and never hangs (T30)."""
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GZIP), GZIP)
    server = await serve(raw("HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked|Connection: close", chunk))
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Answered), outcome


async def test_whole_json_before_a_hang_counts(serve: Serve, endpoint_at: EndpointAt) -> None:
    """A server that forgets its last chunk and stays connected costs the time-out, not the refresh token."""

    async def forget(writer: asyncio.StreamWriter) -> None:
        writer.write(raw("HTTP/1.1 200 OK|Transfer-Encoding: chunked", b"%x\r\n%s\r\n" % (len(BODY), BODY)))
        await asyncio.sleep(30)

    server = await serve(forget)
    assert isinstance(await refresh(endpoint_at(server.url), 0.3), Answered)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", raw("HTTP/1.1 200 OK|Content-Length: 99", b'{"a')]
)
async def test_hang(serve: Serve, endpoint_at: EndpointAt, said: bytes) -> None:
    """A server that falls silent at any point is unknown after the time-out."""

    async def hang(writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await asyncio.sleep(30)

    server = await serve(hang)
    started = time.monotonic()
    outcome = await refresh(endpoint_at(server.url), 0.3)
    assert isinstance(outcome, Unknown)
    assert outcome.code == "timeout"
    assert time.monotonic() - started < 1
    assert len(server.requests) == 1


async def test_t32_a_drip_ends_at_the_total_time(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """A byte at a time keeps no request alive beyond its time, and delays no other provider (T32)."""

    async def drip(writer: asyncio.StreamWriter) -> None:
        for byte in answer(TOKENS):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    slow, fast = await serve(drip), await serve(answer(TOKENS))
    started = time.monotonic()
    dripping = asyncio.create_task(refresh(endpoint_at(slow.url), 0.5))
    others = await asyncio.gather(*(refresh(endpoint_at(fast.url)) for _ in range(32)))
    assert all(isinstance(outcome, Answered) for outcome in others)
    assert not dripping.done()
    outcome = await dripping
    assert isinstance(outcome, Unknown)
    assert outcome.code == "timeout"
    assert time.monotonic() - started < 1


async def test_reset_after_reading_is_unknown(
    serve: Serve, endpoint_at: EndpointAt, rst: Callable[[asyncio.StreamWriter], None]
) -> None:
    """A reset after the request was read may have come after it was redeemed."""

    async def cut(writer: asyncio.StreamWriter) -> None:
        rst(writer)

    server = await serve(cut)
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Unknown)
    assert outcome.code in {"reset", "disconnected"}
    assert len(server.requests) == 1


async def test_close_after_reading_is_unknown_and_not_repeated(serve: Serve, endpoint_at: EndpointAt) -> None:
    """A FIN without an answer is unknown; no request is sent a second time."""

    async def close(writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await serve(close)
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Unknown)
    assert outcome.code == "disconnected"
    assert (len(server.requests), server.connections) == (1, 1)


async def test_reset_before_reading(endpoint_at: EndpointAt) -> None:
    """A connection that is reset at once may have carried the request: unknown."""

    def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        outcome = await refresh(endpoint_at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    assert isinstance(outcome, Unknown)


async def test_oversized_answer(serve: Serve, endpoint_at: EndpointAt) -> None:
    """Of 30 MB only the first 256 KiB are taken in."""
    sent = 0

    async def pour(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(raw("HTTP/1.1 200 OK|Content-Length: 31457280"))
        while sent < 31_457_280:
            writer.write(b" " * 65_536)
            sent += 65_536
            await writer.drain()

    server = await serve(pour)
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Unknown)
    assert outcome.code == "oversized"
    assert sent < 20_000_000


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_t33_redirects_are_not_followed(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, status: int
) -> None:
    """No redirect ever takes a refresh token to another host (T33)."""
    listener = await serve(answer(TOKENS))
    server = await serve(answer(b"", status, Location=f"{listener.url}/login?session=s"))
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Rejected)
    assert outcome.code == f"http_{status}"
    assert "session" not in repr(outcome)
    assert listener.connections == 0


async def test_no_cookie_is_kept(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """A session cookie of one grant must not travel with another's request."""
    server = await serve(answer(TOKENS, Set_Cookie="s=1"))
    endpoint = endpoint_at(server.url)
    await refresh(endpoint)
    await refresh(endpoint)
    assert all("cookie" not in got.headers for got in server.requests)
    assert server.connections == 1


async def test_t40_retry_after_header_twice(serve: Serve, endpoint_at: EndpointAt) -> None:
    """A doubled Retry-After is read, the longer one (T40)."""
    server = await serve(raw("HTTP/1.1 429 No|Retry-After: 7|Retry-After: 9|Content-Length: 0"))
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Busy)
    assert outcome.retry_after_ms == 9_000


async def test_echoed_credentials_are_cut_out(serve: Serve, endpoint_at: EndpointAt) -> None:
    """A server that echoes token, secret and Authorization header shows the operator none of them."""

    async def echo(writer: asyncio.StreamWriter) -> None:
        got = server.requests[-1]
        said = f"{TOKEN.reveal()} {got.body.decode()} {got.headers['authorization']} s3cr3t/+ä"
        body = json.dumps({"error": "invalid_grant", "error_description": said}).encode()
        writer.write(raw("HTTP/1.1 400 No|Connection: close", body))

    server = await serve(echo)
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Dead)
    basic = server.requests[-1].headers["authorization"].removeprefix("Basic ")
    for secret in (TOKEN.reveal(), "s3cr3t", "r1%2F", basic[:12], "10003"):
        assert secret not in outcome.detail


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
    """A server that does not accept within the time: nothing was sent."""
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
    """Without time left nothing is sent, not even a connection."""
    server = await serve(answer(TOKENS))
    outcome = await refresh(endpoint_at(server.url), limit)
    assert outcome == await http.send(wire.Request(method="GET", url=server.url, headers={}), timeout=limit)
    assert isinstance(outcome, NotSent)
    assert outcome.code == "too_late"
    assert server.connections == 0


async def test_a_process_that_was_frozen_sends_nothing_when_it_wakes(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the deadline passes while connecting, the request is not begun even if the timer has not fired yet."""
    server = await serve(answer(TOKENS))
    endpoint = endpoint_at(server.url)
    genuine = wire.Http._trust
    thawed = time.monotonic() + 0.3

    async def freeze(http: Http) -> ssl.SSLContext:
        while time.monotonic() < thawed:
            pass
        return await genuine(http)

    monkeypatch.setattr(wire.Http, "_trust", freeze)
    # The loop's timer must not win: it is armed far later than the deadline says.
    timeout = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda delay: timeout(None if delay is None else delay + 5))
    outcome = await refresh(endpoint, 0.2)
    assert outcome == NotSent("too_late", "no time was left to send the request")
    assert server.requests == []


async def test_cancellation_goes_through(serve: Serve, endpoint_at: EndpointAt) -> None:
    """The one exception that leaves is `CancelledError`."""

    async def hang(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    server = await serve(hang)
    task = asyncio.create_task(refresh(endpoint_at(server.url), 5))
    while not server.requests:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closed_session_is_not_sent(serve: Serve, endpoint_at: EndpointAt, http: Http) -> None:
    """Even what cannot happen is an outcome."""
    server = await serve(b"")
    endpoint = endpoint_at(server.url)
    await http._session.close()
    assert await refresh(endpoint) == NotSent("unexpected", "RuntimeError")


async def test_t42_ipv6_literal(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """`http://[::1]:port/token` works (T42)."""
    try:
        server = await serve(answer(TOKENS), host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert isinstance(await refresh(endpoint_at(server.url)), Answered)


async def test_idle_connection_is_not_kept_long(http: Http) -> None:
    """Idle connections live at most two seconds: a server that closes one looks like "sent, no answer"."""
    connector = http._session.connector
    assert connector is not None
    assert (connector._keepalive_timeout or 99) <= 2


class TestTls:
    """Endpoints with certificates of our own making, trusted by SSL_CERT_FILE."""

    @pytest.fixture
    def bundle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The trust bundle on disk."""
        path = tmp_path / "bundle.pem"
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        return path

    @pytest.fixture
    async def open_endpoint(self) -> AsyncIterator[Callable[[str], Awaitable[Endpoint]]]:
        """Makes an endpoint whose session is opened only now, when the trust bundle is written."""
        async with AsyncExitStack() as stack:

            async def make(url: str) -> Endpoint:
                http = await stack.enter_async_context(open_http(2.0))
                provider = Provider(kind="oauth2", client_id="id", token_endpoint=f"{url}/token")
                return Endpoint.of("acme", provider, http, clock=lambda: 0)

            yield make

    @staticmethod
    def context(authority: trustme.CA, name: str = "127.0.0.1", **more: Any) -> ssl.SSLContext:
        """A server's context with a certificate for *name*."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name, **more).configure_cert(context)
        return context

    @pytest.mark.parametrize(
        ("name", "age", "words"),
        [
            pytest.param("127.0.0.1", None, "", id="good"),
            pytest.param("127.0.0.1", timedelta(hours=1), "certificate has expired", id="T45 expired"),
            pytest.param("other.test", None, "certificate is not valid for", id="T45 wrong host"),
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
        """A bad certificate is not sent, and the words name certificate and reason (T45)."""
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

    async def test_t45_old_tls(
        self, serve: Serve, answer: MakeAnswer, bundle: Path, open_endpoint: Callable[[str], Awaitable[Endpoint]]
    ) -> None:
        """A server that offers TLS 1.1 at most is not sent anything (T45)."""
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
        """A server without TLS behind an https URL gets no request, and the operator reads of TLS."""

        async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        async with server:
            outcome = await refresh(endpoint_at(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        assert isinstance(outcome, NotSent)
        assert outcome.code == "tls"

    async def test_t44_renewed_trust_bundle_is_taken_up(
        self,
        serve: Serve,
        answer: MakeAnswer,
        bundle: Path,
        open_endpoint: Callable[[str], Awaitable[Endpoint]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """After a certificate failure the bundle is read again, at most every ten seconds (T44)."""
        first, second = trustme.CA(), trustme.CA()
        first.cert_pem.write_to_path(str(bundle))
        server = await serve(answer(TOKENS), tls=self.context(second))
        endpoint = await open_endpoint(server.url)
        outcome = await refresh(endpoint, 3)
        assert isinstance(outcome, NotSent)
        assert "certificate" in outcome.detail
        second.cert_pem.write_to_path(str(bundle))
        assert isinstance(await refresh(endpoint, 3), NotSent)
        monkeypatch.setattr(wire, "TLS_RENEWAL", 0)
        assert isinstance(await refresh(endpoint, 3), Answered)


class TestClientSecretFile:
    """The client secret in a file."""

    async def test_o16_rotated_file_is_read_again(
        self, serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, tmp_path: Path
    ) -> None:
        """A secret swapped by symlink, as mounted secrets are, is taken up by the next request (O16)."""
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "secret").write_text(f"{name}\n")
        (tmp_path / "data").symlink_to("one")
        server = await serve(answer(TOKENS))
        endpoint = endpoint_at(server.url, client_secret=None, client_secret_file=tmp_path / "data" / "secret")
        await refresh(endpoint)
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").replace(tmp_path / "data")
        await refresh(endpoint)
        await refresh(endpoint)
        sent = [base64.b64decode(got.headers["authorization"].split()[1]).decode() for got in server.requests]
        assert sent == ["an+id:one", "an+id:two", "an+id:two"]

    @pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
    async def test_unreadable_file(
        self, serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, tmp_path: Path, content: bytes | None
    ) -> None:
        """Without a readable secret nothing is sent, and the operator is told path and reason."""
        path = tmp_path / "secret"
        if content is not None:
            path.write_bytes(content)
        server = await serve(answer(TOKENS))
        outcome = await refresh(endpoint_at(server.url, client_secret=None, client_secret_file=path))
        assert isinstance(outcome, NotSent)
        assert outcome.code == "client_secret_unreadable"
        assert str(path) in outcome.detail
        assert server.connections == 0


async def test_a_file_system_that_hangs(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret file that cannot be read in time costs its own provider the time, and nothing is sent."""
    monkeypatch.setattr(ClientSecret, "_read", lambda *_: time.sleep(0.4))
    server = await serve(answer(TOKENS))
    endpoint = endpoint_at(server.url, client_secret=None, client_secret_file=tmp_path)
    outcome = await refresh(endpoint, 0.1)
    assert isinstance(outcome, NotSent)
    assert outcome.code == "client_secret_unreadable"
    assert server.connections == 0


def os_error(number: int) -> aiohttp.ClientConnectorError:
    """A connection failure of that number."""
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
    """Each failure before the sending has its code, and none shows an exception's own text."""
    outcome = wire._not_sent(error)
    assert outcome.code == code
    assert outcome.detail
    assert "secret" not in outcome.detail


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError("secret"), "timeout"),
        (aiohttp.ServerDisconnectedError("secret"), "disconnected"),
        (aiohttp.ClientPayloadError("secret"), "truncated"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "secret"), "reset"),
        (ConnectionResetError("secret"), "reset"),
        (KeyError("secret"), "unexpected"),
    ],
)
def test_why_nobody_knows(error: Exception, code: str) -> None:
    """Each failure after the sending has its code, and none shows an exception's own text."""
    outcome = wire._after_sending(error)
    assert outcome.code == code
    assert outcome.detail
    assert "secret" not in outcome.detail


def test_too_many_codings() -> None:
    """A body coded over and over is not worth the unpacking."""
    assert wire.decoded(b"x", ["gzip"] * 5) == (None, "undecodable")


def test_half_a_surrogate_pair_can_be_sent(endpoint_at: EndpointAt) -> None:
    """A refresh token that JSON could carry and UTF-8 cannot still becomes a request."""
    dialect = endpoint_at("http://127.0.0.1").dialect
    request = authenticated("http://127.0.0.1/", {"refresh_token": "r\ud800"}, dialect, Secret("s"), "body")
    assert request.body == b"refresh_token=r%ED%A0%80"


def test_requests_and_replies_show_no_secret() -> None:
    """`repr` of what goes over the wire shows method or status alone."""
    request = wire.Request(method="POST", url="https://as.test/?x=SECRET", headers={"a": "SECRET"}, body=b"SECRET")
    reply = wire.Reply(status=200, headers={"a": "SECRET"}, body=b"SECRET")
    assert "SECRET" not in f"{request!r}{reply!r}"
