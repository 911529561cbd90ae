"""What requests that are made to be expensive cost everybody else, kind by kind, on both listeners.

    python -m tests.benchmarks.attack [--seconds 20] [--megabytes 20] [--kind PART]

Real processes: a token endpoint, a Redis with appendfsync always, and `token-broker run` with `http.public_listen`. For
each kind in `tests/attacks/kinds.py`, four attackers send it to every route of both listeners, with a key and without,
for so many seconds and at most so many megabytes. Meanwhile 20 connections read a token, and grants fall due all the
time. One kind that is not sent at all is the quiet broker. The table shows the reads of others, and how many token
requests ended in an unknown outcome: there must be none, since each of those presents a refresh token twice. `starved`
is for how long the broker waited for a CPU: on a machine that has other work the reads say more about that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import redis
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.attacks.kinds import KINDS, MEGABYTE, Kind, Target, public_targets, targets
from tests.attacks.links import send
from tests.benchmarks.processes import PYTHON, QUIET, cpu, running, running_broker, wait_for_port, waited
from tests.benchmarks.read_path import request_for
from tests.benchmarks.write_path import DUE, import_grants, settings
from tests.ports import free_port
from tests.redis_server import running_redis

ATTACKERS, CONNECTIONS, PAUSE, GRANTS, DUE_EVERY = 4, 20, 0.03, 200, 0.02
WAIT = 1.5
"""Seconds that an attacker waits for the end of one connection."""


@dataclass(slots=True)
class Attack:
    """Attackers that share what they may send."""

    kind: Kind
    targets: list[tuple[int, Target]]
    seconds: float
    limit: int
    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)

    def run(self) -> None:
        """Send until the time is over, at an even pace."""
        began = time.monotonic()
        order = itertools.cycle(random.sample(self.targets, len(self.targets)))
        while (passed := time.monotonic() - began) < self.seconds:
            if self.sent > self.limit * passed / self.seconds:
                time.sleep(0.005)
                continue
            port, target = next(order)
            with suppress(OSError):
                heard = send(port, self.kind(target), WAIT, patient=False)
                self.sent += heard.sent
                self.statuses.update(heard.statuses[:1])


@dataclass(slots=True)
class Ground:
    """A running broker, and what to look at."""

    port: int
    key: str
    request: bytes
    pid: int

    def unknown(self) -> int:
        """Return how many token requests had an unknown outcome so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            int(float(line.split()[-1])) for line in lines if "_refreshes_total{" in line and '"unknown"' in line
        )

    def reads(self, seconds: float) -> subprocess.Popen[bytes]:
        """Begin to read a token by a process of its own."""
        command = [*PYTHON, "tests.benchmarks.load", str(self.port), str(CONNECTIONS), str(seconds), str(PAUSE)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(self.request)
        process.stdin.close()
        process.stdin = None
        return process


def falling_due(redis_port: int, over: threading.Event) -> None:
    """Make one grant after the other due."""
    client, number = redis.Redis(port=redis_port), 0
    while not over.wait(DUE_EVERY):
        number = (number + 1) % GRANTS
        client.zadd(DUE, {f"g{number}": time.time() * 1000}, xx=True)


def attack(ground: Ground, attack_: Attack | None, seconds: float) -> list[str]:
    """Attack while others read; return a line of the table."""
    before, spent, starved = ground.unknown(), cpu(ground.pid), waited(ground.pid)
    reading = ground.reads(seconds * 0.8)  # it begins with a quarter of that, which it does not count
    threads = [threading.Thread(target=attack_.run) for _ in range(ATTACKERS)] if attack_ else []
    for thread in threads:
        thread.start()
    printed, _ = reading.communicate()
    for thread in threads:
        thread.join()
    figures = json.loads(printed)
    sent = attack_.sent / MEGABYTE if attack_ else 0.0
    answers = " ".join(f"{status}:{many}" for status, many in sorted(attack_.statuses.items())) if attack_ else ""
    bad = sum(many for status, many in figures["statuses"].items() if status != "200")
    return [
        f"{sent:.1f}",
        f"{figures['p50']:.1f}",
        f"{figures['p99']:.1f}",
        f"{figures.get('slowest', 0):.0f}",
        str(bad),
        str(ground.unknown() - before),
        f"{cpu(ground.pid) - spent:.1f}",
        f"{waited(ground.pid) - starved:.1f}",
        answers,
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--kind", default="", help="only kinds whose name contains this")
    given = parser.parse_args()
    kinds: dict[str, Kind | None] = {"(none)": None, **{k: v for k, v in KINDS.items() if given.kind in k}}
    table = Table(
        "kind", "MB sent", "p50 ms", "p99 ms", "slowest", "not 200", "unknown", "CPU s", "starved s", "answers"
    )
    with tempfile.TemporaryDirectory(prefix="tb-attack-") as name, ExitStack() as stack, Progress() as progress:
        doing = progress.add_task("attacks", total=len(kinds))
        folder = Path(name)
        token_port, port, public_port = free_port(), free_port(), free_port()
        stack.enter_context(running(*PYTHON, "tests.benchmarks.token_server", str(token_port), "20"))
        redis_port = stack.enter_context(running_redis(folder)).port
        wait_for_port(token_port)
        path = settings(folder, port, redis_port, token_port)
        public = f'[http]\npublic_listen = ["127.0.0.1:{public_port}"]'
        path.write_text(path.read_text().replace("[http]", public))
        broker = stack.enter_context(running_broker(path, port, **QUIET))
        key = (folder / "data" / "admin.key").read_text().strip()
        import_grants(port, key, GRANTS)
        over = threading.Event()
        aging = threading.Thread(target=falling_due, args=(redis_port, over))
        aging.start()
        request = request_for("/v1/grants/g0/token", f"X-Broker-Key: {key}")
        ground = Ground(port, key, request, broker.pid)
        time.sleep(1)
        everywhere = [(port, each) for each in targets(key)] + [(public_port, each) for each in public_targets() * 3]
        for what, kind in kinds.items():
            progress.update(doing, description=what)
            limit = int(given.megabytes * MEGABYTE)
            table.add_row(what, *attack(ground, kind and Attack(kind, everywhere, given.seconds, limit), given.seconds))
            progress.advance(doing)
        over.set()
        aging.join()
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
