"""The lines of a streamed body, in groups of bounded size. Knows nothing of what a line says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.api.requests import BODY_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterator

Line = tuple[int, bytes | None]
"""Its number, from 1 on, and its bytes; None for a line that is longer than `BODY_LIMIT`."""

MOST_LINES = 64
"""Lines of a group. One trip to Redis and one sync to disk serve them all; more gain little and hold up others."""
_MOST_BYTES = 64 * 1024
"""Bytes after which a group is full."""
_MOST_PASSED = 2048
"""Lines, blank ones included, after which a group ends, empty or not."""


class LineReader:
    """Reads lines as they arrive; blank ones are counted and left out."""

    def __init__(self, pieces: AsyncIterable[bytes]) -> None:
        self._pieces = pieces
        self._rest = bytearray()
        self._skipping = False
        self.number = 0
        """Of the last line that was read."""

    async def groups(self) -> AsyncIterator[list[Line]]:
        """Yield lines, those that have arrived together; a group may be empty, to let others go first.

        Raises:
            RequestPayloadError: the body cannot be read on.
        """
        async for piece in self._pieces:
            for group in self._split(piece):
                yield group
        if self._rest or self._skipping:
            last = self._finish(b"")
            yield [last] if last is not None else []

    def _split(self, piece: bytes) -> Iterator[list[Line]]:
        group: list[Line] = []
        start = size = passed = 0
        while (end := piece.find(b"\n", start)) >= 0:
            line = self._finish(piece[start:end])
            passed += 1
            if line is not None:
                group.append(line)
                size += end - start
            start = end + 1
            if len(group) >= MOST_LINES or size > _MOST_BYTES or passed >= _MOST_PASSED:
                yield group
                group, size, passed = [], 0, 0
        if not self._skipping:
            self._rest += piece[start:]
            if len(self._rest) > BODY_LIMIT:
                self._rest.clear()
                self._skipping = True
        if group:
            yield group

    def _finish(self, end: bytes) -> Line | None:
        """Return the line that *end* completes; None for a blank one."""
        self.number += 1
        line = bytes(self._rest) + end if self._rest else end
        too_long = self._skipping or len(line) > BODY_LIMIT
        self._rest.clear()
        self._skipping = False
        if too_long:
            return self.number, None
        return (self.number, line) if line.strip() else None
