"""Faults of the connection once a request is sent: odd, cut, silent and endless responses, each request sent once."""

from __future__ import annotations

import asyncio
import errno
import gzip
import time
import zlib
from typing import TYPE_CHECKING

import aiohttp
import pytest

from broker.model import Answered, Busy, NotSent, Rejected, Unknown
from broker.providers import faults
from broker.providers import http as provider_http
from broker.secret import Secret

from .asking import BODY, TOKENS, raw, refresh

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.providers import Endpoint
    from tests.scripted_server import Exchange, ScriptedServer

    Serve = Callable[..., Awaitable[ScriptedServer]]
    EndpointAt = Callable[..., Endpoint]
    MakeAnswer = Callable[..., bytes]


GZIP = gzip.compress(BODY)
BARE = zlib.compress(BODY)[2:-4]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        pytest.param(raw("HTTP/1.1 200 OK|Connection: close", BODY), "answered", id="whole by FIN"),
        pytest.param(raw("HTTP/1.0 200 OK", BODY), "answered", id="HTTP/1.0"),
        pytest.param(raw("HTTP/1.1 200 OK|X: " + "y" * 12_000, BODY), "answered", id="header line of 12 kB"),
        pytest.param(raw("HTTP/1.1 200 OK|X: " + "y" * 200_000, BODY), "answered", id="header line of 200 kB"),
        pytest.param(raw("HTTP/1.1 200 OK" + "|X: y" * 129, BODY), "answered", id="129 header lines"),
        pytest.param(raw("HTTP/1.1 200 OK" + "|X: y" * 250, BODY), "answered", id="250 header lines"),
        pytest.param(
            raw("HTTP/1.1 200 OK|Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
            "answered",
            id="chunked",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(BODY), BODY)),
            "answered",
            id="chunked with trailers",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Transfer-Encoding: chunked|Connection: close", b"%x\r\n%s\r\n" % (len(BODY), BODY)),
            "answered",
            id="no last chunk, JSON whole",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Transfer-Encoding: chunked|Connection: close", b"9\r\n" + BODY[:9] + b"\r\n"),
            "truncated",
            id="no last chunk, JSON cut",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Length: 999|Connection: close", BODY), "answered", id="short, JSON whole"
        ),
        pytest.param(raw("HTTP/1.1 200 OK|Content-Length: 999|Connection: close", BODY[:20]), "truncated", id="short"),
        pytest.param(raw("HTTP/1.1 400 No|Content-Length: 999|Connection: close"), "truncated", id="refusal cut off"),
        pytest.param(raw("HTTP/1.1 503 No|Content-Length: 9|Connection: close"), "http_503", id="503 cut off"),
        pytest.param(
            raw(f"HTTP/1.1 200 OK|Content-Encoding: gzip|Content-Length: {len(GZIP)}", GZIP), "answered", id="gzip"
        ),
        pytest.param(raw("HTTP/1.1 200 OK|Content-Encoding: x-gzip|Connection: close", GZIP), "answered", id="x-gzip"),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: gzip, gzip|Connection: close", gzip.compress(GZIP)),
            "answered",
            id="gzip twice",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: deflate|Connection: close", zlib.compress(BODY)),
            "answered",
            id="deflate",
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: deflate|Connection: close", BARE), "answered", id="bare deflate"
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: br|Connection: close", b"\x8b\x02\x80{}\x03"),
            "undecodable",
            id="br, though not asked",
        ),
        pytest.param(raw("HTTP/1.1 200 OK|Content-Encoding: gzip|Connection: close", BODY), "answered", id="no gzip"),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: UTF-8|Connection: close", BODY), "answered", id="coding UTF-8"
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Connection: close", BODY + b"\0<!-- x -->"), "answered", id="text after the JSON"
        ),
        pytest.param(
            raw("HTTP/1.1 403 No|Content-Encoding: br|Connection: close", b"\x8b"), "http_403", id="refusal in br"
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: gzip|Connection: close", GZIP[:-20]), "truncated", id="gzip cut"
        ),
        pytest.param(
            raw("HTTP/1.1 200 OK|Content-Encoding: gzip|Connection: close", gzip.compress(b" " * 30_000_000)),
            "oversized",
            id="gzip bomb",
        ),
        pytest.param(raw("HTTP/1.1 204 No Content|Content-Encoding: gzip"), "empty", id="204 with a coding"),
        pytest.param(raw("HTTP/1.1 200 OK|Content-Length: 0"), "empty", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", "malformed", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nbroken", "disconnected", id="head cut"),
        pytest.param(raw("HTTP/1.1 200 OK|X: " + "y" * 600_000), "malformed", id="endless header"),
    ],
)
async def test_odd_answers(serve: Serve, endpoint_at: EndpointAt, step: bytes, expected: str) -> None:
    """A response of any shape is complete if its JSON is, else unknown with the reason, and it is sent once."""

    async def say(exchange: Exchange) -> None:
        exchange.writer.write(step)
        await exchange.writer.drain()

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


async def test_gzip_as_transfer_coding(serve: Serve, endpoint_at: EndpointAt) -> None:
    """`Transfer-Encoding: gzip, chunked` is read or unknown, and never hangs."""
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GZIP), GZIP)
    server = await serve(raw("HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked|Connection: close", chunk))
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Answered), outcome


async def test_whole_json_before_a_hang_counts(serve: Serve, endpoint_at: EndpointAt) -> None:
    """A server that forgets its last chunk and stays connected costs the time-out, not the refresh token."""

    async def forget(exchange: Exchange) -> None:
        exchange.writer.write(raw("HTTP/1.1 200 OK|Transfer-Encoding: chunked", b"%x\r\n%s\r\n" % (len(BODY), BODY)))
        await asyncio.sleep(30)

    server = await serve(forget)
    assert isinstance(await refresh(endpoint_at(server.url), 0.3), Answered)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", raw("HTTP/1.1 200 OK|Content-Length: 99", b'{"a')]
)
async def test_hang(serve: Serve, endpoint_at: EndpointAt, said: bytes) -> None:
    """A server that falls silent at any point is unknown after the time-out."""

    async def hang(exchange: Exchange) -> None:
        exchange.writer.write(said)
        await asyncio.sleep(30)

    server = await serve(hang)
    started = time.monotonic()
    outcome = await refresh(endpoint_at(server.url), 0.3)
    assert isinstance(outcome, Unknown)
    assert outcome.code == "timeout"
    assert time.monotonic() - started < 1
    assert len(server.requests) == 1


async def test_a_drip_ends_at_the_total_time(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """A byte at a time keeps no request alive beyond its time, and delays no other provider."""

    async def drip(exchange: Exchange) -> None:
        for byte in answer(TOKENS):
            exchange.writer.write(bytes([byte]))
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


async def test_reset_after_reading_is_unknown(serve: Serve, endpoint_at: EndpointAt) -> None:
    """A reset after the request was read may have come after it was redeemed."""

    async def cut(exchange: Exchange) -> None:
        exchange.reset()

    server = await serve(cut)
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Unknown)
    assert outcome.code in {"reset", "disconnected"}
    assert len(server.requests) == 1


async def test_close_after_reading_is_unknown_and_not_repeated(serve: Serve, endpoint_at: EndpointAt) -> None:
    """A FIN without a response is unknown; no request is sent a second time."""

    async def close(exchange: Exchange) -> None:
        exchange.writer.close()

    server = await serve(close)
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Unknown)
    assert outcome.code == "disconnected"
    assert (len(server.requests), server.connections) == (1, 1)


async def test_reset_before_reading(endpoint_at: EndpointAt) -> None:
    """A connection that is reset at once may have carried the request: unknown, unless it was seen to be closed."""

    def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        outcome = await refresh(endpoint_at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    assert isinstance(outcome, Unknown) or (isinstance(outcome, NotSent) and outcome.code == "connection_reset")


async def test_oversized_answer(serve: Serve, endpoint_at: EndpointAt) -> None:
    """Of 30 MB only the first 256 KiB are read."""
    sent = 0

    async def pour(exchange: Exchange) -> None:
        nonlocal sent
        exchange.writer.write(raw("HTTP/1.1 200 OK|Content-Length: 31457280"))
        while sent < 31_457_280:
            exchange.writer.write(b" " * 65_536)
            sent += 65_536
            await exchange.writer.drain()

    server = await serve(pour)
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Unknown)
    assert outcome.code == "oversized"
    assert sent < 20_000_000


async def test_retry_after_header_twice(serve: Serve, endpoint_at: EndpointAt) -> None:
    """Of a repeated Retry-After the longer one counts."""
    server = await serve(raw("HTTP/1.1 429 No|Retry-After: 7|Retry-After: 9|Content-Length: 0"))
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Busy)
    assert outcome.retry_after_ms == 9_000


async def test_cancellation_goes_through(serve: Serve, endpoint_at: EndpointAt) -> None:
    """The only exception that is raised is `CancelledError`."""

    async def hang(exchange: Exchange) -> None:
        await asyncio.sleep(30)

    server = await serve(hang)
    task = asyncio.create_task(refresh(endpoint_at(server.url), 5))
    while not server.requests:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


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
    """Each failure after sending has its code, and none shows an exception's own text."""
    outcome = faults.after_sending(error)
    assert outcome.code == code
    assert outcome.detail
    assert "secret" not in outcome.detail


def test_too_many_codings() -> None:
    """A body with too many codings is not decoded."""
    assert provider_http.decode(b"x", ["gzip"] * 5) == (None, "undecodable")
