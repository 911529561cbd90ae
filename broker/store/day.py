"""The providers' last day: outcomes of token requests, and the minutes without a valid token, over all replicas.

A hash for each provider has three fields for each quarter of an hour (at most some 6 KiB). Replicas count in memory
and add their counts to it, so it costs the write path nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.store import scripts
from broker.store.damaged import list_or_empty
from broker.store.fields import maybe_int

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary

QUARTER_MS = 900_000
QUARTERS = 96
"""How many quarters of an hour a day has."""
_MINUTE_MS = 60_000
_MINUTES = QUARTER_MS // _MINUTE_MS


@dataclass(frozen=True, slots=True)
class Quarter:
    """A quarter of an hour of a provider's last day."""

    at: int
    """Its beginning, epoch ms."""
    refreshed: int
    failed: int
    unserved: int
    """Minutes in which some grant had no valid token, 15 at most."""


class Day:
    """The providers' last day. Every method raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, primary: Primary, keys: scripts.Keys) -> None:
        self._primary = primary
        self._keys = keys

    async def add(self, counts: Mapping[tuple[str, int], tuple[int, int]]) -> None:
        """Add what this replica counted: refreshed and failed, by provider and minute (epoch ms // 60,000).

        After a lost reply a repetition may count twice, which does no harm in a picture.
        """
        items = [
            (provider, minute // _MINUTES, kind, count)
            for (provider, minute), pair in counts.items()
            for kind, count in zip("rf", pair, strict=True)
            if count
        ]
        await self._run(items)

    async def note_unserved(self, providers: Collection[str], minute: int) -> None:
        """Note that each of *providers* has a grant without a valid token in *minute* (epoch ms // 60,000)."""
        await self._run([(provider, minute // _MINUTES, "u", minute % _MINUTES) for provider in providers])

    async def _run(self, items: Sequence[tuple[str, int, str, int]]) -> None:
        if not items:
            return
        places = {provider: n for n, provider in enumerate(sorted({item[0] for item in items}), 1)}
        args: list[Argument] = []
        for provider, quarter, kind, count in items:
            args += [places[provider], quarter, kind, count]
        script = scripts.COUNT_DAY
        await self._primary.run(script, script.keys([self._keys.day(name) for name in places]), script.args(args))

    async def for_providers(self, providers: Iterable[str], now: int) -> dict[str, list[Quarter]]:
        """Return the last day of each provider, oldest quarter first, the current one last; *now* is epoch ms."""
        providers = list(providers)
        replies = await self._primary.pipeline_each([("HGETALL", self._keys.day(name)) for name in providers])
        return {name: parse_day(list_or_empty(reply), now) for name, reply in zip(providers, replies, strict=True)}


def parse_day(reply: Sequence[bytes], now: int) -> list[Quarter]:
    """Return every quarter of the last day, in order, from a hash as Redis sends it."""
    held = {field: maybe_int(value) or 0 for field, value in zip(reply[::2], reply[1::2], strict=True)}
    last = now // QUARTER_MS
    return [
        Quarter(
            quarter * QUARTER_MS,
            held.get(b"%dr" % quarter, 0),
            held.get(b"%df" % quarter, 0),
            held.get(b"%du" % quarter, 0).bit_count(),
        )
        for quarter in range(last - QUARTERS + 1, last + 1)
    ]
