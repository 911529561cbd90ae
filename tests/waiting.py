"""Waiting for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any


async def until(true: Callable[[], Any | Awaitable[Any]], timeout: float = 20.0, every: float = 0.02) -> Any:
    """Return the first truthy value of *true*; an AssertionError after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = true()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s"
        await asyncio.sleep(every)


@contextlib.asynccontextmanager
async def meanwhile(work: Callable[[], Awaitable[Any]], every: float) -> AsyncIterator[None]:
    """Do *work* again and again, *every* so many seconds, while the body runs.

    It is asked to end, not cancelled: Python 3.11's `wait_for`, which redis-py awaits, can lose a cancellation.
    """
    over = asyncio.Event()

    async def repeat() -> None:
        while not over.is_set():
            await work()
            await asyncio.sleep(every)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        over.set()
        await task
