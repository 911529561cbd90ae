"""Who wants to know that some grant changed: the open streams of the status page.

A change is a mark and no queue, so a reader that is slow, or gone, holds nothing. Where nobody listens, a change costs
one look at an empty set.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from broker.errors import TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Permitted: TypeAlias = "Callable[[str, bytes], bool]"
MOST = 64
"""Listeners at once: a page that finds no place polls."""


class Listener:
    """One stream: whether something changed since it last looked."""

    def __init__(self, permitted: Permitted, unmarked: set[Listener]) -> None:
        """Begin without a mark.

        Args:
            permitted: returns whether it may know of a grant, by its id and the message that says what changed.
            unmarked: holds the listener while nothing has changed since it last looked.
        """
        self.permitted = permitted
        self._changed = asyncio.Event()
        self._unmarked = unmarked
        unmarked.add(self)

    def mark(self) -> None:
        """Note that something changed: the listener looks."""
        self._changed.set()
        self._unmarked.discard(self)

    async def changed(self, timeout: float) -> bool:
        """Wait until something changed; return False after *timeout* seconds without a change."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        self._unmarked.add(self)
        return True


class Changes:
    """All listeners of this process."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._unmarked: set[Listener] = set()
        self.closed = False

    def note(self, grant_id: str, message: bytes) -> None:
        """Note that a grant changed, as *message* says. A listener that has yet to look costs nothing more."""
        if self._unmarked:
            for listener in [each for each in self._unmarked if each.permitted(grant_id, message)]:
                listener.mark()

    def note_all(self) -> None:
        """Note that something changed that every listener may know of: a provider's health, or Redis."""
        for listener in self._listeners:
            listener.mark()

    @contextmanager
    def listening(self, permitted: Permitted) -> Iterator[Listener]:
        """Listen to the changes of the grants that are *permitted*.

        Raises:
            TokenUnavailable: `MOST` listen already, or the broker stops.
        """
        if self.closed or len(self._listeners) >= MOST:
            words = f"{len(self._listeners)} streams are open, the most that may: ask again instead, or later"
            raise TokenUnavailable(words, retry_after=30)
        listener = Listener(permitted, self._unmarked)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            self._unmarked.discard(listener)

    def close(self) -> None:
        """End all streams: the broker stops."""
        self.closed = True
        self.note_all()
