"""Steps for the tests of the index of tokens' ends: fill a store, read the index, and do what an older broker does."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from broker.model import Park, Postpone
from broker.store.index_walk import examine
from tests.store.steps import claimed, imported, refreshed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from broker.model import Claim
    from broker.store import Store
    from broker.store.urgency import UrgentRow

PROVIDERS = ("p", "q")
IN_ORDER = ["new", "gone", "late", "dead", "fails", "other", "well", "best"]
"""The grants of `populate`, the most urgent first."""
Index = dict[str, dict[str, float]]
"""The members of each set of the index, with their scores; sets by `ends:` or `failing:` and provider."""


async def rows(store: Store, *providers: str, limit: int = 100, **options: Any) -> list[UrgentRow]:
    """Return a whole urgent list, page by page."""
    found: list[UrgentRow] = []
    cursor = None
    while True:
        page = await store.urgency.rows(providers or PROVIDERS, cursor, limit, **options)
        assert len(page.rows) <= limit
        found += page.rows
        if (cursor := page.next) is None:
            return found


async def listed(store: Store, *providers: str, limit: int = 100, **options: Any) -> list[str]:
    """Return the ids of a whole urgent list."""
    return [row.grant.grant_id for row in await rows(store, *providers, limit=limit, **options)]


async def index_keys(store: Store) -> list[bytes]:
    """Return the keys of all sets of the index."""
    call, everything = store.primary.call, store.keys.all
    found: list[bytes] = await call("KEYS", f"{everything}ends:*") + await call("KEYS", f"{everything}failing:*")
    return found


async def index(store: Store) -> Index:
    """Return the index as it is."""
    found: Index = {}
    for key in await index_keys(store):
        flat = await store.primary.call("ZRANGE", key, 0, -1, "WITHSCORES")
        members = {name.decode(): float(at) for name, at in zip(flat[::2], flat[1::2], strict=True)}
        found[key.decode().removeprefix(store.keys.all)] = members
    return found


async def by_hashes(store: Store) -> Index:
    """Return the index as the grants' hashes have it."""
    wanted: Index = {}
    for key in await store.primary.call("KEYS", f"{store.keys.grants}*"):
        fields = ("provider", "expires_at", "reason", "failures")
        provider, ends_at, reason, failures = await store.primary.call("HMGET", key, *fields)
        name, score = key.decode().removeprefix(store.keys.grants), float(ends_at or 0)
        wanted.setdefault(f"ends:{provider.decode()}", {})[name] = score
        if reason is not None or int(failures or 0):
            wanted.setdefault(f"failing:{provider.decode()}", {})[name] = score
    return wanted


async def heal(store: Store, page: int = 2) -> int:
    """Walk through everything once, a few grants at a time; return how many were out of place."""
    position, corrected = await examine(store, PROVIDERS, None, page=page)
    while position is not None:
        position, more = await examine(store, PROVIDERS, position, page=page)
        corrected += more
    return corrected


@asynccontextmanager
async def older_broker(store: Store) -> AsyncIterator[None]:
    """Do what is done within as a broker without the index does it: the index stays as it was."""
    call = store.primary.call
    kept = {key: await call("DUMP", key) for key in await index_keys(store)}
    yield
    for key in await index_keys(store):
        await call("DEL", key)
    for key, value in kept.items():
        await call("RESTORE", key, 0, value)


async def end_token(store: Store, grant: str, seconds: float, provider: str = "p") -> int:
    """Have a grant's token end in so many seconds, in its hash and in the index; return when (epoch ms)."""
    return await end_at(store, grant, store.clock() + int(seconds * 1000), provider)


async def end_at(store: Store, grant: str, at: int, provider: str = "p") -> int:
    """Have a grant's token end then (epoch ms), in its hash and in the index."""
    keys, call = store.keys, store.primary.call
    await call("HSET", keys.grant(grant), "expires_at", at)
    await call("ZADD", keys.ends(provider), at, grant)
    await call("ZADD", keys.failing(provider), "XX", at, grant)
    return at


async def claim_of(store: Store, grant: str, provider: str = "p") -> Claim:
    """Make a grant due before all others, and claim it."""
    await store.primary.call("ZADD", store.keys.ids("due", provider), 0, grant)
    [claim] = await claimed(store, 1, provider)
    assert claim.grant_id == grant
    return claim


async def fail(store: Store, grant: str, provider: str = "p", *, dead: bool = False) -> None:
    """Have a grant's next token request fail; *dead*: it is parked."""
    claim = await claim_of(store, grant, provider)
    if dead:
        park = Park(claim, "dead", "reauthorization_required", "gone", "reauthorization_required")
        assert await store.schedule.park(park, {}, counts=False) == "parked"
    else:
        later = store.clock() + 60_000
        assert await store.schedule.postpone(Postpone(claim, "busy", "http_503", "", later, 1), None) == "postponed"


async def populate(store: Store, redis: Redis) -> dict[str, int]:
    """Make two providers with grants of every kind; return when tokens end (epoch ms)."""
    await refreshed(store, redis, "late", "fails", "dead", "well", "best")
    await refreshed(store, redis, "other", "gone", provider="q")
    for grant, provider in (("late", "p"), ("fails", "p"), ("dead", "p"), ("gone", "q")):
        await fail(store, grant, provider, dead=grant in {"dead", "gone"})
    ends = {"gone": -70, "late": -50, "fails": 900, "dead": 800, "other": 500, "well": 1000, "best": 2000}
    of_q = {"other", "gone"}
    at = {grant: await end_token(store, grant, left, "q" if grant in of_q else "p") for grant, left in ends.items()}
    await imported(store, "new")
    return at
