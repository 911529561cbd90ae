"""The providers' history: outcomes of token requests, minute by minute, over all replicas.

A hash for each provider has two counters for each minute of the last hour (some 2 KiB). Replicas count in memory and
add their counts to it, so it costs the write path nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.store import scripts
from broker.store.answered import note_answers, with_last_answers
from broker.store.damaged import list_or_empty
from broker.store.fields import maybe_int

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from broker.store.grants import ProviderState
    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary

MINUTES = 60
"""How many minutes a history has."""
MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute of a provider's history."""

    at: int
    """Its beginning, epoch ms."""
    refreshed: int
    failed: int


class History:
    """The providers' history. Every method raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, primary: Primary, keys: scripts.Keys) -> None:
        self._primary = primary
        self._keys = keys

    async def add(self, counts: Mapping[tuple[str, int], tuple[int, int]]) -> None:
        """Add what this replica counted: refreshed and failed, by provider and minute (epoch ms // 60,000).

        After a lost reply nobody knows whether the counts were added. A repetition may count twice, which does no harm
        in a history.
        """
        providers = sorted({provider for provider, _ in counts})
        args: list[Argument] = []
        for (provider, minute), (refreshed, failed) in counts.items():
            args += [providers.index(provider) + 1, minute, refreshed, failed]
        script = scripts.COUNT_OUTCOMES
        await self._primary.run(script, script.keys([self._keys.history(p) for p in providers]), script.args(args))

    async def note_answers(self, answered: Mapping[str, int]) -> None:
        """Write down when each of these providers answered last (epoch ms)."""
        await note_answers(self._primary, self._keys, answered)

    async def with_last_answers(self, states: Sequence[ProviderState]) -> list[ProviderState]:
        """Return *states* with `answered_at` from the providers' grants where it was not written down."""
        return await with_last_answers(self._primary, self._keys, states)

    async def for_providers(self, providers: Iterable[str], now: int) -> dict[str, list[Minute]]:
        """Return the last hour of each provider, oldest minute first, the current one last; *now* is epoch ms."""
        providers = list(providers)
        replies = await self._primary.pipeline_each([("HGETALL", self._keys.history(name)) for name in providers])
        return {name: parse_hour(list_or_empty(reply), now) for name, reply in zip(providers, replies, strict=True)}


def parse_hour(reply: Sequence[bytes], now: int) -> list[Minute]:
    """Return every minute of the last hour, in order, from a hash as Redis sends it."""
    counters = {field: maybe_int(count) or 0 for field, count in zip(reply[::2], reply[1::2], strict=True)}
    last = now // MINUTE_MS
    return [
        Minute(minute * MINUTE_MS, counters.get(b"%dr" % minute, 0), counters.get(b"%df" % minute, 0))
        for minute in range(last - MINUTES + 1, last + 1)
    ]
