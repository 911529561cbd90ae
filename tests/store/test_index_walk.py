"""The walk that keeps the index true: data of a version without it, brokers of that version, and any order of both."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.model import Park, Postpone
from broker.process.heartbeat import Heartbeat
from broker.secret import Sealer, Secret, new_sealing_key, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import Store, index_walk, open_store
from broker.store.index_walk import IndexWalk, Position, examine
from broker.store.urgency import INDEXED
from tests.store.ends import (
    IN_ORDER,
    PROVIDERS,
    Index,
    by_hashes,
    claim_of,
    end_token,
    fail,
    heal,
    index,
    index_keys,
    listed,
    older_broker,
    populate,
    rows,
)
from tests.store.steps import commit_of, imported, refreshed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from redis.asyncio import Redis

    from tests.redis_server import RedisServer

META = "broker:{0}:meta"


async def written_before(store: Store, redis: Redis) -> None:
    """Leave the store as a version without the index would have written it."""
    await redis.delete(*await index_keys(store))
    await redis.hdel(META, INDEXED)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a walk go on at once, two grants at a time."""
    for name in ("_PAUSE", "_SHORT_PAUSE"):
        monkeypatch.setattr(index_walk, name, 0.0)
    monkeypatch.setattr(examine, "__kwdefaults__", {"page": 2})


@pytest.mark.usefixtures("quick")
async def test_data_of_the_version_before(store: Store, redis: Redis) -> None:
    """A walk writes it into the index and then says so; broken off, it goes on where it was, in any replica."""
    await populate(store, redis)
    await written_before(store, redis)
    assert not await store.urgency.is_complete()
    assert await listed(store) == []
    for _ in range(3):
        await IndexWalk(store, Heartbeat("index")).step()
    begun = await index(store)
    assert 0 < sum(map(len, begun.values())) < sum(map(len, (await by_hashes(store)).values()))
    assert Position.parse((await store.primary.call("HGET", store.keys.last_notices("index"), "index")).decode())
    another, steps = IndexWalk(store, Heartbeat("index")), 0
    while not await store.urgency.is_complete():
        await another.step()
        steps += 1
    assert steps < 20
    assert await index(store) == await by_hashes(store)
    assert await listed(store) == IN_ORDER


async def test_a_new_store_lacks_nothing(store: Store) -> None:
    """Where there never was a grant, the counts are complete from the beginning."""
    assert await store.urgency.is_complete()


async def test_one_replica_walks_at_a_time(store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one replica examines a page, another has nothing to do; Redis that is away is the heartbeat's trouble."""
    monkeypatch.setattr(index_walk, "_PAUSE", 0.0)
    await imported(store, "a")
    await store.notices.enqueue("index", ["index"])
    [leased] = await store.notices.lease("index", 1, 60_000)
    await redis.delete("broker:{0}:ends:p")
    heartbeat = Heartbeat("index")
    await IndexWalk(store, heartbeat).step()
    assert await index(store) == {}
    await store.notices.finish("index", leased, "", 0)
    await IndexWalk(store, heartbeat).step()
    assert await index(store) == await by_hashes(store)
    await redis.hset(META, "store", "another")
    await IndexWalk(store, heartbeat).step()
    assert "another" in heartbeat.trouble


async def test_what_an_older_broker_leaves(store: Store, redis: Redis) -> None:
    """A list corrects what it reads: nothing is shown as unserved that is served, and nothing that is gone."""
    await populate(store, redis)
    async with older_broker(store):
        await store.schedule.commit(store.registry.prepare(commit_of(await claim_of(store, "late"))))
        await fail(store, "well")
        await store.registry.forget("dead", {})
        await store.registry.import_("best", "q", Secret("moved"), None, due_at=store.clock())
        await imported(store, "unseen")
    assert await store.urgency.counts(PROVIDERS) == {"p": (6, 2), "q": (2, 1)}, "the index knows nothing of it"
    assert await listed(store) == ["new", "gone", "fails", "other", "well", "late"]
    found = {row.grant.grant_id: row.served for row in await rows(store)}
    assert [name for name, served in found.items() if not served] == ["best", "new", "gone"]
    assert await listed(store) == ["best", "new", "gone", "fails", "well", "other", "late"]
    assert await heal(store) == 1, "only what no list has shown is left"
    assert await index(store) == await by_hashes(store)
    assert await heal(store) == 0


async def test_many_providers(store: Store, redis: Redis) -> None:
    """A page takes the sets of many providers, and goes on with those that it did not reach."""
    names = [f"p{n:03}" for n in range(120)]
    for name in names:
        await imported(store, f"g-{name}", provider=name)
    await written_before(store, redis)
    position, trips = None, 0
    while trips == 0 or position is not None:
        position, _ = await examine(store, names, position)
        trips += 1
    assert trips == 3, "600 sets, 250 at a time"
    assert await index(store) == await by_hashes(store)
    assert await listed(store, *names, limit=7) == [f"g-{name}" for name in names]


@pytest.mark.parametrize("record", ["", "due", "due~p~1", "gone~p~1~a", "due~p~1~ä", "due~p~-1~a"])
def test_a_record_of_no_position(record: str) -> None:
    """What is no position begins the walk anew."""
    assert Position.parse(record) is None


async def test_a_position_whose_provider_is_gone(store: Store) -> None:
    """The walk goes on with what comes behind it; behind the last set it is at its end."""
    await imported(store, "a")
    assert await examine(store, ["p"], Position("parked", "o", "1", "x")) == (None, 0)
    assert await examine(store, ["p"], Position("failing", "z")) == (None, 0)


GRANTS = ("a", "b", "B", "c-1", "c.1")
steps = st.lists(
    st.tuples(
        st.sampled_from(["import", "commit", "commit", "unusable", "fail", "park", "retry", "forget", "ends"]),
        st.sampled_from(GRANTS),
        st.sampled_from(PROVIDERS),
        st.integers(-3, 3),
        st.sampled_from([False, False, True]),
    ),
    max_size=25,
)


async def take(store: Store, what: str, grant: str, provider: str, number: int) -> None:
    """Do one thing to a grant, if it can be done; *number*: hours that its token then lives, equal for many."""
    held = await store.grants.get(grant)
    if what == "import":
        token = Secret(f"{grant}{store.clock()}{number}")
        await store.registry.import_(grant, provider, token, None, due_at=store.clock())
    elif held is None:
        return
    elif what == "ends":
        await end_token(store, grant, number * 3600, held.provider)
    elif what == "retry":
        await store.schedule.retry(grant, held.provider)
    elif what == "forget":
        await store.registry.forget(grant, {})
    elif held.reason is None:
        claim = await claim_of(store, grant, held.provider)
        if what == "park":
            await store.schedule.park(Park(claim, "dead", "rejected", "", "reauthorization_required"), {}, counts=False)
        elif what == "fail":
            await store.schedule.postpone(Postpone(claim, "busy", "http_503", "", store.clock(), 1), None)
        else:
            commit = replace(commit_of(claim), failures=int(what == "unusable"))
            assert commit.token is not None
            commit = replace(commit, token=replace(commit.token, expires_at=_hour(store) + number * 3_600_000))
            await store.schedule.commit(store.registry.prepare(commit))


def _hour(store: Store) -> int:
    return store.clock() // 3_600_000 * 3_600_000


def in_order(wanted: Index, now: int) -> list[str]:
    """Return the order of an urgent list, from an index that is true: the plain model."""
    every = {name: at for key, members in wanted.items() if key.startswith("ends:") for name, at in members.items()}
    failing = {name for key, members in wanted.items() if key.startswith("failing:") for name in members}
    return sorted(
        every, key=lambda name: (every[name] > now, every[name] > now and name not in failing, every[name], name)
    )


async def check(store: Store, done: Sequence[tuple[str, str, str, int, bool]], limit: int) -> None:
    """Take the steps, and compare index, list and counts with the model."""
    for what, grant, provider, number, older in done:
        if older:
            async with older_broker(store):
                await take(store, what, grant, provider, number)
        else:
            await take(store, what, grant, provider, number)
    wanted = await by_hashes(store)
    if not any(older for *_, older in done):
        assert await index(store) == wanted
    expected = in_order(wanted, store.clock())
    shown = await listed(store, limit=limit)
    assert len(shown) == len(set(shown)), shown
    assert set(shown) <= set(expected)
    await heal(store)
    assert await index(store) == wanted
    assert await heal(store) == 0
    assert await listed(store, limit=limit) == expected
    unserved = {name: sum(at <= store.clock() for at in wanted.get(f"ends:{name}", {}).values()) for name in PROVIDERS}
    counts = {name: (len(wanted.get(f"ends:{name}", {})), unserved[name]) for name in PROVIDERS}
    assert await store.urgency.counts(PROVIDERS) == counts
    healthy = [
        at
        for name in PROVIDERS
        for grant, at in wanted.get(f"ends:{name}", {}).items()
        if at > store.clock() and grant not in wanted.get(f"failing:{name}", {})
    ]
    assert await store.urgency.next_end(PROVIDERS) == min(healthy, default=None)


def test_any_order(shared_redis: RedisServer, tmp_path: Path) -> None:
    """Whatever brokers with and without the index do, a walk makes it say what the hashes say, and lists follow it."""
    sealer = Sealer(parse_sealing_keys(new_sealing_key()))
    number = 0

    async def example(done: Any, limit: int, *, mixed: bool) -> None:
        nonlocal number
        number += 1
        opened = open_store(RedisSettings(url=shared_redis.url, namespace=f"walk{number}"), sealer, data_dir=tmp_path)
        async with opened as store:
            await store.identify()
            await check(store, [(*each[:4], each[4] and mixed) for each in done], limit)
            await store.primary.call("DEL", *await store.primary.call("KEYS", f"{store.keys.all}*"))

    with asyncio.Runner() as runner:

        @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(steps, st.sampled_from([1, 2, 100]), st.booleans())
        def run(done: Any, limit: int, mixed: bool) -> None:
            runner.run(example(done, limit, mixed=mixed))

        run()


async def test_the_notice_of_a_whole_round(store: Store, redis: Redis) -> None:
    """A grant that moves while a walk goes on is examined in the next round at the latest."""
    await refreshed(store, redis, *GRANTS)
    await written_before(store, redis)
    position, _ = await examine(store, PROVIDERS, None, page=2)
    async with older_broker(store):
        await fail(store, "a")
    while position is not None:
        position, _ = await examine(store, PROVIDERS, position, page=2)
    await heal(store)
    assert await index(store) == await by_hashes(store)
