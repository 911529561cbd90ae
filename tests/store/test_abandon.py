"""The leases of a process that is known to be dead: as long as its requests may be on their way, and no longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.secret import Sealer, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import Store, open_store
from tests.store.steps import LEASE, brought_by, claimed, imported, sets
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from redis.asyncio import Redis

    from tests.redis_server import RedisServer

LONGEST = 15_000
"""From a claim to the end of its request, as `open_store` has it where nobody says otherwise."""


@pytest.fixture
async def heir(store: Store, shared_redis: RedisServer, key: str, tmp_path: Path) -> AsyncIterator[Store]:
    """Another process on the same store."""
    del store
    settings = RedisSettings(url=shared_redis.url)
    async with open_store(settings, Sealer(parse_sealing_keys(key)), data_dir=tmp_path) as opened:
        await opened.identify()
        yield opened


async def test_only_the_leases_of_the_dead(store: Store, heir: Store, redis: Redis) -> None:
    """Of all leases those of one life are shortened; a living replica's, and a log out's hold, stay as they are."""
    await imported(store, "dead1", "dead2", provider="p")
    dead = await claimed(store, 2)
    await imported(store, "alive", "held")
    (alive,) = await claimed(heir, 1)
    rest = "held" if alive.grant_id == "alive" else "alive"
    assert await store.schedule.hold(rest, "p", LEASE) == "held"
    before = await ends(redis)
    assert await heir.schedule.abandon(store.schedule.life, ["p", "none"]) == 2
    assert await ends(redis) == before | {claim.grant_id: claim.claimed_at + LONGEST + 0.5 for claim in dead}


async def ends(redis: Redis) -> dict[str, float | None]:
    """When each lease ends."""
    return {name: await redis.zscore("broker:{0}:leased:p", name) for name in ("dead1", "dead2", "alive", "held")}


async def test_an_abandoned_lease_is_of_unknown_outcome(store: Store, heir: Store, redis: Redis) -> None:
    """Once its request must have ended it is due again, without a second term, and its attempt is known as open."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    await redis.hset("broker:{0}:grant:g1", "attempt_at", claim.claimed_at - LONGEST)
    assert await heir.schedule.abandon(store.schedule.life, ["p"]) == 1

    async def again() -> bool:
        return bool((await brought_by(heir)).claims)

    await until(again, 2, 0.01)
    assert await sets(redis, "g1") == ["leased"]
    assert await redis.hget("broker:{0}:grant:g1", "unknown_at") == str(claim.claimed_at - LONGEST).encode()


async def test_a_lease_is_never_made_longer(store: Store, heir: Store, redis: Redis) -> None:
    """One that ends sooner than a request may take ends as it did."""
    await imported(store, "g1")
    await claimed(store)
    await redis.zadd("broker:{0}:leased:p", {"g1": 5.0})
    assert await heir.schedule.abandon(store.schedule.life, ["p"]) == 1
    assert await redis.zscore("broker:{0}:leased:p", "g1") == 5


async def test_a_release_undoes_one_claim(store: Store, redis: Redis) -> None:
    """Where the reply to one claim was lost, what others hold stays theirs."""
    await imported(store, "g1", "g2")
    (kept,) = await claimed(store)
    (lost,) = await claimed(store)
    store.schedule._lost_claims["p"] = [lost.attempt.rpartition("-")[0]]
    assert (await brought_by(store, 0)).claims == []
    assert (await sets(redis, kept.grant_id), await sets(redis, lost.grant_id)) == (["leased"], ["due"])
