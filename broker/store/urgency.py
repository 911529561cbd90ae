"""Which grants have no valid token, and which end next: read from the first grants of each provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker.model import Grant, State
    from broker.store.clock import Clock
    from broker.store.grants import Grants

_MOST = 1000


@dataclass(frozen=True, slots=True)
class UrgentRow:
    """One grant, and since when it has no valid token."""

    grant: Grant
    state: State
    served: bool
    unserved_since: int | None


class Urgency:
    """Raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, grants: Grants, clock: Clock) -> None:
        self._grants = grants
        self._clock = clock

    async def _all(self, providers: Sequence[str]) -> list[UrgentRow]:
        page = await self._grants.page(providers, ("parked", "leased", "due"), None, _MOST)
        now, rows = self._clock(), []
        for state, grant in page.rows:
            end = grant.token.expires_at if grant.token else None
            served = end is not None and end > now
            rows.append(UrgentRow(grant, state, served, None if served else end or grant.granted_at))
        return rows

    async def counts(self, providers: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        """Return by provider how many grants it has, and how many of them have no valid token."""
        states = await self._grants.providers(providers)
        rows = await self._all(providers)
        unserved = {name: sum(row.grant.provider == name and not row.served for row in rows) for name in providers}
        return {state.name: (sum(state.counts.values()), unserved[state.name]) for state in states}

    async def rows(
        self, providers: Sequence[str], cursor: str | None, limit: int, permitted: Callable[[str], bool]
    ) -> tuple[list[UrgentRow], str | None]:
        """Return the most urgent grants."""
        del cursor
        rows = [row for row in await self._all(providers) if permitted(row.grant.grant_id)]

        def key(row: UrgentRow) -> tuple[bool, bool, int]:
            end = row.grant.token.expires_at if row.grant.token else 0
            return (row.served, not (row.grant.reason or row.grant.failures), end)

        return sorted(rows, key=key)[:limit], None

    async def next_end(self, providers: Sequence[str]) -> int | None:
        """Return when the next token of a healthy grant ends (epoch ms)."""
        rows = await self._all(providers)
        return min((row.grant.token.expires_at for row in rows if row.served and row.grant.token), default=None)
