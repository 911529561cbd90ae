"""What each trick of the two data paths gains: a broker with it and one without it, in turn, in one run.

    python -m tests.benchmarks.tricks [NAME …] [--rounds 9] [--grants 1000] [--seconds 2]

A trick is code that is harder to read than what it replaces and stands there for speed alone. Each is described here
as a change of source text that takes it away; a text that no longer occurs is an error. Real processes, A B A B. What
is printed is the CPU time of a broker without the trick over that of one with it (medians, and the middle half of the
rounds): 1.05 means that the trick saves 5 %. For the write path the time that a burst takes follows. For tricks of the
mixed path it is the p99 of reads while many grants are refreshed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.benchmarks.processes import cpu, running, wait_until_ready
from tests.benchmarks.read_path import load, request_for
from tests.benchmarks.reads_meanwhile import herd, reads
from tests.benchmarks.without import TRICKS
from tests.benchmarks.write_path import all_waiting, import_grants, refresh_all, settings
from tests.ports import free_port
from tests.redis_server import running_redis

PYTHON = [sys.executable, "-m"]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@dataclass(frozen=True)
class Broker:
    """A running broker with grants in it."""

    pid: int
    port: int
    redis_port: int
    key: str


@contextlib.contextmanager
def broker(token_port: int, grants: int, command: list[str]) -> Iterator[Broker]:
    """Start a broker and its Redis, and import grants."""
    with tempfile.TemporaryDirectory(prefix="tb-tricks-") as name, contextlib.ExitStack() as stack:
        folder, port = Path(name), free_port()
        redis_port = stack.enter_context(running_redis(folder)).port
        path = settings(folder, port, redis_port, token_port)
        env = {**os.environ, "PYTHONPATH": "."}
        process = stack.enter_context(running(*PYTHON, *command, "run", "--config", str(path), env=env))
        wait_until_ready(port, process)
        key = (folder / "data" / "admin.key").read_text().strip()
        import_grants(port, key, grants)
        client = redis.Redis(port=redis_port)
        while not all_waiting(client, grants):
            time.sleep(0.05)
        yield Broker(process.pid, port, redis_port, key)


def write_cost(at: Broker, grants: int) -> tuple[float, float]:
    """Return the CPU seconds that refreshing every grant once takes, and the seconds."""
    before = cpu(at.pid)
    took = refresh_all(redis.Redis(port=at.redis_port), grants, at.port, at.key)
    return cpu(at.pid) - before, took


def read_cost(at: Broker, seconds: float) -> float:
    """Return the CPU seconds that one read takes."""
    asked = request_for("/v1/grants/g0/token", f"Authorization: Bearer {at.key}")
    return load(at.pid, at.port, asked, seconds).cpu


def herd_p99(at: Broker, grants: int, seconds: float) -> tuple[float, float]:
    """Return the p99 (ms) of reads while all grants are refreshed again and again, and without that."""
    asked = request_for("/v1/grants/g0/token", f"X-Broker-Key: {at.key}")
    quiet = reads(at.port, asked, seconds)[1]
    with herd(at.redis_port, at.port, at.key, grants):
        return reads(at.port, asked, seconds)[1], quiet


def measure(name: str, rounds: int, grants: int, seconds: float) -> None:
    """Print what one trick gains."""
    trick, token_port = TRICKS[name], free_port()
    server = [*PYTHON, "tests.benchmarks.token_server", str(token_port), str(trick.latency_ms)]
    without = ["tests.benchmarks.without", name]
    with (
        running(*server),
        broker(token_port, grants, ["broker"]) as one,
        broker(token_port, grants, without) as other,
    ):
        pairs: list[tuple[float, float]] = []
        beside: list[tuple[float, float]] = []
        for _ in range(rounds):
            match trick.path:
                case "write":
                    ours, theirs = write_cost(one, grants), write_cost(other, grants)
                    pairs.append((ours[0], theirs[0]))
                    beside.append((ours[1], theirs[1]))
                case "read":
                    pairs.append((read_cost(one, seconds), read_cost(other, seconds)))
                case "mixed":
                    ours, theirs = herd_p99(one, grants, seconds), herd_p99(other, grants, seconds)
                    pairs.append((ours[0], theirs[0]))
                    beside.append((ours[1], theirs[1]))
    line = f"{name:20} {_ratios(pairs)}"
    if trick.path == "write":
        line += f"; time {_ratios(beside)}"
    if trick.path == "mixed":
        calm = statistics.median(itertools.chain.from_iterable(beside))
        with_it, without_it = (statistics.median(column) / calm for column in zip(*pairs, strict=True))
        line += f"; p99 of quiet reads: {with_it:.2f}x with it, {without_it:.2f}x without it"
    print(line, flush=True)


def _ratios(pairs: list[tuple[float, float]]) -> str:
    ratios = sorted(theirs / ours for ours, theirs in pairs)
    quarter = len(ratios) // 4
    return f"{statistics.median(ratios):5.2f}x ({ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f})"


def main() -> None:
    """Measure the tricks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TRICKS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--grants", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    for name in given.names or TRICKS:
        measure(name, given.rounds, given.grants, given.seconds)


if __name__ == "__main__":
    main()
