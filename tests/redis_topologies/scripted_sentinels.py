"""Sentinels that name what a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial


@contextlib.asynccontextmanager
async def naming(ports: list[int]) -> AsyncIterator[str]:
    """Yield a URL of scripted Sentinels; each names the port at its place in *ports* (0: silent), which may change."""

    async def serve(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while data := await reader.read(4096):
                if not ports[number]:
                    continue
                port = str(ports[number]).encode()
                named = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(port), port)
                writer.write(named if b"SENTINEL" in data else b"+OK\r\n")
        writer.close()

    async with contextlib.AsyncExitStack() as stack:
        hosts = []
        for number in range(len(ports)):
            server = await asyncio.start_server(partial(serve, number), "127.0.0.1")
            stack.callback(server.close)
            hosts.append(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        yield f"redis+sentinel://{','.join(hosts)}/main"
