"""Many imports in one trip: each is decided as if it came alone, in its order, and none harms its neighbour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import StoreUnavailable
from broker.secret import Secret
from broker.store import Import, Registered
from tests.store.steps import brought_by, imported, sets

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store


def line(store: Store, grant_id: str, token: str = "", provider: str = "p") -> Import:
    """Return an import that is due now."""
    return Import(grant_id, provider, Secret(token or f"r-{grant_id}"), None, store.clock())


async def statuses(store: Store, *lines: Import) -> list[str]:
    """Import together; return what became of each."""
    results = await store.registry.import_many(lines)
    return [result.status if isinstance(result, Registered) else type(result).__name__ for result in results]


async def test_every_decision_in_one_trip(store: Store, redis: Redis) -> None:
    """New, again, newer, outdated, of another provider, in flight, and held by a line before it."""
    await imported(store, "again", "newer", "outdated", "moved", "leased")
    await store.registry.import_("outdated", "p", Secret("r-second"), None, due_at=store.clock())
    for grant in ("again", "newer", "outdated", "moved"):
        await redis.zadd("broker:{0}:due:p", {grant: store.clock() + 60_000})
    assert [claim.grant_id for claim in (await brought_by(store, 5)).claims] == ["leased"]
    assert await statuses(
        store,
        line(store, "new"),
        line(store, "again"),
        line(store, "newer", "r-newest"),
        line(store, "outdated"),
        line(store, "moved", provider="q"),
        line(store, "leased", "r-other"),
        line(store, "thief", "r-new"),
    ) == ["created", "unchanged", "replaced", "outdated", "replaced", "leased", "held"]
    assert await store.grants.refresh_token("newer") == ("p", Secret("r-newest"))
    assert await store.grants.refresh_token("outdated") == ("p", Secret("r-second"))
    assert await store.grants.refresh_token("moved") == ("q", Secret("r-moved"))
    assert await store.grants.get("thief") is None
    assert await sets(redis, "new") == ["due"]


async def test_a_script_that_the_server_forgot(store: Store, redis: Redis) -> None:
    """A server without the script gets its text, and every line is stored."""
    await redis.script_flush()
    assert await statuses(store, line(store, "g1"), line(store, "g2")) == ["created", "created"]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_damaged_key_is_replaced(store: Store, redis: Redis, place: int) -> None:
    """A key of another type fails no line, wherever it stands: what is imported takes its place."""
    names = ["g1", "g2", "g3"]
    await redis.set(f"broker:{{0}}:grant:{names[place]}", "no hash")
    found = await statuses(store, *(line(store, name) for name in names))
    assert [found[n] for n in range(3) if n != place] == ["created", "created"]
    assert found[place] == "created"
    assert await redis.type(f"broker:{{0}}:grant:{names[place]}") == b"hash"


async def test_a_call_that_redis_refuses(store: Store, redis: Redis) -> None:
    """Where Redis refuses the write of one line, the others count; where it refuses all of them, that is raised."""
    await redis.set("broker:{0}:due:broken", "no set")
    assert await statuses(store, line(store, "g1"), line(store, "g2", provider="broken")) == [
        "created",
        "DamagedSchedule",
    ]
    with pytest.raises(StoreUnavailable, match="due:broken holds something else"):
        await store.registry.import_many([line(store, "g3", provider="broken")])


async def test_a_grant_that_changes_between_reading_and_writing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line whose grant changed meanwhile is read again and stored; its neighbours are not written twice."""
    await imported(store, "g1")
    get_many, times = store.grants.get_many, []

    async def overtaken(grant_ids: Any) -> Any:
        held = await get_many(grant_ids)
        times.append(list(grant_ids))
        if len(times) == 1:
            await store.registry.import_("g1", "p", Secret("r-between"), None, due_at=store.clock())
        return held

    monkeypatch.setattr(store.grants, "get_many", overtaken)
    assert await statuses(store, line(store, "g1", "r-last"), line(store, "g2")) == ["replaced", "created"]
    assert times == [["g1", "g2"], ["g1"], ["g1"]], "read, imported between, read again"
    assert await store.grants.refresh_token("g1") == ("p", Secret("r-last"))
