"""Waiting for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def until(true: Callable[[], Any | Awaitable[Any]], timeout: float = 10.0, every: float = 0.02) -> Any:
    """The first truthy value of *true*; an AssertionError after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = true()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s"
        await asyncio.sleep(every)
