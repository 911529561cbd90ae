"""How fast overdue grants are refreshed, against a bare client loop of the same POST, in one run.

    python -m tests.benchmarks.write_path [--grants 2000] [--rounds 5]

Real processes: a token endpoint that costs next to nothing, a Redis with appendfsync always, and `token-broker run`
with journal and WAITAOF on. A B A B, medians; what is printed are ratios (1.0: as fast as the bare loop)
and, since a machine is seldom quiet, CPU time for each grant: of the loop, of the broker and of Redis.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import redis

from broker.secret import new_sealing_key
from tests.benchmarks.processes import PYTHON, cpu, running, running_broker, wait_for_port
from tests.ports import free_port
from tests.redis_server import running_redis

IN_FLIGHT = 32
DUE = "broker:{0}:due:bench"


def settings(folder: Path, port: int, redis_port: int, token_port: int) -> Path:
    """Return the broker's settings."""
    (folder / "keys").write_text(new_sealing_key() + "\n")
    path = folder / "broker.toml"
    path.write_text(f"""
data_dir = "{folder}/data"
[http]
listen = ["127.0.0.1:{port}"]
public_url = "http://127.0.0.1:{port}"
drain_delay = "0s"
[redis]
url = "redis://127.0.0.1:{redis_port}/0"
[sealing]
keys_file = "{folder}/keys"
[log]
level = "warning"
[refresh]
import_spread = "1ms"
[providers.bench]
kind = "oauth2"
client_id = "client"
client_secret = "secret-of-the-client"
token_endpoint = "http://127.0.0.1:{token_port}/token"
""")
    return path


def import_grants(port: int, key: str, many: int, *, provider: str = "bench", prefix: str = "g") -> None:
    """Import, and wait for the first tokens."""
    lines = [
        json.dumps({"grant_id": f"{prefix}{n}", "provider": provider, "refresh_token": f"first-{prefix}{n}"})
        for n in range(many)
    ]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/import", "\n".join(lines).encode(), {"X-Broker-Key": key}, method="POST"
    )
    with urllib.request.urlopen(request) as answer:
        others = [line for line in answer.read().decode().splitlines() if '"created"' not in line]
    assert not others, others[:3]


def all_waiting(client: redis.Redis, many: int) -> bool:
    """Whether every grant waits for a due time to come."""
    return client.zcount(DUE, time.time() * 1000 + 60_000, "+inf") == many


def refresh_all(client: redis.Redis, many: int, port: int, key: str) -> float:
    """Seconds until every grant, made due at once, is refreshed and stored."""
    due = {f"g{n}": time.time() * 1000 for n in range(many)}
    client.zadd(DUE, due, xx=True)
    started = time.perf_counter()
    wake = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/providers/bench/retry", headers={"X-Broker-Key": key}, method="POST"
    )
    urllib.request.urlopen(wake).close()  # the scores were moved behind its back
    while not all_waiting(client, many):
        time.sleep(0.005)
    return time.perf_counter() - started


@dataclass(frozen=True)
class Run:
    """One time through all the grants: seconds, and CPU seconds of whoever asked, and of Redis."""

    took: float
    cpu: float
    store_cpu: float = 0.0


def compare(folder: Path, many: int, rounds: int, latency_ms: float) -> tuple[list[Run], list[Run]]:
    """Run the bare loop and the broker in turn; return what each took."""
    token_port, port = free_port(), free_port()
    with (
        running(*PYTHON, "tests.benchmarks.token_server", str(token_port), str(latency_ms)),
        running_redis(folder) as store,
    ):
        wait_for_port(token_port)
        path = settings(folder, port, store.port, token_port)
        client = redis.Redis(port=store.port)
        bare, ours = [], []
        with running_broker(path, port) as broker:
            key = (folder / "data" / "admin.key").read_text().strip()
            import_grants(port, key, many)
            while not all_waiting(client, many):
                time.sleep(0.05)
            for _ in range(rounds):
                url = f"http://127.0.0.1:{token_port}/token"
                done = subprocess.run(
                    [*PYTHON, "tests.benchmarks.bare_client", url, str(many), str(IN_FLIGHT)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                bare.append(Run(*map(float, done.stdout.split())))
                before = cpu(broker.pid), cpu(store.process.pid)
                took = refresh_all(client, many, port, key)
                ours.append(Run(took, cpu(broker.pid) - before[0], cpu(store.process.pid) - before[1]))
        return bare, ours


def median(runs: list[Run], figure: Literal["took", "cpu", "store_cpu"]) -> float:
    """Of one figure."""
    values: list[float] = [getattr(run, figure) for run in runs]
    return statistics.median(values)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grants", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", type=float, nargs="*", default=[0, 50])
    asked = parser.parse_args()
    for latency in asked.latency:
        folder = Path(tempfile.mkdtemp(prefix="tb-bench-"))
        try:
            bare, ours = compare(folder, asked.grants, asked.rounds, latency)
        finally:
            shutil.rmtree(folder)
        print(
            f"write path, {latency:g} ms server latency, {IN_FLIGHT} in flight, {asked.grants} grants: "
            f"{median(bare, 'took') / median(ours, 'took'):.2f}x of a bare client loop "
            f"({median(bare, 'took'):.2f} s against {median(ours, 'took'):.2f} s)"
        )
        each = [
            1e6 * spent / asked.grants
            for spent in (median(bare, "cpu"), median(ours, "cpu"), median(ours, "store_cpu"))
        ]
        print("  CPU for each grant: bare loop {:.0f} us, broker {:.0f} us, Redis {:.0f} us".format(*each))


if __name__ == "__main__":
    main()
