"""Whether callers wait longer for a token in memory while much is refreshed, or while a provider hangs.

    python -m tests.benchmarks.reads_meanwhile [--rounds 5] [--seconds 3] [--grants 2000]

Real processes: two token endpoints (one answers after 20 ms, the other never), a Redis with appendfsync always and
`token-broker run`. Callers come on 40 kept connections, some 1300 reads a second. A B C A B C, medians of p50 and p99;
what is printed are ratios to the quiet broker of the same round (1.0: as quick).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.benchmarks.processes import PYTHON, QUIET, running, running_broker, wait_for_port
from tests.benchmarks.read_path import request_for
from tests.benchmarks.write_path import import_grants, refresh_all, settings
from tests.ports import free_port
from tests.redis_server import running_redis

CONNECTIONS, PAUSE = 40, 0.03
HUNG = 500
"""Grants of the provider that hangs."""


def reads(port: int, request: bytes, seconds: float) -> tuple[float, float]:
    """p50 and p99 (ms); every answer must be 200."""
    command = [*PYTHON, "tests.benchmarks.load", str(port), str(CONNECTIONS), str(seconds), str(PAUSE)]
    done = subprocess.run(command, input=request, stdout=subprocess.PIPE, check=True)
    figures = json.loads(done.stdout)
    assert list(figures["statuses"]) == ["200"], figures["statuses"]
    return figures["p50"], figures["p99"]


@contextlib.contextmanager
def herd(redis_port: int, port: int, key: str, many: int) -> Iterator[list[int]]:
    """All grants fall due at once, again and again; how often they did."""
    over, rounds = threading.Event(), [0]

    def go_on() -> None:
        client = redis.Redis(port=redis_port)
        while not over.is_set():
            refresh_all(client, many, port, key)
            rounds[0] += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield rounds
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def hanging(redis_port: int) -> Iterator[None]:
    """Grants of a provider that takes requests and never answers are due all the time."""
    client = redis.Redis(port=redis_port)
    names = [f"h{n}" for n in range(HUNG)]
    for name in names:
        client.zrem("broker:{0}:parked:hung", name)
    client.zadd("broker:{0}:due:hung", dict.fromkeys(names, 1.0))
    time.sleep(2)  # the lane has found them
    yield
    client.zadd("broker:{0}:due:hung", dict.fromkeys(names, (time.time() + 3600) * 1000), xx=True)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--grants", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        token_port, hung_port, port = (free_port() for _ in range(3))
        stack.enter_context(running(*PYTHON, "tests.benchmarks.token_server", str(token_port), "20"))
        stack.enter_context(running(*PYTHON, "tests.benchmarks.token_server", str(hung_port), "3600000"))
        redis_port = stack.enter_context(running_redis(folder)).port
        for each in (token_port, hung_port):
            wait_for_port(each)
        path = settings(folder, port, redis_port, token_port)
        bench = path.read_text().partition("[providers.bench]\n")[2]
        path.write_text(path.read_text() + "[providers.hung]\n" + bench.replace(f":{token_port}/", f":{hung_port}/"))
        stack.enter_context(running_broker(path, port, **QUIET))
        key = (folder / "data" / "admin.key").read_text().strip()
        import_grants(port, key, given.grants)
        import_grants(port, key, HUNG, provider="hung", prefix="h")
        client = redis.Redis(port=redis_port)
        while client.zcount("broker:{0}:due:bench", time.time() * 1000 + 60_000, "+inf") < given.grants:
            time.sleep(0.1)
        request = request_for("/v1/grants/g0/token", f"X-Broker-Key: {key}")
        figures: dict[str, list[tuple[float, float]]] = {"while many are refreshed": [], "while a provider hangs": []}
        refreshed = 0.0
        for _ in range(given.rounds):
            alone = reads(port, request, given.seconds)
            began = time.perf_counter()
            with herd(redis_port, port, key, given.grants) as rounds:
                amid = reads(port, request, given.seconds)
            refreshed += rounds[0] * given.grants / (time.perf_counter() - began) / given.rounds
            with hanging(redis_port):
                hung = reads(port, request, given.seconds)
            for what, measured in zip(figures, (amid, hung), strict=True):
                figures[what].append((measured[0] / alone[0], measured[1] / alone[1]))
            print(f"  p50, p99 ms: quiet {alone}, herd {amid}, hanging {hung}", flush=True)
        for what, ratios in figures.items():
            p50, p99 = (statistics.median(column) for column in zip(*ratios, strict=True))
            print(f"{what:25} {p50:5.2f}x p50   {p99:5.2f}x p99")
        print(f"meanwhile {refreshed:.0f} grants/s were refreshed")


if __name__ == "__main__":
    main()
