"""Load with as little of its own as possible: one raw request, repeated on kept connections.

`python -m tests.benchmarks.load PORT CONNECTIONS SECONDS [PAUSE] < REQUEST` prints one JSON line: requests per second,
p50, p99 and the slowest in milliseconds, answers by status, and all answers with those before the measuring began. With
a pause (seconds) each connection rests about so long between two requests.
"""

from __future__ import annotations

import asyncio
import collections
import json
import math
import random
import re
import sys
import time
from typing import Any

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """Sends the request, reads the whole answer, and again."""

    def __init__(self, request: bytes, took: list[float], statuses: collections.Counter[str], pause: float) -> None:
        self._request, self._took, self._statuses, self._pause = request, took, statuses, pause
        self._heard = b""
        self._sent_at = 0.0
        self.going = True
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        if not self.going:
            return
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        head = self._heard.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self._heard, 0, head)
        if len(self._heard) < head + 4 + (int(length[1]) if length else 0):
            return
        self._took.append(time.perf_counter() - self._sent_at)
        self._statuses[self._heard[9:12].decode()] += 1
        self._heard = b""
        if self._pause:
            asyncio.get_running_loop().call_later(self._pause * random.uniform(0.5, 1.5), self._send)
        else:
            self._send()


async def load(port: int, connections: int, seconds: float, pause: float, request: bytes) -> dict[str, object]:
    """Repeat a request on so many *connections* for so many *seconds*; return the figures."""
    loop = asyncio.get_running_loop()
    took: list[float] = []
    statuses: collections.Counter[str] = collections.Counter()
    all_of_them = [
        await loop.create_connection(lambda: Connection(request, took, statuses, pause), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds / 4)
    before = len(took)
    took.clear()
    statuses.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    lasted, sample = time.perf_counter() - began, sorted(took)
    for transport, protocol in all_of_them:
        protocol.going = False
        transport.close()
    sample = sample or [math.inf]  # nothing was answered
    return {
        "rps": len(sample) / lasted,
        "p50": sample[len(sample) // 2] * 1000,
        "p99": sample[len(sample) * 99 // 100] * 1000,
        "slowest": sample[-1] * 1000,
        "statuses": statuses,
        "answers": before + len(sample),
    }


if __name__ == "__main__":
    arguments = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float((*sys.argv, "0")[4])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(load(*arguments, sys.stdin.buffer.read()))))
