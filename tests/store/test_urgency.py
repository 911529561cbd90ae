"""The urgent list and the counts: what comes first, what is left out, where a page goes on, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import InvalidRequest
from broker.model import usable_until
from broker.secret import Secret
from tests.store.ends import IN_ORDER, by_hashes, claim_of, end_at, end_token, index, listed, populate, rows
from tests.store.steps import LEASE, commit_of, imported, refreshed
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store


async def test_the_most_urgent_come_first(store: Store, redis: Redis) -> None:
    """Over all providers: the longest unserved, then parked and failing ones, then the rest; all by end of token."""
    at = await populate(store, redis)
    for limit in (1, 2, 3, 100):
        assert await listed(store, limit=limit) == IN_ORDER
    found = {row.grant.grant_id: row for row in await rows(store)}
    assert {name for name, row in found.items() if not row.served} == {"new", "gone", "late"}
    since = {"new": found["new"].grant.granted_at, "gone": at["gone"], "late": at["late"]}
    assert {name: row.unserved_since for name, row in found.items()} == dict.fromkeys(IN_ORDER) | since
    assert (found["gone"].state, found["late"].state) == ("parked", "due")
    assert await store.urgency.counts(["p", "q", "none"]) == {"p": (6, 2), "q": (2, 1), "none": (0, 0)}
    assert await store.urgency.next_end(["p", "q"]) == at["other"]
    assert await store.urgency.next_end(["p"]) == at["well"], "failing ones do not count"
    assert await store.urgency.next_end(["none"]) is None
    assert await store.urgency.summary([]) == {}


async def test_what_may_be_seen(store: Store, redis: Redis) -> None:
    """Pages leave out what is not permitted, and other states and providers; a provider asked for twice is one."""
    await populate(store, redis)
    assert await listed(store, "q", limit=1) == ["gone", "other"]
    assert await listed(store, "q", "q") == ["gone", "other"]
    seen = [name for name in IN_ORDER if "t" in name]
    assert await listed(store, limit=1, permitted=lambda name: "t" in name) == seen == ["late", "other", "best"]
    assert await listed(store, limit=1, states=("parked",)) == ["gone", "dead"]
    assert await listed(store, "none") == []
    assert (await store.urgency.rows([], None, 10)).next is None


@pytest.mark.parametrize("cursor", ["", "0~1~a", "urgent~3~1~1~a", "urgent~0~1~1~ä", "urgent~0~1~-1~a", "urgent~1~2"])
async def test_a_foreign_cursor(store: Store, cursor: str) -> None:
    """What is of no page is refused."""
    with pytest.raises(InvalidRequest, match="cursor"):
        await store.urgency.rows(["p"], cursor, 1)


async def test_a_token_that_ends_between_two_pages(store: Store, redis: Redis) -> None:
    """A token that ends between two pages is on the second one: nothing is left out because time goes by."""
    await refreshed(store, redis, "a", "b", "c")
    await end_token(store, "a", -1)
    first = await store.urgency.rows(["p"], None, 1)
    began = int((first.next or "").split("~")[2])
    for n, grant in enumerate("bc", 1):
        await end_at(store, grant, began + n)
    await until(lambda: store.clock() > began + 2)
    second = await store.urgency.rows(["p"], first.next, 100)
    assert [(row.grant.grant_id, row.served) for row in second.rows] == [("b", False), ("c", False)]
    assert second.next is None


async def test_every_script_keeps_it(store: Store, redis: Redis) -> None:
    """Whatever moves a grant leaves the index as its hash has it, and a grant that is gone leaves nothing."""
    await populate(store, redis)
    assert await index(store) == await by_hashes(store)
    assert await store.schedule.retry("dead", "p") == "due"
    assert set((await index(store))["failing:p"]) == {"late", "fails"}
    await store.registry.import_("well", "q", Secret("moved"), None, due_at=store.clock())
    assert await index(store) == await by_hashes(store)
    assert await store.urgency.counts(["p", "q"]) == {"p": (5, 2), "q": (3, 2)}
    unusable = replace(commit_of(await claim_of(store, "best")), failures=1)
    assert await store.schedule.commit(store.registry.prepare(unusable)) == ("committed", True)
    assert "best" in (await index(store))["failing:p"]
    well_again = store.registry.prepare(commit_of(await claim_of(store, "fails")))
    assert await store.schedule.commit(well_again) == ("committed", True)
    assert "fails" not in (await index(store))["failing:p"]
    lost = commit_of(await claim_of(store, "dead"))
    assert await store.registry.restore(store.registry.prepare(lost).record) == "restored"
    assert await index(store) == await by_hashes(store)
    for grant in ("best", "late", "gone"):
        assert await store.registry.forget(grant, {})
    assert await index(store) == await by_hashes(store)
    assert {name for members in (await index(store)).values() for name in members} == set(IN_ORDER) - {
        *("best", "late", "gone")
    }


async def test_a_clock_that_is_set_back(store: Store, redis: Redis) -> None:
    """A token that was issued in the future ends earlier, in the index too."""
    await refreshed(store, redis, "a")
    later = store.clock() + 7_200_000
    await redis.hset("broker:{0}:grant:a", mapping={"issued_at": later, "expires_at": later + 3_600_000})
    await redis.zadd("broker:{0}:ends:p", {"a": later + 3_600_000})
    await store.clock_steps.rewind("p", LEASE)
    assert await index(store) == await by_hashes(store)
    assert (await index(store))["ends:p"]["a"] < later


async def test_a_token_is_served_to_its_end(store: Store, redis: Redis) -> None:
    """A refresh that ends the old token, and is late, leaves it served: callers get it until it expires."""
    await refreshed(store, redis, "a")
    store.grants._old_tokens = {"p": "dies"}
    await redis.hset("broker:{0}:grant:a", "refresh_at", store.clock() - 1)
    [row] = await rows(store)
    assert row.served
    token = row.grant.token
    assert token is not None
    assert token.usable_until == usable_until(token.expires_at, token.refresh_at, "dies") < store.clock()
    assert await store.urgency.counts(["p"]) == {"p": (1, 0)}


async def test_a_grant_that_no_key_opens(store: Store, redis: Redis) -> None:
    """It is not served, and nobody knows since when."""
    await refreshed(store, redis, "a")
    await redis.hset("broker:{0}:grant:a", "access_token", "what no key opens")
    [row] = await rows(store)
    assert (row.served, row.unserved_since) == (False, None)


async def fill(redis: Redis, many: int, *, unserved: int, now: int) -> None:
    """Write grants as a broker leaves them, without the cost of sealing each."""
    pipe: Any = redis.pipeline()
    for n in range(many):
        ends_at = now - 1000 - n if n < unserved else now + 3_600_000 + n
        fields = {"provider": "p", "generation": 1, "granted_at": now, "refresh_at": now, "expires_at": ends_at}
        pipe.hset(f"broker:{{0}}:grant:g{n:05}", mapping=fields)
        pipe.zadd("broker:{0}:ends:p", {f"g{n:05}": ends_at})
        pipe.zadd("broker:{0}:due:p", {f"g{n:05}": now})
    await pipe.execute()


async def calls(redis: Redis) -> int:
    """Return how many commands the server ran since its statistics were reset, those of scripts included."""
    return sum(each["calls"] for name, each in (await redis.info("commandstats")).items() if "config" not in name)


async def test_what_it_costs(store: Store, redis: Redis) -> None:
    """A page and the counts run about as many commands with ten thousand grants as with four hundred."""
    costs = {}
    for many in (400, 10_000):
        await fill(redis, many, unserved=many // 2, now=store.clock())
        cursor = (await store.urgency.rows(["p"], None, 50)).next
        for what, work in (
            ("first", lambda: store.urgency.rows(["p"], None, 50)),
            ("second", lambda cursor=cursor: store.urgency.rows(["p"], cursor, 50)),
            ("counts", lambda: store.urgency.counts(["p"])),
        ):
            await redis.config_resetstat()
            await work()
            costs[what, many] = await calls(redis)
    for what in ("first", "second", "counts"):
        assert costs[what, 10_000] <= costs[what, 400] + 8, costs  # a search by rank: log2(10,000 / 400) is 4.6
    assert await store.urgency.counts(["p"]) == {"p": (10_000, 5_000)}
    assert len(await listed(store, limit=1000, permitted=lambda name: name.endswith("7"))) == 1000


async def test_equal_ends_in_a_row(store: Store, redis: Redis) -> None:
    """Grants without a token all have the same place: pages go through them by id, each once, at the same cost."""
    names = [f"g{n}" for n in range(150)]
    await imported(store, *names)
    assert await listed(store, limit=20) == sorted(names)
    await redis.config_resetstat()
    await store.urgency.rows(["p"], f"urgent~0~{store.clock()}~0~g80", 10)
    assert await calls(redis) < 1000
