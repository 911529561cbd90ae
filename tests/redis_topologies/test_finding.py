"""Where the primary is: who is believed, when it is looked for again, and how often a connection is tried."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

import pytest

from broker.errors import StoreUnavailable
from broker.settings.redis_url import parse_redis_url
from broker.store.redis.embedded import embedded_server
from broker.store.redis.locate import SLOT, cluster_nodes, cluster_vote, elect, sentinel_vote
from broker.store.redis.primary import Primary
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.redis_topologies.servers import Cluster, Fleet
from tests.waiting import until

A, B = ("10.0.0.1", 6379), ("10.0.0.2", 6379)


@pytest.mark.parametrize(
    ("url", "topology", "hosts", "rest"),
    [
        ("redis://redis", "host", [("redis", 6379)], {}),
        ("redis://u:p%40@h:1/3", "host", [("h", 1)], {"username": "u", "password": "p@", "db": 3}),
        ("redis://h?db=4&password=q", "host", [("h", 6379)], {"password": "q", "db": 4}),
        ("redis://:p@[::1]:7/0", "host", [("::1", 7)], {"password": "p"}),
        (
            "rediss://h?ssl_ca_certs=/ca&ssl_server_name=r.test",
            "host",
            [("h", 6379)],
            {"tls": True, "tls_options": {"ca_certs": "/ca", "server_name": "r.test"}},
        ),
        ("unix:///run/redis.sock?db=1", "socket", [], {"path": "/run/redis.sock", "db": 1}),
        ("unix://u:p@/run/redis.sock", "socket", [], {"path": "/run/redis.sock", "username": "u", "password": "p"}),
        (
            "redis+sentinel://u@a:1,b,c:3/main/2",
            "sentinel",
            [("a", 1), ("b", 26379), ("c", 3)],
            {"service": "main", "db": 2, "username": "u"},
        ),
        ("rediss+sentinel://a/main", "sentinel", [("a", 26379)], {"service": "main", "tls": True}),
        ("redis+cluster://a:1,b", "cluster", [("a", 1), ("b", 6379)], {}),
        ("rediss+cluster://a", "cluster", [("a", 6379)], {"tls": True}),
    ],
)
def test_urls(url: str, topology: str, hosts: list[tuple[str, int]], rest: dict[str, object]) -> None:
    """Every form of redis.url is read as it is meant."""
    read = parse_redis_url(url)
    assert (read.topology, list(read.hosts)) == (topology, hosts)
    assert {name: getattr(read, name) for name in rest} == rest
    assert "p@" not in repr(read)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("redis://", "must be"),
        ("redis:///0", "must be"),
        ("redis://a:0", "must be"),
        ("redis://a:99999", "must be"),
        ("redis://a/x", "must be"),
        ("redis://a/0/1", "must be"),
        ("http://a", "must be"),
        ("a:6379", "must be"),
        ("redis://a\n", "must be"),
        ("unix://run/redis.sock", "must be"),
        ("unix:///", "must be"),
        ("redis+sentinel://a", "must be"),
        ("redis+sentinel://a/", "must be"),
        ("redis+sentinel:///main", "must be"),
        ("redis+sentinel://a/main/x", "must be"),
        ("redis+sentinel://a,,b/main", "must be"),
        ("redis+cluster://a/1", "a Cluster has only one"),
        ("redis://a,b/0", "names several hosts"),
        ("redis://a?retry=1", "unknown option"),
        ("redis://a?ssl_ca_certs=x", "no TLS"),
        ("rediss://a?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("redis://[::1/0", "must be"),
    ],
)
def test_wrong_urls(url: str, word: str) -> None:
    """Whatever is spelled otherwise is refused in words."""
    with pytest.raises(ValueError, match=r".") as refused:
        parse_redis_url(url)
    assert word in str(refused.value)


def test_most_votes_win() -> None:
    """One that was cut off and still names the primary of yesterday is outvoted; of equals the first counts."""
    assert elect([A, B, B]) == B
    assert elect([A, B]) == A
    assert elect([]) is None


def test_votes() -> None:
    """What Sentinels and nodes answer; a node that does not know its own name is the one that was asked."""
    assert sentinel_vote([b"10.0.0.1", b"6379"]) == A
    assert sentinel_vote(None) is None
    slots = [[0, SLOT - 1, [b"10.0.0.1", 6379, b"id"]], [SLOT, 16383, [b"10.0.0.2", 6379, b"id"], [b"x", 1, b"id"]]]
    assert cluster_vote(slots, A) == B
    assert cluster_nodes(slots) == [A, B, ("x", 1)]
    assert cluster_vote([[0, 16383, [None, 6379, b"id"]]], A) == A
    assert cluster_vote([[0, 16383, [b"?", 6379, b"id"]]], A) is None
    assert cluster_vote([[SLOT + 1, 16383, [b"10.0.0.1", 6379, b"id"]]], A) is None


@contextlib.asynccontextmanager
async def naming(ports: list[int]) -> AsyncIterator[str]:
    """Yield a URL of scripted Sentinels; each names the port at its place in *ports* (0: silent), which may change."""

    async def serve(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while data := await reader.read(4096):
                if not ports[number]:
                    continue
                port = str(ports[number]).encode()
                named = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(port), port)
                writer.write(named if b"SENTINEL" in data else b"+OK\r\n")
        writer.close()

    async with contextlib.AsyncExitStack() as stack:
        hosts = []
        for number in range(len(ports)):
            server = await asyncio.start_server(partial(serve, number), "127.0.0.1")
            stack.callback(server.close)
            hosts.append(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        yield f"redis+sentinel://{','.join(hosts)}/main"


@pytest.fixture
async def two(fleet: Fleet) -> list[RedisServer]:
    """Two servers that know nothing of each other, each a primary."""
    started = [fleet.data(), fleet.data()]
    for server in started:
        await until(server.answers, 15)
        await server.ask("SET", "port", server.port)
    return started


@contextlib.asynccontextmanager
async def primary_at(url: str) -> AsyncIterator[Primary]:
    """Yield a primary, closed at the end."""
    primary = Primary(url)
    try:
        yield primary
    finally:
        await primary.close()


async def test_one_sentinel_of_yesterday(two: list[RedisServer]) -> None:
    """Two of three Sentinels decide, whichever is asked first."""
    old, new = two
    async with naming([old.port, new.port, new.port]) as url, primary_at(url) as primary:
        assert await primary.call("GET", "port") == str(new.port).encode()


async def test_silent_sentinels(two: list[RedisServer]) -> None:
    """Those that do not answer are waited for a moment, not until their time is up."""
    async with naming([0, 0, two[0].port]) as url, primary_at(url) as primary:
        assert await asyncio.wait_for(primary.call("GET", "port"), 1.9) == str(two[0].port).encode()


async def test_stray_sentinel_moves_nobody(two: list[RedisServer]) -> None:
    """One Sentinel that names another primary while the others are silent is no reason to leave a good one."""
    old, new = two
    ports = [old.port] * 3
    async with naming(ports) as url, primary_at(url) as primary:
        await primary.call("PING")
        ports[:] = [new.port, 0, 0]
        ends = asyncio.get_running_loop().time() + 3.5  # it is asked once, at least
        while asyncio.get_running_loop().time() < ends:
            assert await primary.call("GET", "port") == str(old.port).encode()
            await asyncio.sleep(0.1)


async def test_old_primary_that_still_answers_is_left(two: list[RedisServer]) -> None:
    """A primary that the Sentinels gave up is left although it takes writes; so does the subscription."""
    old, new = two
    ports = [old.port] * 3
    async with naming(ports) as url, primary_at(url) as primary, primary.subscription("x:*") as subscription:
        assert await primary.call("GET", "port") == str(old.port).encode()
        ports[:] = [new.port] * 3

        async def left() -> bool:
            return bool(await primary.call("GET", "port") == str(new.port).encode())

        await until(left, 15, 0.1)
        with pytest.raises(StoreUnavailable, match="has moved"):
            await subscription.receive()
        async with primary.subscription("x:*") as again:
            await new.ask("PUBLISH", "x:1", "hello")
            assert await again.receive() == [(b"x:1", b"hello")]


async def test_sentinels_without_an_answer() -> None:
    """No Sentinel at all, and no such service, are said."""
    async with primary_at(f"redis+sentinel://127.0.0.1:{free_port()}/main") as primary:
        with pytest.raises(StoreUnavailable, match="no Sentinel replies: cannot be reached"):
            await primary.call("PING")
    async with primary_at(f"redis+cluster://127.0.0.1:{free_port()}") as primary:
        with pytest.raises(StoreUnavailable, match="no node of the Cluster replies"):
            await primary.call("PING")


async def test_no_cluster_there(two: list[RedisServer]) -> None:
    """A Cluster's URL at a server that is none is said."""
    async with primary_at(f"redis+cluster://{two[0].address}") as primary:
        with pytest.raises(StoreUnavailable, match="cluster support disabled"):
            await primary.call("PING")


async def test_slot_that_moves(in_cluster: Cluster) -> None:
    """A planned failover: the old owner says MOVED, and the new one is used."""
    async with primary_at(in_cluster.url) as primary:
        await primary.call("SET", "x:{0}:y", 1)
        await in_cluster.replica.ask("CLUSTER", "FAILOVER")

        async def written() -> bool:
            try:
                await primary.call("SET", "x:{0}:y", 2)
            except StoreUnavailable:
                return False
            info = await in_cluster.replica.ask("INFO", "replication")
            return bool(info["role"] == "master")

        await until(written, 20, 0.05)
        assert await in_cluster.replica.ask("GET", "x:{0}:y") == b"2"


async def test_no_storm_of_connections() -> None:
    """Thirty callers of a server that closes every connection cost it five attempts a second."""
    attempts = 0

    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    refused = 0

    async def call(primary: Primary) -> None:
        nonlocal refused
        while True:
            with contextlib.suppress(StoreUnavailable):
                await primary.call("PING")
            refused += 1

    async with primary_at(f"redis://127.0.0.1:{port}/0") as primary:
        callers = [asyncio.create_task(call(primary)) for _ in range(30)]
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(2)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        took = asyncio.get_running_loop().time() - began
    server.close()
    assert refused >= 30
    assert 2 <= attempts <= took * 5 + 2


async def test_restarted_at_its_address(fleet: Fleet) -> None:
    """After a restart a call or two fail at most, and none of them after that."""
    server = fleet.data()
    await until(server.answers, 15)
    async with primary_at(server.url) as primary:
        await asyncio.gather(*(primary.call("PING") for _ in range(20)))
        server.kill()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await primary.call("PING")
        again = fleet.data(port=server.port)
        await until(again.answers, 15)

        async def answered() -> bool:
            with contextlib.suppress(StoreUnavailable):
                return bool(await primary.call("PING") == b"PONG")
            return False

        await until(answered, 10)
        assert await asyncio.gather(*(primary.call("PING") for _ in range(80))) == [b"PONG"] * 80
        assert (await again.ask("INFO", "clients"))["connected_clients"] <= 64 + 2


async def test_embedded_store_in_an_odd_folder(fleet: Fleet) -> None:
    """A data directory may hold what means something in a URL."""
    folder = fleet.folder / "a b%41?#ü"
    async with embedded_server(folder) as url, primary_at(url) as primary:
        assert await primary.call("PING") == b"PONG"
