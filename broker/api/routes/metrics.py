"""`/metrics`: how things stand, asked of Redis at each scrape, and what this process has counted.

Counts are the sorted sets' sizes and single grants the soonest few, so a scrape costs about the same with any number of
grants. The route needs no key, so scrapes that come together share one answer, and single grants are looked at every
few seconds at most.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from aiohttp import web

from broker.api.app import API
from broker.errors import StoreUnavailable
from broker.process.metrics import GrantFigures, Metrics, ParkedFigures, ProviderFigures, Standing, render_grants

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.api.connections import Connections
    from broker.journal.journal import Journal
    from broker.read import Cache
    from broker.store import ProviderState, Store
    from broker.store.soonest import Soon

_LOOK_TIMEOUT = 3.0
_SINGLE_GRANTS = 3.0
"""Seconds for which single grants are shown as they were."""


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/metrics", metrics)


class Scrape:
    """Answers scrapes."""

    def __init__(
        self,
        store: Store,
        journal: Journal | None,
        cache: Cache,
        metrics: Metrics,
        connections: Connections,
        providers: Sequence[str],
        nearness: Callable[[str, int, int], int],
        *,
        max_grants: int,
    ) -> None:
        """*providers* are those of the settings; *max_grants* is how many grants are shown one by one.

        *nearness*: how near the end of a grant is, by provider, `granted_at` and `reauthorize_by`.
        """
        self._store = store
        self._journal = journal
        self._cache = cache
        self._metrics = metrics
        self._connections = connections
        self._providers = providers
        self._nearness = nearness
        self._max_grants = max_grants
        self._scraping: asyncio.Task[bytes] | None = None
        self._grants = b""
        self._grants_until = 0.0

    async def text(self) -> bytes:
        """The text exposition format."""
        if self._scraping is None or self._scraping.done():
            self._scraping = asyncio.create_task(self._scrape(), name="scrape")
        return await asyncio.shield(self._scraping)

    async def _scrape(self) -> bytes:
        states: list[ProviderState] | None = None
        grants = b""
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT):
                names = sorted({*self._providers, *await self._store.grants.known_providers()})
                states = await self._store.grants.providers(names)
                grants = await self._single_grants(names)
        except (StoreUnavailable, TimeoutError):
            states = None
        return self._metrics.render(self._standing(states)) + grants

    async def _single_grants(self, providers: Sequence[str]) -> bytes:
        if time.monotonic() > self._grants_until:
            figures = [self._figures(soon) for soon in await self._store.soonest.of(providers, self._max_grants)]
            parked = [
                ParkedFigures(p.grant_id, p.provider, p.since, p.reason)
                for p in await self._store.soonest.parked(providers, self._max_grants)
            ]
            # In a thread: thousands of lines take some ms, for which no caller should wait.
            self._grants = await asyncio.to_thread(render_grants, figures, parked)
            self._grants_until = time.monotonic() + _SINGLE_GRANTS
        return self._grants

    def _figures(self, soon: Soon) -> GrantFigures:
        nearness = None  # a dead grant has come to its end
        if not soon.dead and soon.reauthorize_by is not None and soon.granted_at is not None:
            nearness = self._nearness(soon.provider, soon.granted_at, soon.reauthorize_by)
        return GrantFigures(
            grant_id=soon.grant_id,
            provider=soon.provider,
            expires_at=soon.expires_at,
            next_at=soon.next_at,
            succeeded_at=soon.succeeded_at,
            reauthorize_by=soon.reauthorize_by,
            nearness=nearness,
        )

    def _standing(self, states: Sequence[ProviderState] | None) -> Standing:
        there = sum(sum(state.counts.values()) for state in states or ())
        return Standing(
            providers=None
            if states is None
            else [
                ProviderFigures(state.name, {str(k): n for k, n in state.counts.items()}, state.suspended)
                for state in states
            ],
            truncated=there > self._max_grants,
            journal_entries=self._journal.unrecorded if self._journal else 0,
            risks=frozenset(self._risks()),
            subscribers=self._cache.waiting,
            cached_tokens=len(self._cache),
            connections=len(self._connections),
            clock_offset=self._store.clock.wall_offset_ms / 1000,
        )

    def _risks(self) -> list[str]:
        risks = []
        if self._journal is None:
            risks.append("journal_off")
        elif self._journal.fault:
            risks.append("journal_failing")
        if self._store.primary.unproved:
            risks.append("commit_unproved")
        return risks


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`: how grants, providers and this broker stand, for Prometheus."""
    return web.Response(
        body=await request.app[API].scrape.text(),
        headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8", "Cache-Control": "no-store"},
    )
