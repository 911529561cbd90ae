"""Claims that take only grants whose token has expired, as a replica makes them whose journal cannot write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.store.steps import LEASE, imported

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store


async def test_what_has_expired_is_found_behind_what_lives(store: Store, redis: Redis) -> None:
    """An expired grant is claimed, however many grants with a living token are due before it."""
    many = 3000
    await imported(store, *(f"g{number}" for number in range(many)))
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(many):
            lives = number not in {0, 700, many - 2, many - 1}
            _ = pipe.hset(f"broker:{{0}}:grant:g{number}", "expires_at", store.clock() + 3_600_000 if lives else 1)
            _ = pipe.zadd("broker:{0}:due:p", {f"g{number}": 1000 + number})
        await pipe.execute()
    store.schedule.replayed_after = (await store.schedule.claim("p", 1, LEASE)).fenced or 0
    after, found = 0, []
    for _ in range(5):
        brought = await store.schedule.claim("p", 2, LEASE, expired_after=after)
        found.append([claim.grant_id for claim in brought.claims])
        after = brought.passed_over
    assert found[0] == ["g0", "g700"]
    assert [name for names in found for name in names] == ["g0", "g700", f"g{many - 2}", f"g{many - 1}"]
    while after:  # on to the end, and from the beginning again
        brought = await store.schedule.claim("p", 2, LEASE, expired_after=after)
        assert brought.passed_over == 0 or brought.passed_over > after
        after = brought.passed_over
    await redis.hset("broker:{0}:grant:g1", "expires_at", 1)
    assert [c.grant_id for c in (await store.schedule.claim("p", 2, LEASE, expired_after=0)).claims] == ["g1"]
    assert (await store.schedule.claim("p", 2, LEASE, expired_after=many * 2)).passed_over == 0
