"""How soon long polls hear of a commit, and what each costs in memory, against bare aiohttp handlers that wait.

    python -m tests.benchmarks.long_poll [--waiters 1 1000 10000] [--rounds 5]

Real processes: a token endpoint, a Redis, two brokers and the bare handlers. All callers wait at one broker for one
grant, the other one refreshes it. Measured is from the moment at which a subscriber hears of the commit (for the bare
handlers: from the request that lets them go) until an answer has arrived; medians of p50, p99, the last one and CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import resource
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from redis.asyncio import Redis

from tests.benchmarks.processes import PYTHON, cpu_seconds, running, running_broker, wait_for_port
from tests.benchmarks.read_path import EVERY_SECOND, request_for
from tests.benchmarks.write_path import import_grants, settings
from tests.ports import free_port
from tests.redis_server import running_redis

KEY = "tbk_benchmark-key-0123456789-0123456789-0123456789"
PATH = "/v1/grants/g0/token"
Go = Callable[[], Awaitable[float]]
"""Lets all that wait go; says since when they could have known (`time.perf_counter()`)."""


class Waiter(asyncio.Protocol):
    """One kept connection that asks and waits."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.heard_at = 0.0
        self.heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> None:
        """Send; the answer is what comes first."""
        self.heard_at = 0.0
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.heard, self.heard_at = data, self.heard_at or time.perf_counter()


def rss(pid: int) -> int:
    """Bytes of memory a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def waking(
    port: int, pid: int, many: int, rounds: int, request: Callable[[], bytes], go: Go, waiting: Callable[[int], bool]
) -> tuple[list[float], float]:
    """Medians over the rounds of p50, p99 and the last (ms) and CPU (µs a waiter), and bytes of memory a waiter."""
    loop = asyncio.get_running_loop()
    before, waiters = rss(pid), []
    for _ in range(many):
        waiters.append((await loop.create_connection(Waiter, "127.0.0.1", port))[1])
    figures, each = [], 0.0
    for _ in range(rounds):
        for waiter in waiters:
            waiter.ask(request())
        while not await asyncio.to_thread(waiting, many):
            await asyncio.sleep(0.2)
        each = each or (rss(pid) - before) / many
        spent = cpu_seconds(pid)
        since = await go()
        while not all(waiter.heard_at for waiter in waiters):
            await asyncio.sleep(0.02)
        assert all(waiter.heard.startswith(b"HTTP/1.1 200") for waiter in waiters), waiters[0].heard
        took = sorted((waiter.heard_at - since) * 1000 for waiter in waiters)
        cpu = (cpu_seconds(pid) - spent) * 1e6 / many
        figures.append((took[many // 2], took[many * 99 // 100], took[-1], cpu))
    for waiter in waiters:
        waiter.transport.abort()
    return [statistics.median(column) for column in zip(*figures, strict=True)], each


def ask(url: str, method: str = "GET", headers: dict[str, str] | None = None) -> Any:
    """Text of an answer."""
    request = urllib.request.Request(url, method=method, headers={"X-Broker-Key": KEY, **(headers or {})})
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()


async def brokers(port: int, other: int, pid: int, redis_port: int, many: int, rounds: int) -> Any:
    """Callers wait at *port*; the broker at *other* refreshes."""
    redis = Redis(port=redis_port)
    pubsub = redis.pubsub()
    await pubsub.subscribe("broker:tokens:g0")
    assert await pubsub.get_message(timeout=5)

    def etag() -> str:
        return f'"{json.loads(ask(f"http://127.0.0.1:{other}{PATH}"))["generation"]}"'

    held = etag()

    def request() -> bytes:
        mine = (f"X-Broker-Key: {KEY}", f"If-None-Match: {held}", "Prefer: wait=55")
        return request_for(PATH, *mine)

    async def go() -> float:
        nonlocal held
        url = f"http://127.0.0.1:{other}/v1/grants/g0/refresh"
        asking = asyncio.create_task(asyncio.to_thread(ask, url, "POST", {"If-Match": held}))
        while (message := await pubsub.get_message(timeout=10)) is None or message["type"] != "message":
            pass
        since = time.perf_counter()
        held = f'"{json.loads(await asking)["generation"]}"'
        return since

    def waiting(many: int) -> bool:
        return f"\ntoken_broker_subscribers {many:.1f}\n" in ask(f"http://127.0.0.1:{port}/metrics")

    try:
        return await waking(port, pid, many, rounds, request, go, waiting)
    finally:
        await pubsub.aclose()  # type: ignore[no-untyped-call]
        await redis.aclose()


async def bare(port: int, pid: int, many: int, rounds: int) -> Any:
    """Callers wait at bare handlers."""

    async def go() -> float:
        since = time.perf_counter()
        await asyncio.to_thread(ask, f"http://127.0.0.1:{port}/go", "POST")
        return since

    def waiting(_: int) -> bool:
        time.sleep(1 + many / 5000)
        return True

    return await waking(port, pid, many, rounds, lambda: request_for("/wait"), go, waiting)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiters", type=int, nargs="*", default=[1, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        token_port, port, other, bare_port = (free_port() for _ in range(4))
        stack.enter_context(running(*PYTHON, "tests.benchmarks.token_server", str(token_port), "0"))
        redis_port = stack.enter_context(running_redis(Path(name), None, *EVERY_SECOND)).port
        wait_for_port(token_port)
        keys, pids = "", []
        for number, mine in enumerate((port, other)):
            folder = Path(name) / str(number)
            (folder / "data").mkdir(parents=True)
            (folder / "data" / "admin.key").write_text(KEY + "\n")
            path = settings(folder, mine, redis_port, token_port)
            often = '[refresh]\nmin_interval = "0s"\nreport_budget = 1000'
            path.write_text(path.read_text().replace("[refresh]", often))
            keys = keys or (folder / "keys").read_text()
            (folder / "keys").write_text(keys)
            pids.append(stack.enter_context(running_broker(path, mine)).pid)
        import_grants(other, KEY, 1)
        time.sleep(1)
        size = len(ask(f"http://127.0.0.1:{port}{PATH}"))
        handlers = stack.enter_context(running(*PYTHON, "tests.benchmarks.bare_poll", str(bare_port), str(size)))
        wait_for_port(bare_port)
        for many in given.waiters:
            if many + 500 > most:
                print(f"{many} waiters: the limit of open files is {most}")
                continue
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                theirs, theirs_each = runner.run(bare(bare_port, handlers.pid, many, given.rounds))
                ours, each = runner.run(brokers(port, other, pids[0], redis_port, many, given.rounds))
            ratios = "  ".join(
                f"{what} {mine:.1f} ({mine / (bare_ or math.nan):.2f}x)"
                for what, mine, bare_ in zip(("p50 ms", "p99 ms", "last ms", "CPU µs"), ours, theirs, strict=True)
            )
            print(f"{many:6} waiters: {ratios}   {each / 1024:.1f} KiB each ({each / theirs_each:.2f}x)", flush=True)


if __name__ == "__main__":
    main()
