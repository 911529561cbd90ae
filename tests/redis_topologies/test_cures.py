"""Each state of a Redis that cannot be used has its own words, and its own cure: none is to start one that runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from broker.check.store import check_store
from broker.errors import StoreUnavailable, WrongStore
from broker.secret import Sealer
from broker.settings import Redis
from broker.store import open_store
from broker.store.facts import fetch_facts
from broker.store.redis.cures import announced_unreachable
from broker.store.redis.primary import Primary
from tests.conftest import StartBroker
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.redis_topologies.scripted_sentinels import naming
from tests.redis_topologies.servers import SERVICE, SLOWLY, Fleet, again, filled
from tests.waiting import until

KEY = b"k" * 32
START = "start Redis"
State = Callable[[Fleet], Awaitable[str]]
"""Brings a server into a state, and returns its URL."""


async def run(fleet: Fleet, *options: str) -> RedisServer:
    server = fleet.data(*options)
    await until(server.answers, 15)
    return server


async def away(fleet: Fleet) -> str:
    server = await run(fleet)
    server.kill()
    return server.url


async def no_such_name(fleet: Fleet) -> str:
    return "redis://no-such-host.invalid:6379/0"


async def no_socket(fleet: Fleet) -> str:
    return f"unix://{fleet.folder}/redis.sock"


async def hanging(fleet: Fleet) -> str:
    server = await run(fleet)
    os.kill(server.process.pid, signal.SIGSTOP)
    return server.url


async def loading(fleet: Fleet) -> str:
    server = await run(fleet)
    await filled(server)
    slow = again(fleet, server, *SLOWLY)

    async def listens() -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", slow.port)
            writer.close()
            return True
        return False

    await until(listens, 15)
    return slow.url


async def wrong_password(fleet: Fleet) -> str:
    server = await run(fleet)
    await server.ask("ACL", "SETUSER", "broker", "on", ">right", "~*", "&*", "+@all")
    return server.url.replace("redis://", "redis://broker:wrong@")


async def no_password(fleet: Fleet) -> str:
    server = await run(fleet)
    await server.ask("CONFIG", "SET", "requirepass", "right")
    return server.url


async def without_rights(fleet: Fleet) -> str:
    server = await run(fleet)
    await server.ask("ACL", "SETUSER", "broker", "on", ">right", "~*", "&*", "+info", "+client", "+ping")
    return server.url.replace("redis://", "redis://broker:right@")


async def replica(fleet: Fleet) -> str:
    primary = await run(fleet, "--repl-diskless-sync-delay", "0")
    return (await fleet.replica_of(primary)).url


async def memory_full(fleet: Fleet) -> str:
    server = await run(fleet)
    await server.ask("CONFIG", "SET", "maxmemory", "1mb")
    return server.url


async def disk_full(fleet: Fleet) -> str:
    server = await run(fleet)
    (server.directory / "dump.rdb" / "x").mkdir(parents=True)
    await server.ask("CONFIG", "SET", "save", "3600 1000000")
    await server.ask("BGSAVE")

    async def failed() -> bool:
        return bool((await server.ask("INFO", "persistence"))["rdb_last_bgsave_status"] == "err")

    await until(failed, 15)
    return server.url


async def no_replicas(fleet: Fleet) -> str:
    return (await run(fleet, "--min-replicas-to-write", "1")).url


async def no_more_clients(fleet: Fleet) -> str:
    server = await run(fleet)
    fleet.held += [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    await server.ask("CONFIG", "SET", "maxclients", "3")
    return server.url


async def no_tls(fleet: Fleet) -> str:
    return (await run(fleet)).url.replace("redis://", "rediss://")


async def no_tls_and_no_redis(fleet: Fleet) -> str:
    listener = socket.create_server(("127.0.0.1", 0))
    fleet.held.append(listener)

    def greet() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(b"220 mail.example.com ESMTP\r\n" * 8)
                    peer.recv(4096)

    threading.Thread(target=greet, daemon=True).start()
    return f"rediss://127.0.0.1:{listener.getsockname()[1]}/0"


@pytest.mark.parametrize(
    ("state", "words", "cure"),
    [
        (away, "cannot be reached", START),
        (no_such_name, "its name cannot be resolved", "correct the host in redis.url"),
        (no_socket, "cannot be reached", START),
        (hanging, "did not reply in time", "what keeps it busy"),
        (loading, "is loading its data", "wait"),
        (wrong_password, "denied access", "correct user and password"),
        (no_password, "denied access", "correct user and password"),
        (without_rights, "denied access", "users.acl"),
        (replica, "is a read-only replica", "name the primary"),
        (memory_full, "its memory is full (OOM)", "raise its maxmemory"),
        (disk_full, "cannot save to its disk (MISCONF)", "free space on its disk"),
        (no_replicas, "too few replicas", "connect its replicas"),
        (no_more_clients, "accepts no more clients", "raise its maxclients"),
        (no_tls, "did not reply in time", "it must speak TLS"),
        (no_tls_and_no_redis, "the TLS handshake failed", "use redis://"),
    ],
)
async def test_words_and_cure(fleet: Fleet, state: State, words: str, cure: str) -> None:
    """What a write meets says what is wrong and what helps; nobody is sent to start a server that runs."""
    primary = Primary(await state(fleet))
    try:
        with pytest.raises(StoreUnavailable) as refused:
            await primary.call("SET", "x", 1)
    finally:
        await primary.close()
    assert words in str(refused.value)
    assert cure in refused.value.cure
    assert (START in refused.value.cure) == (cure is START)


async def test_another_store_and_an_empty_one(fleet: Fleet, tmp_path: Path) -> None:
    """A server that holds nothing, or another broker's data, runs: the data or the URL is to be put right."""
    empty, other = await run(fleet), await run(fleet)
    async with open_store(Redis(url=other.url), Sealer((KEY,)), data_dir=tmp_path) as store:
        await store.identify()
    for server, words, cure in ((empty, "is empty", "restore its data"), (other, "another store", "correct redis.url")):
        async with open_store(Redis(url=server.url), Sealer((KEY,)), data_dir=tmp_path) as store:
            with pytest.raises(WrongStore, match=words) as refused:
                await store.identify("0123456789abcdef0123456789abcdef")
        assert refused.value.cure.startswith(cure)
        assert "remove store.id from data_dir" in refused.value.cure
        assert START not in refused.value.cure


@pytest.mark.parametrize("state", [away, hanging, wrong_password, no_more_clients, no_tls])
async def test_check_names_the_cure(fleet: Fleet, tmp_path: Path, state: State) -> None:
    """`check --online` says the same as log and health."""
    redis = Redis(url=await state(fleet))
    facts = await fetch_facts(redis, None, data_dir=tmp_path, password=None, listen=0.05)
    (finding,) = check_store(facts, redis, None)
    primary = Primary(redis.url)
    try:
        with pytest.raises(StoreUnavailable) as refused:
            await primary.call("TIME")
    finally:
        await primary.close()
    assert (finding.level, finding.cure) == ("failed", refused.value.cure)
    assert finding.what == str(refused.value).replace("Redis: ", "Redis ")


@contextlib.asynccontextmanager
async def sentinel_of_nothing(fleet: Fleet) -> AsyncIterator[tuple[str, str]]:
    """Yield the URL of a real Sentinel, and the address that it names, where nobody listens."""
    gone = await run(fleet)
    sentinel = fleet.sentinel(gone, 1)
    await until(sentinel.answers, 15)
    gone.kill()
    yield f"redis+sentinel://{sentinel.address}/{SERVICE}", f"the Sentinels name 127.0.0.1:{gone.port}"


@contextlib.asynccontextmanager
async def scripted_sentinels(fleet: Fleet) -> AsyncIterator[tuple[str, str]]:
    """Yield three Sentinels that agree on such an address."""
    port = free_port()
    async with naming([port] * 3) as url:
        yield url, f"the Sentinels name 127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def cluster_of_nothing(fleet: Fleet) -> AsyncIterator[tuple[str, str]]:
    """Yield the URL of a Cluster of one node that runs, and announces such an address."""
    announced, bus = free_port(), free_port()
    node = fleet.data(
        *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
        *("--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", str(announced)),
    )
    await until(node.answers, 15)
    await node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

    async def names_it() -> bool:
        return str(announced) in str(await node.ask("CLUSTER", "SLOTS"))

    await until(names_it, 15)
    yield f"redis+cluster://{node.address}", f"the Cluster names 127.0.0.1:{announced}"


@pytest.mark.parametrize(
    ("announcing", "cure"),
    [
        (sentinel_of_nothing, "replica-announce-ip"),
        (scripted_sentinels, "sentinel monitor and announce-ip"),
        (cluster_of_nothing, "cluster-announce-ip"),
    ],
)
async def test_announced_address_that_cannot_be_reached(
    start_broker: StartBroker,
    fleet: Fleet,
    tmp_path: Path,
    announcing: Callable[[Fleet], contextlib.AbstractAsyncContextManager[tuple[str, str]]],
    cure: str,
) -> None:
    """Log, readiness and `check --online` name who announces which address, and how to have another announced."""
    async with announcing(fleet) as (url, named):
        words = f"{named}, which cannot be reached from here"
        async with start_broker(redis={"url": url}, providers={}, wait=False) as broker:
            await until(lambda: broker.events("store.waiting"), 20)
            (line,) = broker.events("store.waiting")
            assert line["error"] == f"Redis: {words}"
            assert cure in line["hint"]

            async def said() -> bool:
                _, body, _ = await broker.ask("GET", "/readyz")
                detail = body["checks"]["redis"]["detail"]
                return words in detail and cure in detail

            await until(said, 15)
        redis = Redis(url=url)
        facts = await fetch_facts(redis, None, data_dir=tmp_path, password=None, listen=0.05)
        (finding,) = check_store(facts, redis, None)
        assert finding.what == f"Redis {words}"
        assert cure in finding.cure
        assert "run the broker in that network" in finding.cure


async def test_announced_server_that_replies(fleet: Fleet) -> None:
    """One that denies access, is full or loads its data is reached: its address is not to blame."""
    for state in (wrong_password, no_more_clients, loading):
        port = int((await state(fleet)).rpartition(":")[2].partition("/")[0])
        async with naming([port] * 3) as url:
            credentials = "broker:wrong@" if state is wrong_password else ""
            primary = Primary(url.replace("://", f"://{credentials}"))
            try:
                with pytest.raises(StoreUnavailable) as refused:
                    await primary.call("PING")
            finally:
                await primary.close()
            assert "the Sentinels name" not in str(refused.value), state


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionRefusedError(), OSError(113, "No route to host")])
def test_how_an_announced_address_is_out_of_reach(error: Exception) -> None:
    """Refused, dropped and unrouted are one kind; an IPv6 address is written so that its port can be told apart."""
    found = announced_unreachable("sentinel", ("172.18.0.3", 9500), error)
    assert str(found) == "Redis: the Sentinels name 172.18.0.3:9500, which cannot be reached from here"
    assert "the Cluster names [fd00::3]:9500," in str(announced_unreachable("cluster", ("fd00::3", 9500), error))
    assert announced_unreachable("host", ("172.18.0.3", 9500), error) is None
