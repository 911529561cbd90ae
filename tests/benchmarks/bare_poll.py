"""What long polls are measured against: aiohttp handlers that wait for one event, and answer a body of that size.

`python -m tests.benchmarks.bare_poll PORT BYTES`: `GET /wait` waits, `POST /go` lets all of them go.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web


async def serve(port: int, size: int) -> None:
    """Answer until ended."""
    body = b'{"access_token": "' + b"x" * (size - 20) + b'"}'
    event = asyncio.Event()

    async def wait(_request: web.Request) -> web.Response:
        await event.wait()
        return web.Response(body=body, content_type="application/json")

    async def go(_request: web.Request) -> web.Response:
        nonlocal event
        event.set()
        event = asyncio.Event()
        return web.Response()

    application = web.Application()
    application.router.add_get("/wait", wait)
    application.router.add_post("/go", go)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as event_loop:
        event_loop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
