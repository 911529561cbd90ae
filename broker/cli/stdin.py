"""Reading of files, pipes and terminals without blocking the event loop, and without keeping Ctrl-C waiting."""

from __future__ import annotations

import asyncio
import os
import threading

STDIN = 0
CHUNK = 64 * 1024
"""Bytes that one read takes at most."""


async def read_chunk(descriptor: int) -> bytes:
    """Return the next bytes of a file, a pipe or a terminal, at most `CHUNK`; none at its end.

    A daemon thread reads, and may be left behind: at Ctrl-C the interpreter would wait for a thread of
    `asyncio.to_thread`, and that thread for the next line.
    """
    loop = asyncio.get_running_loop()
    received: asyncio.Future[bytes] = loop.create_future()

    def deliver(chunk: bytes) -> None:
        if not received.done():
            received.set_result(chunk)

    def read() -> None:
        try:
            chunk = os.read(descriptor, CHUNK)
        except OSError:
            chunk = b""
        try:
            loop.call_soon_threadsafe(deliver, chunk)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    threading.Thread(target=read, daemon=True).start()
    return await received
