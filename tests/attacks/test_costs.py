"""What each expensive request gets: a refusal that costs about its size, and no more of it is read than that takes."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest
from aiohttp.streams import StreamReader

from broker.api.app import find_read
from broker.api.dispatcher import CACHED_TARGET
from broker.api.server import ARRIVED
from broker.api.targets import served_target
from broker.errors import InvalidRequest
from broker.login.redirect import read_query

from .conftest import StartGround
from .kinds import KINDS, MEGABYTE, PUBLIC, Target, public_targets, targets
from .links import Heard, send

REFUSED = {
    "gzip bomb": {415},
    "gzip twice": {415},
    "deflate": {415},
    "body that nobody reads": {413},
    "deep JSON": {400},
    "wide JSON": {400},
    "long number": {400},
    "escapes": {400},
    "chunks beyond the limit": {413},
    "trailers": {400},
    "head without end": {400, 431},
    "many headers": {400, 431},
    "Expect of raw bytes": {417},
    "path of slashes": {404},
    "path of segments": {404},
    "path of escapes": {404},
    "Host": {421},
}
"""What a caller's `PUT` gets; all else is 4xx too."""
SLOW = 0.5
"""Seconds of CPU that no request may take; most take a thousandth. Before, one header took 22."""


async def answers(port: int, target: Target, kind: str, wait: float = 2.0) -> Heard:
    """Send one request of this kind."""
    return await asyncio.to_thread(send, port, KINDS[kind](target), wait, patient=False)


async def test_every_kind_is_answered_at_little_cost(start: StartGround) -> None:
    """Every sort of route on both listeners answers each kind, with a key or without; nothing is a bug's 500."""
    ground = await start()
    routes = [each for each in targets(ground.key) if (each.method, each.path) not in PUBLIC]
    put = Target("PUT", "/v1/grants/other", (f"X-Broker-Key: {ground.key}",))
    for number, kind in enumerate(KINDS):
        some = [(ground.port, put)] + [(ground.port, routes[n]) for n in range(number % 8, len(routes), 8)]
        some.append((ground.public_port, public_targets()[number % len(PUBLIC)]))
        began = time.process_time()
        for port, target in some:
            heard = await answers(port, target, kind)
            statuses = heard.statuses
            if kind == "head without end" and heard.closed and not statuses:
                continue  # a reset may overtake the response
            assert statuses, (kind, target, "no answer")
            allowed = REFUSED.get(kind, range(400, 500)) if target is put else range(200, 500)
            assert statuses[0] in allowed, (kind, target, statuses)
        assert time.process_time() - began < SLOW * len(some), kind


@pytest.mark.parametrize("known", [False, True], ids=["without a key", "with a key"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/v1/grants/x"), ("POST", "/v1/grants/g0/refresh"), ("GET", "/healthz"), ("POST", "/oauth2/token")],
)
async def test_a_body_that_nobody_needs_is_not_read_on(
    start: StartGround, taken: list[int], method: str, path: str, known: bool
) -> None:
    """Of 20 MB some 64 KiB are taken from the socket, the response is there to read, and the connection ends."""
    ground = await start()
    target = Target(method, path, (f"X-Broker-Key: {ground.key}",) if known else ())
    taken.clear()
    heard = await asyncio.to_thread(send, ground.port, target.sending(bytes(20 * MEGABYTE)))
    assert sum(taken) < 3 * MEGABYTE, sum(taken)  # what lay in the buffers of the socket is taken, too
    assert max(taken) <= 2 * ARRIVED, max(taken)
    assert heard.closed
    assert len(heard.statuses) == 1


async def test_a_coded_body_ends_the_connection_of_public_listen(start: StartGround, taken: list[int]) -> None:
    """On the internet's side a bomb is refused by its header, and not read on."""
    ground = await start()
    taken.clear()
    bomb = Target("POST", "/callback").sending(bytes(5 * MEGABYTE), "Content-Encoding: gzip")
    heard = await asyncio.to_thread(send, ground.public_port, bomb)
    assert (heard.statuses, heard.closed) == ([415], True)
    assert sum(taken) < 3 * MEGABYTE


@pytest.mark.parametrize("path", ["/callback", "/oauth2/token", "/v1/import"])
async def test_others_go_first_while_many_short_chunks_are_parsed(
    start: StartGround, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Of a body in chunks of one byte a few hundred are parsed at once, however many have arrived."""
    ground, parsed, most = await start(), 0, 0
    end = StreamReader.end_http_chunk_receiving

    def counted(body: StreamReader) -> None:
        nonlocal parsed
        parsed += 1
        end(body)

    monkeypatch.setattr(StreamReader, "end_http_chunk_receiving", counted)
    port, key = (ground.public_port, "") if path == "/callback" else (ground.port, f"X-Broker-Key: {ground.key}")
    form = ("Content-Type: application/x-www-form-urlencoded",)
    target = Target("POST", path, (key, *form) if key else form)
    sending = asyncio.create_task(answers(port, target, "chunks of one byte", 5.0))
    while not sending.done():
        before = parsed
        await asyncio.sleep(0)
        most = max(most, parsed - before)
    assert sending.result().statuses
    assert parsed > 10_000, "the body was not read"
    assert most < 1000, most


async def test_ends_of_heads_between_requests_end_the_connection(start: StartGround) -> None:
    """After an Upgrade, nothing but ends of heads is no request: the connection is closed."""
    ground = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", ground.port)
    writer.write(Target("GET", "/healthz").head("Connection: Upgrade", "Upgrade: h2c"))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\r\n\r\n" * 20_000)
    with suppress(ConnectionError):
        while await asyncio.wait_for(reader.read(65536), 5):
            pass
    writer.transport.abort()


async def test_a_short_body_that_nobody_reads_keeps_the_connection(start: StartGround) -> None:
    """A proxy that passes on a form, in a part of its own, is not sent away."""
    ground = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", ground.port)
    for _ in range(2):
        target = Target("POST", "/v1/grants/g0/authorization", (f"X-Broker-Key: {ground.key}",))
        writer.write(target.head("Content-Length: 5"))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 200")
        assert b"connection: close" not in head.lower()
        writer.write(b"a=b&c")
    writer.transport.abort()


def test_long_targets_are_in_no_cache() -> None:
    """What may have 64 KiB is not kept for a thousand requests."""
    assert CACHED_TARGET * (served_target.cache_parameters()["maxsize"] or 0) < 4 * MEGABYTE
    assert CACHED_TARGET * (find_read.cache_parameters()["maxsize"] or 0) < 4 * MEGABYTE


@pytest.mark.parametrize("query", ["a=b&" * 20_000, "a=" + "b" * 20_000, "&" * 64])
def test_a_query_of_a_callback_is_bounded(query: str) -> None:
    """Nobody is redirected back with so much."""
    with pytest.raises(InvalidRequest, match="longer than 16 KiB"):
        read_query(query)
