"""When a provider last answered a request of a broker: a fact of its hash, `answered_at`.

Data of brokers that did not write it down counts as answered where a grant of the provider has got a token.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from broker.store import scripts
from broker.store.damaged import list_or_empty, numbers
from broker.store.fields import texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.store.grants import ProviderState
    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary
    from broker.store.scripts import Keys

_SEARCHED = 16
"""How many grants are searched, of each state, for a token: those that are due last, which live ones are."""


async def note_answers(primary: Primary, keys: Keys, answered: Mapping[str, int]) -> None:
    """Write down when each provider answered last (epoch ms); another store gets nothing."""
    script = scripts.NOTE
    calls = [
        (script.keys(facts=keys.provider(name)), script.args(["answered_at", at], counter="", count=0))
        for name, at in answered.items()
    ]
    for reply in await primary.run_each(script, calls) if calls else ():
        if isinstance(reply, Exception):
            raise reply


async def with_last_answers(primary: Primary, keys: Keys, states: Sequence[ProviderState]) -> list[ProviderState]:
    """Return *states* with `answered_at` from the providers' grants where it was not written down."""
    unknown = [state for state in states if state.answered_at is None and any(state.counts.values())]
    if not unknown:
        return list(states)
    lists = [(state.name, kept) for state in unknown for kept, count in state.counts.items() if count]
    ends: list[tuple[Argument, ...]] = [("ZRANGE", keys.ids(kept, name), -_SEARCHED, -1) for name, kept in lists]
    ids = [list_or_empty(reply) for reply in await primary.pipeline_each(ends)]
    names = [name for (name, _), found in zip(lists, ids, strict=True) for _ in texts(found)]
    reads: list[tuple[Argument, ...]] = [
        ("HMGET", keys.grant(grant), "answered_at", "issued_at") for found in ids for grant in texts(found)
    ]
    latest: dict[str, int] = {}
    for name, times in zip(names, await primary.pipeline_each(reads), strict=True):
        if not isinstance(times, Exception):
            latest[name] = max(latest.get(name, 0), *(at or 0 for at in numbers(times)))
    return [replace(state, answered_at=state.answered_at or latest.get(state.name) or None) for state in states]
