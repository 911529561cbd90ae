"""Count what token requests came to, in memory, and add the counts to the store every few seconds.

With them goes when each provider answered last, once a minute at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from broker.errors import StoreUnavailable
from broker.store.history import MINUTE_MS, MINUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.process.heartbeat import Heartbeat
    from broker.providers import Endpoint
    from broker.store import Store

ADD_EVERY = 3.0
"""Seconds: how far the history in the store lags behind, and what is lost with a broker that is killed."""
GOOD = frozenset({"refreshed", "unchanged"})
"""Outcomes of a token request that did what it was for."""


class HistoryRecorder:
    """The counts of this replica that the store does not have yet."""

    def __init__(
        self,
        store: Store,
        heartbeat: Heartbeat,
        endpoints: Mapping[str, Endpoint],
        report: Callable[[], None] = lambda: None,
    ) -> None:
        """Count for the providers of *endpoints*; *report* is called for each failure."""
        self._store = store
        self._heartbeat = heartbeat
        self._endpoints = endpoints
        self._report = report
        self._noted: dict[str, int] = {}
        """When each provider answered last, as the store has it."""
        self._sampled = 0
        """The last minute for which this replica noted which providers have grants without a valid token."""
        self._counts: dict[tuple[str, int], tuple[int, int]] = {}

    def count(self, provider: str, outcome: str) -> None:
        """Count a token request of *provider* that came to *outcome*."""
        key, good = (provider, self._store.clock() // MINUTE_MS), outcome in GOOD
        refreshed, failed = self._counts.get(key, (0, 0))
        self._counts[key] = (refreshed + good, failed + (not good))
        if not good:
            self._report()

    async def run(self, until: asyncio.Event) -> None:
        """Add the counts to the store every few seconds, until *until* is set."""
        while not until.is_set():
            await self.step(until)

    async def step(self, until: asyncio.Event) -> None:
        """Pause, then add what was counted meanwhile."""
        try:
            await asyncio.wait_for(until.wait(), ADD_EVERY)
        except TimeoutError:
            pass
        await self.flush()
        self._heartbeat.signal()

    async def flush(self) -> None:
        """Add the counts to the store; what it does not take is kept as long as it belongs to the last hour."""
        await self._note_answers()
        await self._note_unserved()
        with contextlib.suppress(StoreUnavailable):  # the next step adds it
            await self._store.seals.add()
        counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            await self._store.history.add(counts)
            await self._store.day.add(counts)
        except StoreUnavailable:
            oldest = self._store.clock() // MINUTE_MS - MINUTES
            for key, (refreshed, failed) in counts.items():
                if key[1] > oldest:
                    since = self._counts.get(key, (0, 0))
                    self._counts[key] = (since[0] + refreshed, since[1] + failed)

    async def _note_unserved(self) -> None:
        """Note once a minute which providers have a grant without a valid token."""
        minute = self._store.clock() // MINUTE_MS
        if minute == self._sampled:
            return
        try:
            names = sorted({*self._endpoints, *await self._store.grants.known_providers()})
            counts = await self._store.urgency.counts(names)
            await self._store.day.note_unserved([name for name, (_, unserved) in counts.items() if unserved], minute)
        except StoreUnavailable:
            return  # the next step tries again
        self._sampled = minute

    async def _note_answers(self) -> None:
        """Write down when providers answered last, where the store does not have it to the minute."""
        answered = {
            name: endpoint.answered_at
            for name, endpoint in self._endpoints.items()
            if endpoint.answered_at is not None and endpoint.answered_at >= self._noted.get(name, 0) + MINUTE_MS
        }
        if not answered:
            return
        try:
            await self._store.history.note_answers(answered)
        except StoreUnavailable:
            return  # the next step tries again
        self._noted |= answered
