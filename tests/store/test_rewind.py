"""Rewind: after the server's clock was set back, no lease and no token waits for the clock to catch up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.store.steps import LEASE, claimed, commit_of, imported

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store

DAY = 86_400_000


async def test_no_lease_lasts_longer_than_a_lease(store: Store, redis: Redis) -> None:
    """A lease that ends tomorrow is cut to the length of a lease; one that ends sooner stays as it is."""
    await imported(store, "g1", "g2")
    await claimed(store, 2)
    now = store.clock()
    await redis.zadd("broker:{0}:leased:p", {"g1": now + DAY, "g2": now + 1_000})
    await store.schedule.rewind("p", LEASE)
    assert 0 <= (await redis.zscore("broker:{0}:leased:p", "g1") or 0) - now - LEASE < 5_000
    assert await redis.zscore("broker:{0}:leased:p", "g2") == now + 1_000


async def test_a_token_of_tomorrow_is_as_old_as_it_is(store: Store, redis: Redis) -> None:
    """A token issued "in the future" counts as issued now; it keeps its lifetime and the time until its refresh."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    grant, ahead = "broker:{0}:grant:g1", store.clock() + DAY
    plan = {"issued_at": ahead, "refresh_at": ahead + 2_700_000, "expires_at": ahead + 3_600_000}
    for name, at in plan.items():
        await redis.hset(grant, name, at)
    await redis.zadd("broker:{0}:due:p", {"g1": plan["refresh_at"]})
    now = store.clock()
    await store.schedule.rewind("p", LEASE)
    found = [int(value or 0) - now for value in await redis.hmget(grant, *plan)]
    assert found == [found[0], found[0] + 2_700_000, found[0] + 3_600_000]
    assert 0 <= found[0] < 5_000
    assert (await redis.zscore("broker:{0}:due:p", "g1") or 0) - now == found[1]
