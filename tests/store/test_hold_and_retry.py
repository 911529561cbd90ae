"""Hold and retry, which name one grant: neither touches a request under way, nor leaves the grant in two sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.model import Park
from tests.store.steps import LEASE, claimed, imported, sets

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store


async def test_a_retry_leaves_a_lease_alone(store: Store, redis: Redis) -> None:
    """A retry does not make a grant due whose request is under way: a second request would redeem the token twice."""
    await imported(store, "g1")
    await claimed(store)
    ends = await redis.zscore("broker:{0}:leased:p", "g1")
    assert await store.schedule.retry("g1", "p") == "leased"
    assert await sets(redis, "g1") == ["leased"]
    assert await redis.zscore("broker:{0}:leased:p", "g1") == ends
    assert await claimed(store) == []


async def test_a_parked_grant_that_is_held_is_leased_alone(store: Store, redis: Redis) -> None:
    """A hold moves a parked grant from parked to leased: a grant is in exactly one set."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    assert await store.schedule.park(Park(claim, "dead", "gone", "", "reauthorization_required"), {}) == "parked"
    assert await sets(redis, "g1") == ["parked"]
    assert await store.schedule.hold("g1", "p", LEASE) == "held"
    assert await sets(redis, "g1") == ["leased"]
