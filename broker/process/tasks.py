"""Finish work despite cancellation; or drop it on shutdown."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

T = TypeVar("T")
_CANCEL_AGAIN = 1.0
"""Seconds that work may take to end once it was cancelled, before it is cancelled again."""
_begun: set[asyncio.Future[Any]] = set()


def begin(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Begin *work* that must not be cancelled: `finishing` waits for it if nobody else does."""
    task = asyncio.create_task(work)
    _begun.add(task)
    task.add_done_callback(_begun.discard)
    return task


async def finish(work: Coroutine[Any, Any, T] | asyncio.Future[T]) -> T:
    """Await *work* to its end even if cancelled meanwhile; then raise the cancellation."""
    task: asyncio.Future[T] = work if isinstance(work, asyncio.Future) else begin(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.cancelled():
            await asyncio.wait({task})
        raise


@asynccontextmanager
async def finishing(limit: float) -> AsyncIterator[None]:
    """Wait up to *limit* seconds, after the body, for work that was begun and that nobody awaits any more.

    A web server that closes stops waiting for its handlers; the work that they began goes on, and needs what the
    caller is about to close.
    """
    try:
        yield
    finally:
        here = {task for task in _begun if task.get_loop() is asyncio.get_running_loop()}
        if here:
            await asyncio.wait(here, timeout=limit)


async def supervised(run: Callable[[asyncio.Event], Awaitable[object]], until: asyncio.Event) -> None:
    """Run a loop until *until* is set.

    Raises:
        RuntimeError: the loop returned before that, which is as much a fault as raising an exception.
    """
    await run(until)
    if not until.is_set():
        msg = f"{getattr(run, '__qualname__', run)} returned although it was not stopped"
        raise RuntimeError(msg)


async def run_until(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run *work*, but cancel it once *stopping* is set."""
    working, stop = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        working.cancel()
        # Python 3.11's `wait_for`, which libraries await, can lose a cancellation: then cancel again.
        while (await asyncio.wait({working, stop}, timeout=_CANCEL_AGAIN))[1]:
            working.cancel()
    if not working.cancelled():
        working.result()
