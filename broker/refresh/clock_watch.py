"""Watch Redis's clock: find its steps within seconds, and have tokens rewound after a step back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from broker.errors import StoreUnavailable
from broker.process.tasks import run_until

if TYPE_CHECKING:
    from collections.abc import Collection

    from broker.process.heartbeat import Heartbeat
    from broker.store import Store

log = structlog.get_logger()
_PAUSE = 2.0
"""Seconds between two looks at the clock."""
_AGAIN = 15.0
"""Seconds after which tokens are rewound again: an answer that came before the step may be stored after the first time.
"""


class ClockWatch:
    """Watch the clock of *store* for the *providers* of the settings now; a lease lasts *lease_ms*."""

    def __init__(self, store: Store, heartbeat: Heartbeat, providers: Collection[str], *, lease_ms: int) -> None:
        self._store = store
        self.heartbeat = heartbeat
        self._providers = providers
        self._lease_ms = lease_ms
        self._woken = asyncio.Event()
        self._rewind_at: list[float] = []
        store.clock.listeners.append(self._stepped)

    def _stepped(self, before: int, offset: int) -> None:
        """Say that the clock was stepped, and look at once whether the other brokers know."""
        seconds = abs(offset - before) / 1000
        if offset < before:
            log.warning("clock.set_back", seconds=seconds)
            self._rewind_at = [time.monotonic(), time.monotonic() + _AGAIN]
        else:
            log.warning("clock.jumped", seconds=seconds)
        self._woken.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Watch until *stopping* is set."""
        while not stopping.is_set():
            self.heartbeat.signal()
            self._woken.clear()
            try:
                await run_until(stopping, self.step())
            except StoreUnavailable:  # a lane says that
                pass
            await run_until(stopping, self._pause())

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._woken.wait(), _PAUSE)
        except TimeoutError:
            pass

    async def step(self) -> None:
        """Look once, and rewind tokens where that is to be done.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        pending = await self._store.clock_steps.agree()
        now = time.monotonic()
        if pending or any(at <= now for at in self._rewind_at):
            providers = sorted({*self._providers, *await self._store.grants.known_providers()})
            await self._store.clock_steps.rewind_all(providers, self._lease_ms)
            self._rewind_at = [at for at in self._rewind_at if at > now]
