"""Ask for /healthz every 10 ms on one connection until standard input ends.

`python -m tests.benchmarks.ask_health PORT` prints one JSON line: median and slowest (ms), and by how much this process
itself woke too late at most (ms), which is the machine's share.
"""

from __future__ import annotations

import http.client
import json
import select
import statistics
import sys
import time

PAUSE = 0.01


def main() -> None:
    """Ask, and print the figures."""
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    took, late = [], [0.0]
    while True:
        paused = time.perf_counter()
        if select.select([sys.stdin], [], [], PAUSE)[0]:
            break
        began = time.perf_counter()
        late.append(began - paused - PAUSE)
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        took.append(time.perf_counter() - began)
    figures = {"median": statistics.median(took), "slowest": max(took), "late": max(late)}
    print(json.dumps({name: 1000 * seconds for name, seconds in figures.items()}))


if __name__ == "__main__":
    main()
