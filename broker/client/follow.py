"""The one subscription of a broker's caller: it brings the next token before anybody asks for it.

A grant is followed from its first use until it was not used for `IDLE` seconds. By long polls, one a grant: no more
than the broker is needed. Who listens to Redis instead: `broker.client.hints`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, Protocol

from broker.client.api import LONGEST_WAIT
from broker.client.errors import BrokerError, TokenUnavailable
from broker.client.token import clock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.client.grant import Grant

log = logging.getLogger("broker.client")
IDLE = 600.0
"""Seconds without use after which a grant is followed no longer."""
_LEAST_PAUSE = 1.0
"""Seconds between two polls, should something between us and the broker answer at once."""
_LONGEST_PAUSE = 30.0


class Following(Protocol):
    """How news of grants comes."""

    def want(self, grant: Grant) -> None:
        """Follow *grant* from now on, as long as it is used."""

    def has(self, grant: Grant) -> bool:
        """Whether *grant* is followed."""

    async def close(self) -> None:
        """Follow nothing any more; no task is left."""


class LongPolls:
    """Follows each grant by `If-None-Match` and `Prefer: wait`."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def want(self, grant: Grant) -> None:
        """Follow *grant*, if it is not followed."""
        if not self._closed and not self.has(grant):
            self._tasks[grant.id] = asyncio.create_task(_follow(grant), name=f"token-broker: follow {grant.id}")

    def has(self, grant: Grant) -> bool:
        """Whether there is a poll for *grant*."""
        task = self._tasks.get(grant.id)
        return task is not None and not task.done()

    async def close(self) -> None:
        """End every poll, and begin no other."""
        self._closed = True
        await end(self._tasks.values())
        self._tasks.clear()


async def _follow(grant: Grant) -> None:
    failures = 0
    while grant.idle_for(clock()) < IDLE:
        began = clock()
        try:
            if not await grant.poll(LONGEST_WAIT):
                return
            failures = 0
        except BrokerError as error:
            passing = isinstance(error, TokenUnavailable)  # a restart of the broker, as a rule
            if not failures:
                level = logging.INFO if passing else logging.WARNING
                log.log(level, "token-broker: no news of %s: %s", grant.id, error)
            failures = failures + 1 if passing else 16
        await asyncio.sleep(pause(failures) if failures else max(0.0, _LEAST_PAUSE - (clock() - began)))


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row, drawn anew each time."""
    return min(_LONGEST_PAUSE, 0.5 * float(2 ** min(failures, 16))) * (0.5 + random.random() / 2)


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* and wait until they have ended."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
