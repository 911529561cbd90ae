"""Whether callers are asking: while they are, refreshing ahead of time gives way to them.

Both data paths run on one loop, where whatever is sent together is answered together: a lane that filled all its slots
at once would have callers wait behind a score of answers.
"""

from __future__ import annotations

import asyncio
import time

RECENT = 1.0
"""Seconds for which a caller is believed to be about to ask again."""
BEAT = 0.001
"""Seconds between two requests that give way."""
LATE = 0.0005
"""Seconds by which the loop may be late before nothing is added to what it has to do."""
_BEATS = 4
"""Beats after which something is added all the same: a loop that is always late must not stop refreshing."""


class Traffic:
    """The callers' traffic, as far as the lanes care."""

    def __init__(self) -> None:
        self._passed = float("-inf")

    def passed(self) -> None:
        """A caller was here just now."""
        self._passed = time.monotonic()

    @property
    def flowing(self) -> bool:
        """Whether callers have asked lately."""
        return time.monotonic() < self._passed + RECENT

    async def gap(self) -> None:
        """Wait a beat, and on until the loop comes back in time, for `_BEATS` beats at most."""
        for _ in range(_BEATS):
            began = time.monotonic()
            await asyncio.sleep(BEAT)
            if time.monotonic() < began + BEAT + LATE:
                return
