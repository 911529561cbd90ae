"""A disk that is written to by one thread of its own, one piece of work at a time, and that may hang for minutes.

The event loop's shared threads also resolve names: with name servers that do not answer, all of them are busy. And at
the end of the process whatever waits for a shared thread waits as long as the disk does; this thread is left behind.
"""

from __future__ import annotations

import asyncio
import errno
import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Disk:
    """Runs blocking work in its thread. The event loop never waits there."""

    def __init__(self, on_stall: Callable[[], None]) -> None:
        """*on_stall* is called when a piece of work has taken longer than its limit."""
        self.stalled = False
        """What is under way has taken longer than its limit."""
        self._on_stall = on_stall
        self._turn = asyncio.Lock()
        self._orders: queue.SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return self._turn.locked()

    async def do(self, work: Callable[[], None], limit: float) -> None:
        """Do *work* after what came before; it should take *limit* seconds at most.

        Raises:
            OSError: the disk was closed before the work began.
            Exception: whatever *work* raises.
        """
        async with self._turn:
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "not written: the process ended first")
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="disk", daemon=True)
                self._thread.start()
            watch = asyncio.get_running_loop().call_later(limit, self._took_too_long)
            future: Future[None] = Future()
            self._orders.put((work, future))
            try:
                await asyncio.wrap_future(future)
            finally:
                watch.cancel()
                self.stalled = False

    def _took_too_long(self) -> None:
        self.stalled = True
        self._on_stall()

    def _serve(self) -> None:
        while (order := self._orders.get()) is not None:
            work, future = order
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - the caller of `do` must get it
                    future.set_exception(error)

    def close(self) -> None:
        """End the thread after what is under way, without waiting for it. Nothing else is done."""
        self._closed = True
        self._orders.put(None)
