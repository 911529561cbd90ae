"""What is asked of many providers at once: who has something to claim, who is suspended, and whose grants come next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.store.steps import claimed, imported

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store

PROVIDERS = [f"p{number:02}" for number in range(40)]


async def test_providers_with_something_to_claim(store: Store, redis: Redis) -> None:
    """A grant that is due and a lease that ends count, within the time that was named; parked grants do not."""
    assert await store.schedule.find_due(PROVIDERS, 1000) == set()
    assert await store.schedule.find_due([], 1000) == set()
    now = store.clock()
    await redis.zadd("broker:{0}:due:p01", {"a": now - 5, "b": now + 50_000})
    await redis.zadd("broker:{0}:due:p02", {"c": now + 10_000})
    await redis.zadd("broker:{0}:leased:p03", {"d": now + 500})
    await redis.zadd("broker:{0}:leased:p39", {"e": now - 500})
    await redis.zadd("broker:{0}:parked:p04", {"f": now - 500})
    await redis.zadd("broker:{0}:due:another", {"g": now - 500})
    assert await store.schedule.find_due(PROVIDERS, 1000) == {"p01", "p03", "p39"}
    assert await store.schedule.find_due(PROVIDERS, 20_000) == {"p01", "p02", "p03", "p39"}


async def test_suspended_providers(store: Store, redis: Redis) -> None:
    """Those that are suspended are found, whatever else is known of others."""
    await redis.hset("broker:{0}:provider:p07", mapping={"suspended": "invalid_client", "ailing": 3})
    await redis.hset("broker:{0}:provider:p08", "ailing", 5)
    assert await store.grants.suspended(PROVIDERS) == ["p07"]
    assert await store.grants.suspended([]) == []


async def test_states_of_many_providers(store: Store, redis: Redis) -> None:
    """Each provider has its own health and counts."""
    await imported(store, "a", "b", provider="p01")
    await claimed(store, provider="p01")
    await redis.zadd("broker:{0}:parked:p02", {"c": 1})
    facts: dict[str, str | int] = {
        "suspended": "breaker",
        "suspended_at": 7,
        "not_before": 8,
        "ailing": 3,
        "detail": "why",
    }
    await redis.hset("broker:{0}:provider:p39", mapping=facts)  # type: ignore[arg-type]  # its keys may be bytes too
    states = {state.name: state for state in await store.grants.providers(PROVIDERS)}
    assert list(states) == PROVIDERS
    assert states["p01"].counts == {"parked": 0, "leased": 1, "due": 1}
    assert states["p02"].counts == {"parked": 1, "leased": 0, "due": 0}
    last = states["p39"]
    assert (last.suspended, last.suspended_at, last.not_before, last.ailing, last.detail) == ("breaker", 7, 8, 3, "why")
    assert (states["p00"].suspended, states["p00"].ailing, sum(states["p00"].counts.values())) == (None, 0, 0)
    assert await store.grants.providers([]) == []


async def test_pages_over_many_providers(store: Store, redis: Redis) -> None:
    """Every grant stands on one page: parked ones first, then by provider and time, however sets and pages fall."""
    wanted = []
    for index, provider in enumerate(PROVIDERS):
        names = [f"{provider}-{number:03}" for number in range((0, 1, 0, 7, 250)[index % 5])]
        for name in names:
            await redis.hset(
                f"broker:{{0}}:grant:{name}",
                mapping={"provider": provider, "generation": 1, "granted_at": 1, "refresh_at": 1},
            )
        if names:
            await redis.zadd(f"broker:{{0}}:due:{provider}", {name: 1000 + at for at, name in enumerate(names)})
        wanted += names
    for parked in ("p23-000", "p03-002"):
        await redis.zrem(f"broker:{{0}}:due:{parked[:3]}", parked)
        await redis.zadd(f"broker:{{0}}:parked:{parked[:3]}", {parked: 5})
        wanted.remove(parked)
    wanted = ["p03-002", "p23-000", *wanted]
    for limit in (1000, 100, 37):
        found, cursor = [], None
        while True:
            page = await store.grants.page(PROVIDERS, ["parked", "leased", "due"], cursor, limit)
            assert len(page.rows) <= limit
            found += [grant.grant_id for _, grant in page.rows]
            cursor = page.next
            if cursor is None:
                break
        assert found == wanted
    odd = await store.grants.page(PROVIDERS, ["due"], None, 30, lambda name: name.endswith("6"))
    assert [grant.grant_id for _, grant in odd.rows] == [name for name in wanted[2:] if name.endswith("6")][:30]
