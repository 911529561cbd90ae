"""Work that must run to its end once begun."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

T = TypeVar("T")
_begun: set[asyncio.Future[Any]] = set()


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Await *work* to its end even if cancelled meanwhile; then let the cancellation through."""
    task = asyncio.ensure_future(work)
    _begun.add(task)
    task.add_done_callback(_begun.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.cancelled():
            await asyncio.wait({task})
        raise


@asynccontextmanager
async def finishing(limit: float) -> AsyncIterator[None]:
    """At the end of the body, wait *limit* seconds for work that was begun and that nobody awaits any more.

    A web server that closes stops waiting for its handlers; what they had begun goes on, and needs what the caller is
    about to close.
    """
    try:
        yield
    finally:
        mine = {task for task in _begun if task.get_loop() is asyncio.get_running_loop()}
        if mine:
            await asyncio.wait(mine, timeout=limit)
