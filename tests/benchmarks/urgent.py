"""What a page of the most urgent grants, the verdict, `status`, the counts and a scrape cost, with 1,000 grants and 1M.

    python -m tests.benchmarks.urgent [--grants 1000 1000000] [--rounds 9]

For each size a Redis and a `token-broker run` of its own, asked in turn. One grant in a hundred has no valid token. The
last page is one among the healthy grants. With `--build` the index is missing at first, as after an upgrade, and the
time until it is complete is measured. A million takes some 2 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from broker.secret import Sealer, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import open_store
from tests.benchmarks.many_grants import HOUR, command, fill, scrape, send
from tests.benchmarks.processes import QUIET, running_broker
from tests.benchmarks.write_path import settings
from tests.ports import free_port
from tests.redis_server import running_redis

ENDS = "broker:{0}:ends:bench"


def ended(many: int, now: int) -> Iterator[bytes]:
    """Have the token of one grant in a hundred end in the past."""
    for n in range(0, many, 100):
        at = now - HOUR - n
        yield command("HSET", f"broker:{{0}}:grant:g{n}", "expires_at", at) + command("ZADD", ENDS, at, f"g{n}")


def page(url: str, key: str, cursor: str = "") -> tuple[float, str]:
    """Milliseconds of one page of a hundred grants, and the cursor to the next."""
    asked = url + "/v1/grants?order=urgent&limit=100" + (f"&cursor={cursor}" if cursor else "")
    started = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(asked, headers={"X-Broker-Key": key})) as answer:
        body = json.loads(answer.read())
    assert body["grants"], body
    return (time.perf_counter() - started) * 1000, body["next"] or ""


def deep(url: str, key: str, many: int) -> str:
    """Return the cursor of a page among the healthy grants."""
    cursor = ""
    for _ in range(many // 10_000 + 2):
        cursor = page(url, key, cursor)[1] or cursor
    return cursor


def verdict(url: str, key: str) -> float:
    """Milliseconds of `GET /v1/verdict`."""
    started = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(url + "/v1/verdict", headers={"X-Broker-Key": key})) as answer:
        assert json.loads(answer.read())["unserved"]
    return (time.perf_counter() - started) * 1000


def status(url: str, key: str) -> float:
    """Milliseconds of the command `token-broker status`, the start of its process included."""
    command = [str(Path(sys.executable).with_name("token-broker")), "status", "--url", url]
    started = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, "TOKEN_BROKER_KEY": key}, capture_output=True, check=False)
    took = (time.perf_counter() - started) * 1000
    assert b"no valid token" in done.stdout, done
    return took


async def counts(folder: Path, port: int, sealer: Sealer, rounds: int) -> float:
    """Microseconds of the server for the counts of one provider, the median."""
    client = redis.Redis(port=port)
    spent: list[float] = []
    async with open_store(RedisSettings(url=f"redis://127.0.0.1:{port}/0"), sealer, data_dir=folder) as store:
        await store.identify()
        for _ in range(rounds):
            client.config_resetstat()
            await store.urgency.counts(["bench"])
            stats: Any = client.info("commandstats")
            spent.append(float(stats["cmdstat_evalsha"]["usec_per_call"]))
    return statistics.median(spent)


def medians(rounds: int, **works: Callable[[], float]) -> str:
    """Run each in turn; return its median and its least, in ms."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(work())
    return ", ".join(f"{name} {statistics.median(each):.1f} (least {min(each):.1f})" for name, each in found.items())


def measure(many: int, rounds: int, *, build: bool) -> None:
    """Print the figures of *many* grants."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tb-urgent-")))
        options = ("--appendonly", "no", "--hash-max-listpack-value", "256")
        store = stack.enter_context(running_redis(folder, None, *options))
        path = settings(folder, port, store.port, free_port())
        sealer, now = Sealer(parse_sealing_keys((folder / "keys").read_text())), int(time.time() * 1000)
        fill(store.port, many, sealer, now)
        send(store.port, ended(many, now), 2 * -(-many // 100))
        client = redis.Redis(port=store.port)
        client.zadd("broker:{0}:subjects:index", {"index": now + 10 * HOUR})  # no walk until it is measured
        with running_broker(path, port, **QUIET):
            key, url = (folder / "data" / "admin.key").read_text().strip(), f"http://127.0.0.1:{port}"
            cursor = deep(url, key, many)
            print(f"{many} grants, ms of the whole request of 100 rows:", end=" ", flush=True)
            print(
                medians(
                    rounds,
                    first=lambda: page(url, key)[0],
                    healthy=lambda: page(url, key, cursor)[0],
                    verdict=lambda: verdict(url, key),
                    scrape=lambda: scrape(url)[0],
                    status=lambda: status(url, key),
                )
            )
            print(f"  counts: {asyncio.run(counts(folder, store.port, sealer, rounds)):.0f} us of the server")
            if build:
                client.delete(ENDS)
                client.hdel("broker:{0}:meta", "indexed")
                client.hset("broker:{0}:meta", "provider:bench", 1)
                client.zadd("broker:{0}:subjects:index", {"index": 0})
                began = time.perf_counter()
                while not client.hexists("broker:{0}:meta", "indexed"):
                    time.sleep(0.05)
                assert client.zcard(ENDS) == many
                print(f"  index built anew in {time.perf_counter() - began:.1f} s")


def main() -> None:
    """Print the figures of each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grants", type=int, nargs="*", default=[1000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--build", action="store_true")
    chosen = parser.parse_args()
    for many in chosen.grants:
        measure(many, chosen.rounds, build=chosen.build)


if __name__ == "__main__":
    main()
