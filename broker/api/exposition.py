"""The text of `/metrics`: gauges that are read from Redis at each scrape, and what this process has counted.

The counts of grants are the sizes of the sorted sets, and only the grants that are due soonest are shown one by one, so
a scrape costs about the same with any number of grants. The route needs no key, so simultaneous scrapes share one
text, and single grants are read from Redis every few seconds at most. Knows no route.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from broker.errors import StoreUnavailable
from broker.process.metrics import GrantFigures, Metrics, ParkedFigures, ProviderFigures, Standing, render_grants

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from broker.api.connections import Connections
    from broker.journal.journal import Journal
    from broker.journal.lost import LostGrants
    from broker.notify import Notifier
    from broker.process.audit_file import AuditFile
    from broker.read import Cache
    from broker.store import ProviderState, Store
    from broker.store.soonest import Soon

_FETCH_TIMEOUT = 3.0
_GRANTS_TTL = 3.0
"""Seconds for which the lines of single grants are cached."""


class Exposition:
    """Make the text exposition format of Prometheus.

    *providers* are those of the settings now; *max_grants* is how many grants are shown one by one.
    """

    def __init__(
        self,
        *,
        store: Store,
        journal: Journal | None,
        cache: Cache,
        metrics: Metrics,
        connections: Connections,
        notifier: Notifier,
        audit: AuditFile | None,
        lost: LostGrants,
        providers: Collection[str],
        max_grants: int,
    ) -> None:
        self._store = store
        self._journal = journal
        self._cache = cache
        self._metrics = metrics
        self._connections = connections
        self._notifier = notifier
        self._audit = audit
        self._lost = lost
        self._providers = providers
        self._max_grants = max_grants
        self._scraping: asyncio.Task[bytes] | None = None
        self._grants = b""
        self._grants_until = 0.0

    async def text(self) -> bytes:
        """Return the text; simultaneous scrapes share one."""
        if self._scraping is None or self._scraping.done():
            self._scraping = asyncio.create_task(self._scrape(), name="scrape")
        return await asyncio.shield(self._scraping)

    async def _scrape(self) -> bytes:
        states: list[ProviderState] | None = None
        grants, unserved = b"", dict[str, int]()
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT):
                names = sorted({*self._providers, *await self._store.grants.known_providers()})
                states = await self._store.grants.providers(names)
                unserved = await self._unserved(names)
                grants = await self._single_grants(names)
        except (StoreUnavailable, TimeoutError):
            states = None
        # In a thread: a thousand providers have ten thousand lines, and no caller should wait for them.
        return await asyncio.to_thread(self._metrics.render, self._standing(states, unserved)) + grants

    async def _unserved(self, providers: Sequence[str]) -> dict[str, int]:
        """Return how many grants of each provider have no valid token; nothing while the index lacks some."""
        if not await self._store.urgency.is_complete():
            return {}
        return {name: unserved for name, (_, unserved) in (await self._store.urgency.counts(providers)).items()}

    async def _single_grants(self, providers: Sequence[str]) -> bytes:
        if time.monotonic() > self._grants_until:
            figures = [
                self._figures(soon) for soon in await self._store.soonest.for_providers(providers, self._max_grants)
            ]
            parked = [
                ParkedFigures(p.grant_id, p.provider, p.since, p.reason)
                for p in await self._store.soonest.parked(providers, self._max_grants)
            ]
            # In a thread: thousands of lines take some ms, and no caller should wait for them.
            self._grants = await asyncio.to_thread(render_grants, figures, parked)
            self._grants_until = time.monotonic() + _GRANTS_TTL
        return self._grants

    def _figures(self, soon: Soon) -> GrantFigures:
        warning_level = None  # a dead grant has ended already
        if not soon.dead and soon.reauthorize_by is not None and soon.granted_at is not None:
            warning_level = self._notifier.warning_level(
                soon.provider, soon.granted_at, soon.reauthorize_by, soon.reauthorize_limit
            )
        return GrantFigures(
            grant_id=soon.grant_id,
            provider=soon.provider,
            expires_at=soon.expires_at,
            next_at=soon.next_at,
            succeeded_at=soon.succeeded_at,
            reauthorize_by=soon.reauthorize_by,
            warning_level=warning_level,
        )

    def _standing(self, states: Sequence[ProviderState] | None, unserved: Mapping[str, int]) -> Standing:
        grants = sum(sum(state.counts.values()) for state in states or ())
        return Standing(
            providers=None
            if states is None
            else [
                ProviderFigures(
                    state.name,
                    {str(k): n for k, n in state.counts.items()},
                    state.suspended,
                    unserved.get(state.name),
                )
                for state in states
            ],
            truncated=grants > self._max_grants,
            journal_entries=self._journal.unrecorded if self._journal else 0,
            lost_grants=self._lost.count,
            risks=frozenset(self._risks()),
            subscribers=self._cache.waiting,
            cached_tokens=len(self._cache),
            connections=len(self._connections),
            audit_failing=self._audit is not None and bool(self._audit.fault),
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
