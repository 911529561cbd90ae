"""The subscription to a broker's grants: it brings the next token before anybody asks for it.

A grant is followed from its first use until it was not used for `IDLE` seconds. By long polls, one for each grant: they
need nothing but the broker. `broker.client.hints` uses Redis instead.
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
"""Seconds without use after which a grant is no longer followed."""
_LEAST_PAUSE = 1.0
"""Seconds between two polls, should something between client and broker respond at once."""
_LONGEST_PAUSE = 30.0


class Following(Protocol):
    """How changes of grants arrive."""

    def want(self, grant: Grant) -> None:
        """Follow *grant* from now on, while it is used."""

    def has(self, grant: Grant) -> bool:
        """Return whether *grant* is followed."""

    async def close(self) -> None:
        """Stop following; leave no task behind."""


class LongPolls:
    """Follow each grant by `If-None-Match` and `Prefer: wait`."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def want(self, grant: Grant) -> None:
        """Follow *grant*, unless it is followed already."""
        if not self._closed and not self.has(grant):
            self._tasks[grant.id] = asyncio.create_task(_follow(grant), name=f"token-broker: follow {grant.id}")

    def has(self, grant: Grant) -> bool:
        """Return whether there is a poll for *grant*."""
        task = self._tasks.get(grant.id)
        return task is not None and not task.done()

    async def close(self) -> None:
        """End every poll, and start no other."""
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
            temporary = isinstance(error, TokenUnavailable)  # usually the broker restarts
            if not failures:
                level = logging.INFO if temporary else logging.WARNING
                log.log(level, "token-broker: cannot follow %s: %s", grant.id, error)
            failures = failures + 1 if temporary else 16
        await asyncio.sleep(pause(failures) if failures else max(0.0, _LEAST_PAUSE - (clock() - began)))


def pause(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row, drawn anew each time."""
    return min(_LONGEST_PAUSE, 0.5 * float(2 ** min(failures, 16))) * (0.5 + random.random() / 2)


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel *tasks* and wait until they have ended."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
