"""Lines of an import that cost much or are wrong: whoever sends them does not keep others waiting."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import pytest

from broker.api.requests import BODY_LIMIT
from tests.conftest import RunningBroker, StartBroker

LONGEST = 0.03
"""Seconds of CPU between two turns of the loop; the broker and the sender share it."""
LONG = BODY_LIMIT - 8
KINDS = {
    "lines of one letter": b"x\n" * 50_000,
    "blank lines": b"\n" * 300_000,
    "blank lines with white space": b" \r\n" * 100_000,
    "lines without a grant id": b'{"provider":"acme","refresh_token":"r"}\n' * 8_000,
    "lines of an unknown provider": b'{"grant_id":"a","provider":"none","refresh_token":"r"}\n' * 6_000,
    "deep JSON": (b"[" * LONG + b"\n") * 16,
    "deep objects": (b'{"a":' * (LONG // 5) + b"\n") * 16,
    "wide JSON": (b"[" + b"1," * (LONG // 2 - 1) + b"1]\n") * 16,
    "long numbers": (b"1" * LONG + b"\n") * 16,
    "escapes": (b'"' + b"\\u0041" * (LONG // 6 - 1) + b'"\n') * 16,
    "lines over the limit": (b"x" * 2 * BODY_LIMIT + b"\n") * 16,
    "an endless line": b"x" * 2_000_000,
    "one grant again and again": b'{"grant_id":"bulk-g","provider":"acme","refresh_token":"bulk-r"}\n' * 500,
}


async def longest_turn(stop: asyncio.Event) -> float:
    """Return the most CPU time (s) that this thread spent between two turns of the loop, until *stop*."""
    longest, before = 0.0, time.thread_time()
    while not stop.is_set():
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, before = max(longest, now - before), now
    return longest


async def send(broker: RunningBroker, body: bytes, framing: str = "") -> bytes:
    """Send a body, framed already if *framing* is given; return what was answered to it, without its head."""
    host, port = broker.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/import HTTP/1.1\r\nHost: localhost\r\nX-Broker-Key: {broker.admin_key}\r\nConnection: close\r\n"
    framing = framing or f"Content-Length: {len(body)}"
    writer.write(f"{head}{framing}\r\n\r\n".encode())

    async def write() -> None:
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(body), 65536):
                writer.write(body[start : start + 65536])
                await writer.drain()

    writing = asyncio.create_task(write())
    pieces = []
    while piece := await reader.read(65536):
        pieces.append(piece)
    await writing
    writer.close()
    return b"".join(pieces).partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("kind", KINDS)
async def test_others_are_served_meanwhile(broker: RunningBroker, kind: str) -> None:
    """Between two turns of the loop there are some ms of work at most, whatever the lines are."""
    stop = asyncio.Event()
    watching = asyncio.create_task(longest_turn(stop))
    await asyncio.gather(*(send(broker, KINDS[kind]) for _ in range(2)))
    stop.set()
    assert await watching < LONGEST


async def test_a_good_file_holds_nobody_up(start_broker: StartBroker) -> None:
    """Nor does a file of grants that are all new, whether callers read meanwhile or not."""
    async with start_broker(refresh={"import_spread": "12h"}) as broker:
        for reads in (False, True):
            lines = [
                b'{"grant_id":"bulk-%d-%d","provider":"acme","refresh_token":"bulk-%d-%d"}\n' % (reads, n, reads, n)
                for n in range(2000)
            ]
            stop = asyncio.Event()
            watching = asyncio.create_task(longest_turn(stop))
            sending = asyncio.create_task(send(broker, b"".join(lines)))
            while reads and not sending.done():
                await broker.ask("GET", "/v1/grants/bulk-none/token")
            assert (await sending).count(b'"created"') == len(lines)
            stop.set()
            assert await watching < LONGEST


@pytest.mark.parametrize("piece", [b"x", b"\n"])
async def test_a_body_in_tiny_chunks(broker: RunningBroker, piece: bytes) -> None:
    """A body of chunks of one byte, each with its own size line, holds nobody up either."""
    stop = asyncio.Event()
    watching = asyncio.create_task(longest_turn(stop))
    body = b"1\r\n%s\r\n" % piece * 100_000 + b"0\r\n\r\n"
    await send(broker, body, "Transfer-Encoding: chunked")
    stop.set()
    assert await watching < 3 * LONGEST, "it is aiohttp's parser that this costs: one read of 256 KiB"


async def test_an_outcome_comes_while_the_request_goes_on(broker: RunningBroker) -> None:
    """A line is answered before the next is sent; lines that arrive together are answered in their order."""
    sent: asyncio.Queue[bytes] = asyncio.Queue()

    async def body() -> object:
        while piece := await sent.get():
            yield piece

    def line(grant: str, token: str) -> bytes:
        return json.dumps({"grant_id": grant, "provider": "acme", "refresh_token": token}).encode() + b"\n"

    headers = {"X-Broker-Key": broker.admin_key}
    sent.put_nowait(line("bulk-1", "bulk-first"))
    async with broker.session.post(broker.url + "/v1/import", data=body(), headers=headers) as answer:
        assert json.loads(await answer.content.readline())["status"] == "created"
        sent.put_nowait(
            line("bulk-1", "bulk-second") + line("bulk-1", "bulk-first") + b"{\n" + line("bulk-2", "bulk-second")
        )
        outcomes = [json.loads(await answer.content.readline()) for _ in range(4)]
        sent.put_nowait(b"")
        assert await answer.content.read() == b""
    assert [outcome["line"] for outcome in outcomes] == [2, 3, 4, 5]
    assert [outcome["status"] for outcome in outcomes[1:]] == ["unchanged", "refused", "refused"]
    assert outcomes[3]["holder"] == "bulk-1"
