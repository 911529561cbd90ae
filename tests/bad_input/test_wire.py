"""HTTP as no client should speak it: refused, answered in JSON where there is an answer, and served on after."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.bad_input.conftest import Refused, raw
from tests.conftest import RunningBroker


async def test_host(refused: Refused, broker: RunningBroker) -> None:
    """A Host that is not the broker's is refused on loopback: a web page cannot reach it by a name of its own."""
    for host in (
        "evil.test",
        "evil.test:8080",
        "127.0.0.1.evil.test",
        "[::2]",
        "localhost.evil.test",
        "x y",
        "[",
        "\u00e4",
    ):
        await refused(421, "GET", "/v1/grants/good/token", headers={"Host": host})
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80"):
        assert (await broker.ask("GET", "/v1/grants/good/token", headers={"Host": host}))[0] == 200, host


async def test_http_1_0(broker: RunningBroker) -> None:
    """HTTP/1.0 with and without Host is answered, and closed."""
    request = f"GET /v1/grants/good/token HTTP/1.0\r\nX-Broker-Key: {broker.admin_key}\r\nHost: localhost\r\n\r\n"
    head, _, body = (await raw(broker, request.encode())).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200"))
    assert b"access_token" in body
    answer = await raw(broker, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert answer.split()[1] in {b"200", b"421"}


GARBAGE = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"\0" * 100,
    "binary": bytes(range(256)) * 8,
    "a space in a header's name": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA B: c\r\n\r\n",
    "a header without colon": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nnonsense\r\n\r\n",
    "NUL in a header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    "a huge header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "a huge path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two lengths": b"POST /v1/import HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabc",
    "a length and chunks": b"POST /v1/import HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": b"POST /v1/import HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    "a bad chunk": b"POST /v1/import HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "another version": b"GET /healthz HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage(broker: RunningBroker, kind: str) -> None:
    """What is no request of the API gets a 4xx or nothing; never a traceback, never the broker's end."""
    answer = await raw(broker, GARBAGE[kind])
    assert not answer or answer.split()[1][:1] == b"4", answer[:200]
    assert b"Traceback" not in answer
    if answer:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"application/json" in head
        assert set(json.loads(body)) == {"error", "error_description"}


@pytest.mark.parametrize(
    "sent",
    [
        "X-Broker-Key: KEY\0",
        "X-Broker-Key: KEY\x7f",
        "X-Broker-Key KEY",
        "X Y: KEY",
        " KEY",
        "X-Broker-Key: KEY\n KEY",
        "X-Broker-Key: KEY" + "a" * 70_000,
        "Host: KEY\r\nHost: KEY",
    ],
)
async def test_garbage_is_not_repeated(broker: RunningBroker, sent: str) -> None:
    """A key in a header that cannot be read does not come back in the error: whoever sent it would log it."""
    for start in ("GET /v1/grants/good/token HTTP/1.1\r\nHost: localhost\r\n", "GET /callback?code=KEY x HTTP/1.1\r\n"):
        answer = await raw(broker, f"{start}{sent.replace('KEY', broker.admin_key)}\r\n\r\n".encode())
        assert answer.split()[1] == b"400"
        assert broker.admin_key.encode() not in answer
        assert b"KEY" not in answer
        assert b"Connection: close" in answer or answer.startswith(b"HTTP/1.0")


async def test_garbage_is_not_logged(broker: RunningBroker) -> None:
    """Anybody can send garbage: it is not logged with a traceback, nor with a key that stands in it."""
    key = f"GET / HTTP/1.1\r\nX-Broker-Key: {broker.admin_key}\r\nX Y: {broker.admin_key}\r\n\r\n".encode()
    try:
        for request in (key, GARBAGE["no HTTP"], GARBAGE["a header without colon"], GARBAGE["a bad chunk"]):
            await raw(broker, request)
        logged = broker.log.getvalue()
        assert "Traceback" not in logged
        assert broker.admin_key not in logged
    finally:
        broker.log.truncate(0)
        broker.log.seek(0)


async def test_head(broker: RunningBroker) -> None:
    """HEAD on a GET route has the same status and headers, and no body."""
    for path in ("/healthz", "/readyz", "/metrics", "/v1/grants", "/v1/grants/good", "/v1/grants/good/token"):
        async with broker.session.head(broker.url + path, headers={"X-Broker-Key": broker.admin_key}) as answer:
            assert answer.status == 200, path
            assert await answer.read() == b""


async def test_a_client_that_leaves(broker: RunningBroker) -> None:
    """Clients that go away in the middle of a body or a long poll leave nothing behind."""
    host, port = broker.url.removeprefix("http://").split(":")
    etag = f'"{(await broker.token("good"))["generation"]}"'
    key = f"Host: localhost\r\nX-Broker-Key: {broker.admin_key}\r\n"
    for request in (
        f"PUT /v1/grants/x HTTP/1.1\r\n{key}Content-Length: 1000\r\n\r\n{{",
        f"POST /v1/import HTTP/1.1\r\n{key}Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        f"GET /v1/grants/good/token HTTP/1.1\r\n{key}If-None-Match: {etag}\r\nPrefer: wait=50\r\n\r\n",
    ):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(request.encode())
        await writer.drain()
        await asyncio.sleep(0.05)  # let it be read: what is tested is that nothing comes of it
        writer.transport.abort()


async def test_answers_are_json_for_browsers_too(broker: RunningBroker) -> None:
    """The API answers a browser's Accept in JSON all the same, without sniffing."""
    async with broker.session.get(broker.url + "/v1/grants", headers={"Accept": "text/html"}) as answer:
        assert answer.status == 401
        assert set(json.loads(await answer.text())) == {"error", "error_description"}
