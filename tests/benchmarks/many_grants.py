"""What no grant, a thousand and a million cost: starting, an idle broker and its memory, a scrape of /metrics, a claim.

    python -m tests.benchmarks.many_grants [--grants 0 1000 1000000]

Real processes: a Redis with the deployed encoding and `token-broker run`. The grants are written past the broker, whole
and sealed, due in the hours to come, so that nothing is refreshed meanwhile. A million takes some 2 GB and two minutes.

The wheel's server has its memory from the C library, the servers of Debian and of the official images from jemalloc,
which is what a claim among a million pays for (`BROKER_TEST_REDIS_SERVER=/usr/bin/redis-server` measures one of those).
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import redis

from broker.secret import Sealer, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import open_store
from broker.store.attempts import KEPT, entry
from tests.benchmarks.processes import QUIET, cpu, running_broker
from tests.benchmarks.write_path import settings
from tests.ports import free_port
from tests.redis_server import running_redis

BATCH = 2000
HOUR = 3_600_000
IDLE = 20.0


def command(*words: str | bytes | int) -> bytes:
    """Return a command as Redis reads it."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def grants(many: int, sealer: Sealer, now: int) -> Iterator[bytes]:
    """*many* grants of one provider, half an hour old, due within the next ten hours, each with all its attempts."""
    tried = ["kept\t" + entry("refreshed", now - ago * HOUR, now, "broker-7f9c4d:1") for ago in reversed(range(KEPT))]
    for n in range(many):
        name, due = f"g{n}", now + HOUR + (n * 7919) % (10 * HOUR)
        yield (
            command(
                "HSET",
                f"broker:{{0}}:grant:{name}",
                "provider",
                "bench",
                "generation",
                now,
                "access_token",
                sealer.seal("a" * 40, name, "access_token"),
                "token_type",
                "Bearer",
                "issued_at",
                now - HOUR // 2,
                "expires_at",
                due + HOUR,
                "extra",
                sealer.seal("{}", name, "extra"),
                "refresh_token",
                sealer.seal("r" * 40, name, "refresh_token"),
                "granted_at",
                now,
                "refresh_at",
                due,
                "answered_at",
                now,
                "last_outcome",
                "refreshed",
                "last_detail",
                "",
                "last_at",
                now,
                "committed",
                "0123456789abcdef01234567-1",
            )
            + command("RPUSH", f"broker:{{0}}:attempts:{name}", *tried)
            + command("ZADD", "broker:{0}:due:bench", due, name)
            + command("ZADD", "broker:{0}:ends:bench", due + HOUR, name)
        )


def fill(port: int, many: int, sealer: Sealer, now: int) -> float:
    """Write them all; seconds that took."""
    return send(port, grants(many, sealer, now), 4 * many)


def send(port: int, commands: Iterable[bytes], replies: int) -> float:
    """Send *commands* and take as many *replies*; seconds that took."""
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        answered = threading.Thread(target=_drain, args=(connection, replies))
        answered.start()
        batch: list[bytes] = []
        for made in commands:
            batch.append(made)
            if len(batch) == BATCH:
                connection.sendall(b"".join(batch))
                batch.clear()
        connection.sendall(b"".join(batch))
        answered.join()
    return time.perf_counter() - started


def _drain(connection: socket.socket, replies: int) -> None:
    while replies > 0:
        received = connection.recv(1 << 20)
        assert b"-" not in received, received[:200]
        replies -= received.count(b"\n")


def resident(pid: int) -> float:
    """Memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def scrape(url: str) -> tuple[float, int]:
    """Milliseconds of one scrape, and its bytes."""
    started = time.perf_counter()
    with urllib.request.urlopen(url + "/metrics") as answer:
        size = len(answer.read())
    return (time.perf_counter() - started) * 1000, size


def scrapes(url: str) -> str:
    """Scrapes that look at single grants anew, and scrapes right after."""
    scrape(url)
    anew, again, size = [], [], 0
    for _ in range(5):
        time.sleep(3.1)
        took, size = scrape(url)
        anew.append(took)
        again += [scrape(url)[0] for _ in range(4)]
    return f"{statistics.median(anew):.1f} ms looking anew, {statistics.median(again):.1f} ms right after, {size} bytes"


async def claims(folder: Path, port: int, sealer: Sealer) -> str:
    """Return how long a claim of nothing takes, and one that leases 32: medians of 30, never of the same grants."""
    client = redis.Redis(port=port)
    figures, name = [], 0
    async with open_store(RedisSettings(url=f"redis://127.0.0.1:{port}/0"), sealer, data_dir=folder) as store:
        await store.identify()
        store.schedule.replayed_after = int(client.hget("broker:{0}:epoch", "open_at") or 0)
        for words, due in (("nothing due", 0), ("32 due", 32)):
            server, whole = [], []
            for _ in range(30):
                names = {f"g{name + i}": 1 for i in range(due)}
                name += due
                if names:
                    client.zadd("broker:{0}:due:bench", names, xx=True)
                client.config_resetstat()
                began = time.perf_counter()
                claimed = await store.schedule.claim("bench", 32, 120_000)
                whole.append((time.perf_counter() - began) * 1e6)
                assert len(claimed.claims) == due, claimed
                stats: Any = client.info("commandstats")
                server.append(stats["cmdstat_evalsha"]["usec_per_call"])
            figures.append(f"{words} {statistics.median(server):.0f} of {statistics.median(whole):.0f}")
    return ", ".join(figures)


def measure(many: int) -> None:
    """Print the figures of *many* grants."""
    folder = Path(tempfile.mkdtemp(prefix="tb-many-"))
    port = free_port()
    try:
        with running_redis(folder, None, "--appendonly", "no", "--hash-max-listpack-value", "256") as store:
            redis_port = store.port
            path = settings(folder, port, redis_port, free_port())
            sealer = Sealer(parse_sealing_keys((folder / "keys").read_text()))
            sealer.binds = True
            client = redis.Redis(port=redis_port)
            empty = client.info("memory")["used_memory"]
            filled = fill(redis_port, many, sealer, int(time.time() * 1000))
            each = (client.info("memory")["used_memory"] - empty) / max(many, 1)
            encoding = (client.object("encoding", "broker:{0}:grant:g0") or b"").decode()
            print(f"{many} grants: written in {filled:.0f} s, {each:.0f} bytes each in Redis ({encoding})")
            began, url = time.perf_counter(), f"http://127.0.0.1:{port}"
            with running_broker(path, port, **QUIET) as process:
                took, spent_on_it = time.perf_counter() - began, cpu(process.pid)
                print(f"  start: {took:.2f} s until ready, {spent_on_it:.2f} s of CPU")
                time.sleep(3)
                before, at = (cpu(process.pid), cpu(store.process.pid)), time.monotonic()
                time.sleep(IDLE)
                lasted = time.monotonic() - at
                busy = [100 * (cpu(p.pid) - b) / lasted for p, b in zip((process, store.process), before, strict=True)]
                print(f"  idle CPU of one core: broker {busy[0]:.2f} %, Redis {busy[1]:.2f} %")
                print(f"  memory of the broker: {resident(process.pid):.0f} MiB")
                print(f"  scrape: {scrapes(url)}")
            if many:
                spent = asyncio.run(claims(folder, redis_port, sealer))
                print(f"  claim, us of the server, of the whole: {spent}")
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Print the figures of each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grants", type=int, nargs="*", default=[0, 1000, 1_000_000])
    for many in parser.parse_args().grants:
        measure(many)


if __name__ == "__main__":
    main()
