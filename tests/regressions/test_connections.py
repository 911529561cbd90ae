"""Callers' connections: too many, silent, unfinished, kept longer than a balancer's, and those that leave."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.api.connections import limit_connections
from tests.redis_server import RedisServer
from tests.regressions.conftest import MakeGround, provider_at
from tests.regressions.process import Process, broker_process, missing
from tests.scripted_server import AuthorizationServer
from tests.waiting import until

Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Start = Callable[..., contextlib.AbstractAsyncContextManager[Process]]


@pytest.fixture
def start(tmp_path: Path, shared_redis: RedisServer, redis: Redis, auth_server: AuthorizationServer) -> Start:
    """Return a broker process with the grant `g1`; *files* is how many it may open, whatever it asks for."""

    @contextlib.asynccontextmanager
    async def started(*, files: int | None = None, **http: Any) -> AsyncIterator[Process]:
        through = ["prlimit", f"--nofile={files}"] if files else []
        async with broker_process(
            tmp_path / "broker", shared_redis.url, {"as": provider_at(auth_server)}, through=through, http=http
        ) as broker:
            await broker.put("g1", auth_server.issue("g1"))
            await until(lambda: broker.has_token("g1"))
            yield broker
            if not broker.killed and broker.popen.poll() is None:
                await broker.keeps(auth_server)

    return started


@contextlib.asynccontextmanager
async def links(broker: Process, count: int, *, saying: bytes = b"") -> AsyncIterator[list[Link]]:
    """So many connections, each of which says this and no more."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files < count + 200:
        missing(f"{count} sockets ({files} files)")
    port = int(broker.url.rpartition(":")[2])
    opened: list[Link] = []
    try:
        for _ in range(count):
            link = await asyncio.open_connection("127.0.0.1", port)
            link[1].write(saying)
            opened.append(link)
        yield opened
    finally:
        for _, writer in opened:
            writer.transport.abort()


def request(broker: Process, path: str = "/v1/grants/g1/token", *headers: str, method: str = "GET") -> bytes:
    """Return a request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"X-Broker-Key: {broker.admin_key}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


async def answer(link: Link, wait: float = 5.0) -> tuple[int, str]:
    """Status and head of the next answer."""
    async with asyncio.timeout(wait):
        head = (await link[0].readuntil(b"\r\n\r\n")).decode()
        length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
        await link[0].readexactly(int(length or 0))
    return int(head.split()[1]), head


async def ended(opened: list[Link], wait: float) -> int:
    """How many of them the broker has closed within that time."""
    over = {asyncio.ensure_future(reader.read()) for reader, _ in opened}
    done, still = await asyncio.wait(over, timeout=wait)
    for task in still:
        task.cancel()
    await asyncio.gather(*over, return_exceptions=True)
    return len(done)


async def caller(broker: Process, until_: asyncio.Event) -> list[float]:
    """Read on a new connection every tenth of a second; return how long each read took. None may fail."""
    took = []
    while not until_.is_set():
        began = time.monotonic()
        status, body, _ = await broker.ask("GET", "/v1/grants/g1/token")
        assert status == 200, body
        took.append(time.monotonic() - began)
        await asyncio.sleep(0.1)
    return took


@pytest.mark.parametrize(
    ("files", "silent", "half"), [(256, 400, 0), (1024, 1600, 400)], ids=["256-files", "1024-files"]
)
async def test_more_connections_than_files(
    start: Start, redis: Redis, auth_server: AuthorizationServer, files: int, silent: int, half: int
) -> None:
    """Links that say nothing, or half a request line, take no file from callers, refreshing or journal."""
    async with start(files=files, read_timeout="2s") as broker:
        before, cpu, began = broker.rss(), broker.cpu_seconds(), time.monotonic()
        over = asyncio.Event()
        real = asyncio.create_task(caller(broker, over))
        async with links(broker, silent) as first, links(broker, half, saying=b"GET /healthz HT") as second:
            health = (await broker.get("/healthz"))["checks"]["connections"]
            assert health["status"] == "degraded", "it says that it is full"
            assert "http.max_connections" in health["detail"]
            asked = len(auth_server.requests_of("g1"))
            await redis.zadd("broker:{0}:due:as", {"g1": 0.0})  # a connection, an append to the journal, and a commit
            await until(lambda: len(auth_server.requests_of("g1")) > asked)
            await until(lambda: broker.has_token("g1"))
            assert await ended(first + second, 6) == silent + half, "the silent are closed in the end"
        over.set()
        took = sorted(await real)
        lasted = time.monotonic() - began
        assert took[len(took) * 9 // 10] < 1, "no caller waited"  # but for a SYN sent again, a second later
        assert took[-1] < 4
        assert (await broker.get("/healthz"))["checks"]["connections"]["status"] == "ok", "nor says so any longer"
        assert broker.cpu_seconds() - cpu < 0.5 * lasted + 1
        assert broker.rss() - before < 50_000_000
        assert len(await broker.logged("connections.full")) == 1
        assert len(broker.log) < 5 * lasted + 10
        counted = await broker.metrics()
        assert counted["token_broker_connections_closed_total", "room"] > 0
        assert counted["token_broker_connections_closed_total", "silent"] > 0
        assert not counted["token_broker_connections_closed_total", "refused"]


@pytest.mark.parametrize(
    ("wanted", "files", "callers"),
    [
        (0, 256, 128),
        (0, 1024, 768),
        (0, 20_000, 15_904),
        (0, 65_536, 61_440),
        (100, 1024, 100),
        (5000, 1024, 768),
        (0, resource.RLIM_INFINITY, 60_000),
        (7, resource.RLIM_INFINITY, 7),
        (0, 2**20, 2**20 - 4096),
    ],
)
def test_limit_connections(wanted: int, files: int, callers: int) -> None:
    """Whatever is wanted, a good part of the files stays with journal, store and providers."""
    assert limit_connections(wanted, files) == callers


async def test_busy_connections_are_not_closed_for_new_ones(start: Start) -> None:
    """Where nothing idles, callers who wait are told that they are too many, and others are still served."""
    async with start(max_connections=40) as broker:
        etag = f'If-None-Match: "{(await broker.get("/v1/grants/g1/token"))["generation"]}"'
        wait = request(broker, "/v1/grants/g1/token", etag, "Prefer: wait=50")
        async with links(broker, 36, saying=wait):
            await until(lambda: _gauge(broker, "subscribers", 36))
            async with links(broker, 2, saying=wait) as more:
                for link in more:
                    status, head = await answer(link)
                    assert status == 503
                    assert "Retry-After: 5" in head
            for _ in range(20):
                assert (await broker.ask("GET", "/v1/grants/g1/token"))[0] == 200
            assert await _gauge(broker, "subscribers", 36), "those who wait go on waiting"


async def _gauge(broker: Process, name: str, value: float) -> bool:
    return (await broker.metrics())[f"token_broker_{name}", ""] == value


async def test_bodies_that_stand_still(start: Start) -> None:
    """A request whose body does not come, and an answer that nobody takes, end after `http.read_timeout`."""
    async with start(read_timeout="1s") as broker:
        put = request(broker, "/v1/grants/x", "Content-Length: 60000", method="PUT")
        chunks = request(broker, "/v1/import", "Transfer-Encoding: chunked", method="POST")
        async with (
            links(broker, 1, saying=put + b"{") as one,
            links(broker, 1, saying=chunks + b"5\r\nab") as two,
            links(broker, 1, saying=put + b"{") as three,
            _taking_nothing(broker),
        ):
            slow = asyncio.create_task(_drip(three[0]))
            assert await ended(one + two, 4) == 2
            await until(lambda: _gauge(broker, "connections", 2), 5)  # the slow one, and the scrape itself
            assert not slow.done(), "who goes on sending, however slowly, is waited for"
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
        counted = await broker.metrics()
        assert counted["token_broker_connections_closed_total", "stalled"] == 3


@contextlib.asynccontextmanager
async def _taking_nothing(broker: Process) -> AsyncIterator[None]:
    """Yield a client that asks for many megabytes of answers and reads none of them."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", int(broker.url.rpartition(":")[2])))
        asking = asyncio.create_task(loop.sock_sendall(client, request(broker, "/page/main.js") * 4000))
        yield
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def _drip(link: Link) -> None:
    while True:
        link[1].write(b" ")
        await link[1].drain()
        await asyncio.sleep(0.1)


async def test_kept_links(start: Start) -> None:
    """A link reused within the idle limit is never reset, and after it closed in order."""
    async with start(keepalive_timeout="2s", read_timeout="1s") as broker:
        get = request(broker)
        async with links(broker, 60, saying=get) as opened:
            for link in opened:
                assert (await answer(link))[0] == 200
            for pause in (0.2, 1.7):
                await asyncio.sleep(pause)
                for link in opened:
                    link[1].write(get)
                for link in opened:
                    status, head = await answer(link)
                    assert status == 200
                    assert "Connection: close" not in head
            assert await ended(opened, 5) == len(opened)


async def test_draining(start: Start) -> None:
    """While it stops, answers say that they are their link's last; who waits is told that there is no news."""
    async with start(drain_delay="1500ms") as broker:
        get = request(broker)
        etag = f'If-None-Match: "{(await broker.get("/v1/grants/g1/token"))["generation"]}"'
        wait = request(broker, "/v1/grants/g1/token", etag, "Prefer: wait=50")
        async with links(broker, 20, saying=get) as opened, links(broker, 20, saying=wait) as waiting:
            for link in opened:
                assert (await answer(link))[0] == 200
            await until(lambda: _gauge(broker, "subscribers", 20))
            broker.killed = True  # it is not there to be looked through afterwards
            broker.popen.send_signal(signal.SIGTERM)
            paths = ("/readyz", "/v1/grants/g1/authorization", "/v1/grants/g1/token", "/nowhere")
            for path, link in zip(paths, opened, strict=False):
                await until(lambda: (broker.folder / "log").read_text().count("broker.stopping"))
                link[1].write(request(broker, path))
                _, head = await answer(link)
                assert "Connection: close" in head, path
                assert await ended([link], 1) == 1
            for link in waiting:
                status, head = await answer(link)
                assert status == 304
                assert "Connection: close" in head
            assert await ended(waiting, 2) == len(waiting)
            for reader, _ in opened[len(paths) :]:
                assert not await reader.read(), "an idle link is closed, not reset"
        assert await asyncio.to_thread(broker.popen.wait, 5) == 0


async def test_clients_that_leave(make_ground: MakeGround) -> None:
    """Of a thousand clients gone in the middle of a long poll nothing is left: no task, no waiter, no link."""
    async with make_ground("g1") as ground:
        broker = ground.broker
        host, port = broker.url.removeprefix("http://").split(":")
        token = await broker.token("g1")
        ask = (
            f"GET /v1/grants/g1/token HTTP/1.1\r\nHost: localhost\r\nX-Broker-Key: {broker.admin_key}\r\n"
            f'If-None-Match: "{token["generation"]}"\r\nPrefer: wait=300\r\n\r\n'
        )
        before = len(asyncio.all_tasks())
        writers = []
        for _ in range(1000):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(ask.encode())
            writers.append(writer)

        async def waiting() -> float:
            text = (await broker.ask("GET", "/metrics"))[1]["text"]
            return float(text.partition("\ntoken_broker_subscribers ")[2].partition("\n")[0])

        async def all_wait() -> bool:
            return await waiting() == 1000

        await until(all_wait)
        assert len(asyncio.all_tasks()) > before + 1000
        for writer in writers:
            writer.transport.abort()

        async def none_waits() -> bool:
            return await waiting() == 0 and len(asyncio.all_tasks()) <= before + 2

        await until(none_waits, 5)
