"""Clients that keep connections busy without a key: others get one all the time, on each listener."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from tests.waiting import until

from .conftest import Ground, StartGround
from .links import status

MANY, LIMIT = 20, 20
Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Coroutine[Any, Any, None]]


async def slow_writer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """Send a body of 60 kB byte by byte, on a route that reads it before it knows who sends it."""
    writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n".encode())
    writer.write(b"Content-Type: application/x-www-form-urlencoded\r\n\r\n")
    while True:
        writer.write(b"a")
        await asyncio.sleep(0.05)


async def slow_reader(_: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """Ask for much, and take nothing of it."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    cast("asyncio.Transport", writer.transport).pause_reading()
    where = "/page/main.js" if path == "/oauth2/token" else "/login/x"
    writer.write(f"GET {where} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 3000)
    await asyncio.sleep(60)


async def half_open(_: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """Send a head header by header, and never its end."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode())
    while True:
        writer.write(b"X-A: b\r\n")
        await asyncio.sleep(0.05)


async def pipelining(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """Send request after request, never waiting for a response."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 100)
    while await reader.read(65536):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 20)


async def large_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """Send a large body that is refused."""
    writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000000\r\n\r\n".encode())
    writer.write(b"a" * 500_000)
    await reader.read()


@asynccontextmanager
async def attacking(port: int, attack: Attack, path: str) -> AsyncIterator[None]:
    """Keep `MANY` attackers at it, each of which comes back when it is sent away."""
    over = asyncio.Event()

    async def one() -> None:
        while not over.is_set():
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2048)
                doing = asyncio.create_task(attack(reader, writer, path))
                while not (doing.done() or writer.transport.is_closing() or over.is_set()):
                    await asyncio.sleep(0.02)
                doing.cancel()
                await asyncio.gather(doing, return_exceptions=True)
                writer.transport.abort()
            await asyncio.sleep(0.05)

    attackers = [asyncio.create_task(one()) for _ in range(MANY)]
    try:
        await asyncio.sleep(0.2)
        yield
    finally:
        over.set()
        await asyncio.gather(*attackers)


async def others_are_served(ground: Ground, seconds: float = 0.7) -> int:
    """Ask on both listeners, on new connections; return how often. Every answer must be what it always is."""
    ends, asked = time.monotonic() + seconds, 0
    while time.monotonic() < ends or not asked:
        assert await status(ground.port, "/v1/grants/g0/token", f"X-Broker-Key: {ground.key}") == 200
        # The page for a link that nobody made. On a slow machine a connection of a stranger may be older than the time
        # that new ones get; a browser then sends its GET again (RFC 9110 §9.2.2).
        tries = [await status(ground.public_port, "/login/x")]
        while tries[-1] == 0 and len(tries) < 3:
            tries.append(await status(ground.public_port, "/login/x"))
        assert tries[-1] == 400, tries
        asked += 1
        await asyncio.sleep(0.01)
    return asked


@pytest.mark.parametrize("attack", [slow_writer, slow_reader, half_open, pipelining, large_body])
async def test_others_are_served_all_the_time(start: StartGround, attack: Attack) -> None:
    """As many attackers as there may be connections, on one listener and then on the other, take none from others."""
    ground = await start(max_connections=LIMIT)
    for port, path in ((ground.port, "/oauth2/token"), (ground.public_port, "/callback")):
        async with attacking(port, attack, path):
            await others_are_served(ground)
    assert await ground.closed("refused") == 0
    assert await ground.closed("room") > 0


async def test_callers_with_a_key_stay(start: StartGround) -> None:
    """A long poll stays while attackers are closed for others, and so does a connection that a caller keeps idle."""
    ground = await start(max_connections=12)
    reader, writer = await asyncio.open_connection("127.0.0.1", ground.port)
    read = f"GET /v1/grants/g0/token HTTP/1.1\r\nHost: localhost\r\nX-Broker-Key: {ground.key}\r\n\r\n".encode()
    writer.write(read)
    await reader.readuntil(b"}\n")
    etag = f'"{(await ground.broker.token("g0"))["generation"]}"'
    waits = (f"X-Broker-Key: {ground.key}", f"If-None-Match: {etag}", "Prefer: wait=50")
    polls = [asyncio.create_task(status(ground.port, "/v1/grants/g0/token", *waits)) for _ in range(3)]
    await until(lambda: _waiting(ground, 3))
    async with attacking(ground.port, slow_writer, "/oauth2/token"):
        await others_are_served(ground, 0.5)
    assert not any(poll.done() for poll in polls)
    writer.write(read)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.transport.abort()
    for poll in polls:
        poll.cancel()
    await asyncio.gather(*polls, return_exceptions=True)


async def test_streams_of_a_caller_leave_connections_to_others(start: StartGround) -> None:
    """One caller opens twice as many event streams as there may be connections: others are answered all the same."""
    ground = await start(max_connections=LIMIT)
    request = f"GET /v1/events HTTP/1.1\r\nHost: x\r\nX-Broker-Key: {ground.key}\r\nAccept: text/event-stream\r\n\r\n"
    writers = []
    for _ in range(2 * LIMIT):
        _, writer = await asyncio.open_connection("127.0.0.1", ground.port)
        writer.write(request.encode())
        writers.append(writer)
    await others_are_served(ground, 0.5)
    for writer in writers:
        writer.transport.abort()


async def _waiting(ground: Ground, many: int) -> bool:
    text = (await ground.broker.ask("GET", "/metrics"))[1]["text"]
    return f"\ntoken_broker_subscribers {float(many)}\n" in text


async def test_a_head_has_an_end(start: StartGround) -> None:
    """A head that arrives byte by byte is over after `http.body_timeout`, on a kept connection too."""
    ground = await start(body_timeout="400ms")
    for first in (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", ground.port)
        writer.write(first)
        if first:
            await reader.readuntil(b"\r\n\r\n")
        drip = asyncio.create_task(half_open(reader, writer, "/healthz"))
        await hear(reader)
        drip.cancel()
        await asyncio.gather(drip, return_exceptions=True)
        writer.transport.abort()
    assert await ground.closed("slow") == 2


@pytest.mark.parametrize("path", ["/oauth2/token", "/callback", "/v1/sealing/reseal"])
async def test_a_body_has_an_end(start: StartGround, path: str) -> None:
    """A body that arrives byte by byte gets 408 after `http.body_timeout`, and the connection ends."""
    ground = await start(body_timeout="300ms")
    reader, writer = await asyncio.open_connection("127.0.0.1", ground.port)
    key = f"X-Broker-Key: {ground.key}"
    writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n{key}\r\n\r\n".encode())
    drip = asyncio.create_task(_drip(writer, b"a"))
    text = await hear(reader)
    drip.cancel()
    await asyncio.gather(drip, return_exceptions=True)
    writer.transport.abort()
    assert text.startswith(b"HTTP/1.1 408")
    assert b"http.body_timeout" in text


async def hear(reader: asyncio.StreamReader) -> bytes:
    """Return what comes until the connection is closed, in order or not."""
    heard = b""
    with suppress(ConnectionError):
        while part := await asyncio.wait_for(reader.read(4096), 10):
            heard += part
    return heard


async def _drip(writer: asyncio.StreamWriter, part: bytes) -> None:
    while True:
        writer.write(part)
        await asyncio.sleep(0.02)


async def test_an_import_has_a_least_rate(start: StartGround) -> None:
    """Lines that trickle in are answered, until 64 KiB take longer than `http.body_timeout`."""
    ground = await start(body_timeout="500ms")
    reader, writer = await asyncio.open_connection("127.0.0.1", ground.port)
    head = (
        f"POST /v1/import HTTP/1.1\r\nHost: localhost\r\nX-Broker-Key: {ground.key}\r\nContent-Length: 900000\r\n\r\n"
    )
    writer.write(head.encode())
    drip = asyncio.create_task(_drip(writer, b"x\n"))
    text = (await hear(reader)).decode()
    drip.cancel()
    await asyncio.gather(drip, return_exceptions=True)
    writer.transport.abort()
    assert text.count("not JSON") > 1
    assert "too slowly" in text


async def test_a_long_import_takes_as_long_as_its_length_allows(start: StartGround) -> None:
    """Ten times 64 KiB in twice the time of one."""
    ground = await start(body_timeout="400ms")
    line = b'{"grant_id": "%s"}\n' % (b"?" * 32_000)

    async def lines() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield line
            await asyncio.sleep(0.04)

    code, body, _ = await ground.broker.ask("POST", "/v1/import", data=lines())
    assert code == 200
    assert body["text"].count("a grant id is") == 20


@pytest.mark.parametrize(
    "header", ["Authorization: Basic eDp5", "Authorization: Bearer nobody", "X-Broker-Key: nobody"]
)
async def test_credentials_come_before_the_body(start: StartGround, header: str) -> None:
    """Credentials in the headers that nobody has are refused before a byte of the body has come."""
    ground = await start()
    for path in ("/oauth2/token", "/v1/import", "/v1/sealing/reseal"):
        reader, writer = await asyncio.open_connection("127.0.0.1", ground.port)
        lines = ["Host: localhost", "Content-Length: 100", header, "", ""]
        writer.write("\r\n".join([f"POST {path} HTTP/1.1", *lines]).encode())
        line = await asyncio.wait_for(reader.readline(), 5)
        writer.transport.abort()
        assert line.split()[1] == b"401", path
