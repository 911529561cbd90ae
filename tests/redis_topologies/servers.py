"""Real servers in the topologies that a primary is found in. Every process is ended by its pid."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import exceptions

from broker.store.redis.locate import SLOT
from tests.ports import free_port
from tests.redis_server import DURABLE, RedisServer, client, start_redis
from tests.waiting import until

SERVICE = "tokens"
SLOWLY = ("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
"""Options of a server that loads key by key."""


@dataclass(slots=True)
class Fleet:
    """Servers of one test, in a folder of their own."""

    folder: Path
    servers: list[RedisServer] = field(default_factory=list)
    held: list[Any] = field(default_factory=list)
    """Connections of the test that stay open, each with `close()`."""

    def start(self, *options: str, port: int | None = None, binary: str | None = None) -> RedisServer:
        """Start a server on a port of this machine; `answers` says when it is there."""
        return self._start(*options, port=port or free_port(), binary=binary)

    def data(self, *options: str, **more: Any) -> RedisServer:
        """Start a server that keeps what it acknowledges."""
        return self.start(*DURABLE, *options, **more)

    async def replica_of(self, primary: RedisServer, *options: str) -> RedisServer:
        """Start a server that replicates another; return once it is in step."""
        replica = self.data("--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0", *options)
        await until(replica.answers, 60)
        await in_step(replica)
        return replica

    def sentinel(self, primary: RedisServer, quorum: int) -> RedisServer:
        """Start a Sentinel that watches *primary* and gives it up after a second.

        It promotes no replica that heard nothing for ten times as long before that, however long one waits.
        """
        port = free_port()
        config = self.folder / f"sentinel-{port}.conf"
        config.write_text(
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} 1000\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        return self._start("--sentinel", port=port, config=config)

    def _start(self, *options: str, port: int, **more: Any) -> RedisServer:
        directory = self.folder / str(port)
        directory.mkdir(exist_ok=True)
        self.servers.append(start_redis(directory, port, *options, durable=False, wait=False, **more))
        return self.servers[-1]

    def end(self) -> None:
        """End all."""
        for connection in self.held:
            connection.close()
        for server in self.servers:
            server.kill()


@contextlib.contextmanager
def fleet() -> Iterator[Fleet]:
    """No servers yet; those that were started are ended with the body."""
    started = Fleet(Path(tempfile.mkdtemp(prefix="tb-fleet-")))
    try:
        yield started
    finally:
        started.end()
        shutil.rmtree(started.folder)


async def filled(server: RedisServer) -> None:
    """Give it a thousand keys, in an AOF that is loaded key by key."""
    await server.ask("EVAL", "for i = 1, 1000 do redis.call('SET', 'stranger:' .. i, i) end", 0)
    await server.ask("BGREWRITEAOF")

    async def rewritten() -> bool:
        info = await server.ask("INFO", "persistence")
        return (info["aof_rewrite_in_progress"], info["aof_rewrite_scheduled"]) == (0, 0)

    await until(rewritten, 15)


def again(fleet: Fleet, server: RedisServer, *options: str) -> RedisServer:
    """Another run of a server on its port and its data."""
    server.kill()
    return fleet.data(*options, port=server.port)


async def in_step(replica: RedisServer) -> None:
    """Wait until a replica has its primary's data and follows it."""

    async def follows() -> bool:
        async with client(replica.port) as redis:
            return bool((await redis.info("replication")).get("master_link_status") == "up")

    await until(follows, 60)


async def mend_replication(primary: RedisServer) -> None:
    """Replicas may follow *primary* again."""
    await primary.ask("ACL", "SETUSER", "default", "+psync", "+sync")


async def cut_replication(primary: RedisServer) -> None:
    """From now on the replicas hear nothing of what *primary* acknowledges; everybody else still talks to it."""
    await primary.ask("ACL", "SETUSER", "default", "-psync", "-sync")
    await primary.ask("CLIENT", "KILL", "TYPE", "replica")

    async def alone() -> bool:
        async with client(primary.port) as redis:
            return bool((await redis.info("replication"))["connected_slaves"] == 0)

    await until(alone, 60)


@dataclass(slots=True)
class Sentinels:
    """A primary with one replica, and three Sentinels over them."""

    fleet: Fleet
    primary: RedisServer
    replica: RedisServer
    sentinels: list[RedisServer]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(s.address for s in self.sentinels)}/{SERVICE}"

    async def named(self) -> int:
        """Return the port that the first Sentinel names."""
        return int((await self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE))[1])


@contextlib.asynccontextmanager
async def sentinels() -> AsyncIterator[Sentinels]:
    """Run them as long as the body lasts; every Sentinel knows the replica and the others."""
    with fleet() as started:
        primary = started.data("--repl-diskless-sync-delay", "0")
        await until(primary.answers, 60)
        replica = await started.replica_of(primary)
        over = [started.sentinel(primary, 2) for _ in range(3)]

        async def knows(one: RedisServer) -> bool:
            if not await one.answers():
                return False
            flat = await one.ask("SENTINEL", "MASTER", SERVICE)
            master = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
            master = {_text(name): _text(value) for name, value in master.items()}
            return (master["num-slaves"], master["num-other-sentinels"]) == ("1", "2")

        for one in over:
            await until(lambda: knows(one), 60, 0.1)
        yield Sentinels(started, primary, replica, over)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@dataclass(slots=True)
class Cluster:
    """Three masters, and a replica of the one that owns the slot of the broker."""

    fleet: Fleet
    owner: RedisServer
    replica: RedisServer
    others: list[RedisServer]

    @property
    def url(self) -> str:
        """Of two nodes, neither of which owns that slot."""
        return f"redis+cluster://{','.join(s.address for s in self.others)}"


_CLUSTERED = (
    "--cluster-enabled",
    "yes",
    "--cluster-node-timeout",
    "1000",
    "--cluster-replica-validity-factor",
    "0",
    "--repl-diskless-sync-delay",
    "0",
    "--cluster-require-full-coverage",
    "no",
)


@contextlib.asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    """Run one as long as the body lasts, its nodes met and in step."""
    with fleet() as started:
        buses = [free_port() for _ in range(4)]
        nodes = [started.data(*_CLUSTERED, "--cluster-port", str(bus)) for bus in buses]
        for node in nodes:
            await until(node.answers, 60)
        *masters, replica = nodes
        third = 16384 // 3
        ranges = [(0, third), (third + 1, 2 * third), (2 * third + 1, 16383)]
        for master, (first, last) in zip(masters, ranges, strict=True):
            await master.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in nodes[1:]:
            await node.ask("CLUSTER", "MEET", "127.0.0.1", masters[0].port, buses[0])
        owner = next(m for m, (first, last) in zip(masters, ranges, strict=True) if first <= SLOT <= last)
        identity = _text(await owner.ask("CLUSTER", "MYID"))

        async def acquainted(node: RedisServer) -> bool:
            info = _text(await node.ask("CLUSTER", "INFO"))
            return "cluster_known_nodes:4" in info and "cluster_slots_assigned:16384" in info

        for node in nodes:
            await until(lambda: acquainted(node), 60, 0.1)
        await replica.ask("CLUSTER", "REPLICATE", identity)
        await in_step(replica)

        async def agreed(node: RedisServer) -> bool:
            slots = await node.ask("CLUSTER", "SLOTS")
            info = _text(await node.ask("CLUSTER", "INFO"))
            return "cluster_state:ok" in info and str(replica.port) in str(slots)

        for node in nodes:
            await until(lambda: agreed(node), 60, 0.1)
        yield Cluster(started, owner, replica, [m for m in masters if m is not owner])


async def generations(server: RedisServer) -> dict[str, int]:
    """Of every grant the generation that *server* has, be it a primary or a replica."""
    async with client(server.port) as redis:
        with contextlib.suppress(exceptions.ResponseError):
            await redis.execute_command("READONLY")  # type: ignore[no-untyped-call]  # a Cluster's replica wants to be told
        keys = sorted(await redis.keys("*:grant:*"))
        async with redis.pipeline(transaction=False) as pipe:
            for key in keys:
                _ = pipe.hget(key, "generation")
            said = await pipe.execute()
    return {_text(key).rpartition(":grant:")[2]: int(held or 0) for key, held in zip(keys, said, strict=True)}


async def leads(port: int) -> bool:
    """Whether the server on *port* is a primary."""
    with contextlib.suppress(exceptions.RedisError, OSError):
        async with client(port) as redis:
            return bool((await redis.info("replication"))["role"] == "master")
    return False


async def became_primary(port: int) -> None:
    """Wait until the server on *port* is a primary."""
    await until(lambda: leads(port), 60, 0.1)
