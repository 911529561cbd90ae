"""What the write path is measured against: a bare aiohttp loop of the same POST.

`python -m tests.benchmarks.bare_client URL HOW_MANY IN_FLIGHT` prints the seconds it took, and its own CPU seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp
import uvloop


async def post_all(url: str, many: int, in_flight: int) -> tuple[float, float]:
    """Seconds, and CPU seconds, for *many* refresh requests with *in_flight* at a time; each answer is parsed."""
    left = iter(range(many))
    auth = aiohttp.BasicAuth("client", "secret-of-the-client")

    async def work(session: aiohttp.ClientSession) -> None:
        for number in left:
            form = {"grant_type": "refresh_token", "refresh_token": f"refresh-{number:032}"}
            async with session.post(url, data=form, auth=auth) as answer:
                assert (await answer.json())["refresh_token"]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started, spent = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(work(session))
        return time.perf_counter() - started, time.process_time() - spent


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(*runner.run(post_all(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
