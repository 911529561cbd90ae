"""Stores that die, freeze, go back in time, fill their disk, and fail over."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.disks import SmallDisk
from tests.redis_server import RedisServer, start_redis
from tests.redis_topologies.servers import (
    SERVICE,
    Cluster,
    Sentinels,
    became_primary,
    cut_replication,
    generations,
    in_step,
    leads,
    mend_replication,
)
from tests.waiting import until


class StoreServer:
    """A real server on its own directory, that dies, freezes, and goes back in time."""

    def __init__(self, folder: Path, *, disk: SmallDisk | None = None, options: Sequence[str] = ()) -> None:
        self.disk = disk
        self._options = options
        self._folder = folder
        self._server: RedisServer
        self._copy = folder.with_name("copy")

    def begin(self) -> None:
        self._folder.mkdir(exist_ok=True)
        self._server = self._started(None)

    def _started(self, port: int | None) -> RedisServer:
        through = self.disk.through if self.disk else ()
        return start_redis(self._folder, port, *self._options, through=through)

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def pid(self) -> int:
        return self._server.process.pid

    @property
    def ended(self) -> bool:
        return self._server.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL; does no harm to one that is dead."""
        self._server.kill()

    def start(self) -> None:
        """Start it again on its port and its data, if it does not run."""
        if self._server.process.poll() is not None:
            self._server = self._started(self._server.port)

    def freeze(self) -> None:
        os.kill(self._server.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._server.process.pid, signal.SIGCONT)

    def remember(self) -> None:
        """Copy what it has on disk."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._folder, self._copy)

    def go_back(self) -> None:
        """Kill it and start it as it was when it was copied: acknowledged writes are gone."""
        self.kill()
        shutil.rmtree(self._folder)
        shutil.copytree(self._copy, self._folder)
        self.start()


class FailingOver:
    """A primary with one replica, over which Sentinels or a Cluster's masters watch."""

    def __init__(self, topology: Sentinels | Cluster) -> None:
        self.url = topology.url
        self._topology = topology
        self._primary: RedisServer = topology.primary if isinstance(topology, Sentinels) else topology.owner
        self._replica = topology.replica

    async def fail_over(self, while_cut: Callable[[], Awaitable[Any]]) -> int | None:
        """Let the primary acknowledge while *while_cut* lasts, cut off from its replica, then kill it.

        Returns:
            Once the old one follows the new one: of how many grants a commit was lost. None if the primary was given
            up before, as it is whenever its disk stalls for a second: then nobody counted what was lost.
        """
        if not await leads(self._primary.port):
            await self._given_up()
            return None
        await cut_replication(self._primary)
        await while_cut()
        lost = await self.unheard()
        if await leads(self._replica.port):
            await self._given_up()
            return None
        self._primary.kill()
        await became_primary(self._replica.port)
        old, self._primary = self._primary, self._replica
        if isinstance(self._topology, Sentinels):
            follows = ("--repl-diskless-sync-delay", "0", "--replicaof", f"127.0.0.1 {self._primary.port}")
            self._replica = self._topology.fleet.data(*follows, port=old.port)
        else:
            self._replica = self._topology.fleet.start(*old.options, port=old.port)
        await until(self._replica.answers, 60)
        await self._at_rest()
        return lost

    async def _given_up(self) -> None:
        """Follow a failover that no test caused: the old primary lives, follows the other, and may lead again."""
        await mend_replication(self._primary)
        await became_primary(self._replica.port)
        self._primary, self._replica = self._replica, self._primary
        await self._at_rest()

    async def _at_rest(self) -> None:
        await in_step(self._replica)
        if isinstance(self._topology, Sentinels):
            for sentinel in self._topology.sentinels:
                await until(lambda: self._sees_both(sentinel), 60, 0.1)

    async def unheard(self) -> int:
        """Of how many grants the primary has another generation than its replica."""
        heard, said = await generations(self._replica), await generations(self._primary)
        return sum(said[grant] != heard.get(grant) for grant in said)

    async def _sees_both(self, sentinel: RedisServer) -> bool:
        replicas = await sentinel.ask("SENTINEL", "REPLICAS", SERVICE)
        return "s_down" not in str(replicas) and str(self._replica.port) in str(replicas)
