"""What a scrape of /metrics costs with a thousand grants and with a million, side by side in one run.

    python -m tests.benchmarks.scrape [--grants 1000 1000000] [--rounds 15]

For each size a Redis and a `token-broker run` of its own, asked in turn: A B A B. A scrape looks at single grants anew
every three seconds at most, so both kinds are told; and since a machine is seldom quiet, beside each median the least,
and the CPU time of broker and Redis. The last size is told as a ratio to the first. A million takes some 1 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.many_grants import HOUR, command, scrape, send
from tests.benchmarks.processes import QUIET, running_broker
from tests.benchmarks.write_path import settings
from tests.ports import free_port
from tests.redis_server import running_redis

AGAIN = 20
"""Scrapes right after one that looked anew."""
PARKED = 100
"""Grants that wait for a person beside them."""


@dataclass(slots=True)
class Side:
    """One size: its processes, and what was measured."""

    grants: int
    url: str
    broker: int
    store: int
    anew: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    cpu_anew: list[float] = field(default_factory=list)
    cpu_again: list[float] = field(default_factory=list)
    size: int = 0

    def spent(self) -> float:
        """CPU milliseconds of broker and Redis so far."""
        threads = [thread for pid in (self.broker, self.store) for thread in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6

    def round(self) -> None:
        """One scrape that looks anew, and some right after."""
        before = self.spent()
        took, self.size = scrape(self.url)
        self.anew.append(took)
        between = self.spent()
        self.again += [scrape(self.url)[0] for _ in range(AGAIN)]
        self.cpu_anew.append(between - before)
        self.cpu_again.append((self.spent() - between) / AGAIN)

    def figures(self) -> tuple[float, ...]:
        """All in ms, as they are headed."""
        return (
            statistics.median(self.anew),
            min(self.anew),
            statistics.median(self.cpu_anew),
            statistics.median(self.again),
            min(self.again),
            statistics.median(self.cpu_again),
        )


def grants(many: int, now: int) -> Iterator[bytes]:
    """*many* grants of one provider, as far as a scrape looks, due within the next ten hours; and the parked ones."""
    for n in range(many + PARKED):
        name, due = f"g{n}", now + HOUR + (n * 7919) % (10 * HOUR)
        state, score = ("due", due) if n < many else ("parked", now)
        yield (
            command(
                "HSET",
                f"broker:{{0}}:grant:{name}",
                "provider",
                "bench",
                "generation",
                now,
                "issued_at",
                now,
                "expires_at",
                due + HOUR,
                "answered_at",
                now,
                "granted_at",
                now,
                "reauthorize_by",
                now + 90 * 24 * HOUR,
                "refresh_at",
                due,
                *(("reason", "reauthorization_required") if state == "parked" else ()),
            )
            + command("ZADD", f"broker:{{0}}:{state}:bench", score, name)
            + command("ZADD", "broker:{0}:ends:bench", due + HOUR, name)
        )


@contextlib.contextmanager
def side(folder: Path, many: int) -> Iterator[Side]:
    """Yield a Redis with *many* grants, and a broker on it."""
    port = free_port()
    with running_redis(folder, None, "--appendonly", "no") as store:
        took = send(store.port, grants(many, int(time.time() * 1000)), 3 * (many + PARKED))
        path = settings(folder, port, store.port, free_port())
        with running_broker(path, port, **QUIET) as broker:
            print(f"{many} grants written in {took:.0f} s", flush=True)
            yield Side(many, f"http://127.0.0.1:{port}", broker.pid, store.process.pid)


def main() -> None:
    """Print the figures of each size, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grants", type=int, nargs=2, default=[1000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        sides = []
        for many in chosen.grants:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tb-scrape-")))
            sides.append(stack.enter_context(side(folder, many)))
        time.sleep(3)
        for one in sides:
            scrape(one.url)
        for number in range(chosen.rounds):
            time.sleep(3.1)
            for one in sides if number % 2 else reversed(sides):
                one.round()
        heads = ("anew: median", "least", "CPU", "right after: median", "least", "CPU")
        print("ms a scrape".rjust(18), *(head.rjust(max(7, len(head))) for head in heads), "    bytes")
        for one in sides:
            print(f"{one.grants:>11} grants", *_cells(heads, one.figures()), f"{one.size:9}")
        print(
            "ratio".rjust(18),
            *_cells(heads, [b / (a or 1) for a, b in zip(*(s.figures() for s in sides), strict=True)]),
        )


def _cells(heads: Sequence[str], figures: Sequence[float]) -> list[str]:
    return [f"{figure:{max(7, len(head))}.2f}" for head, figure in zip(heads, figures, strict=True)]


if __name__ == "__main__":
    main()
