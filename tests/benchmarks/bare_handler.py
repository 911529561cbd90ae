"""What the read path is measured against: an aiohttp application with one routed handler and a body of that size.

`python -m tests.benchmarks.bare_handler PORT BYTES`
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web


async def serve(port: int, size: int) -> None:
    """Answer `/v1/grants/{id}/token` until ended."""
    body = b'{"access_token": "' + b"x" * (size - 20) + b'"}'

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    application = web.Application()
    application.router.add_get("/v1/grants/{id}/token", handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as event_loop:
        event_loop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
