"""A store moves to another Redis: whole, and in no moment may a broker write in both."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from broker.errors import InvalidSettings, StoreUnavailable, WrongStore
from broker.secret import Sealer, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import Flow, Store, open_store
from broker.store.opening import unknown_schema
from broker.store.redis.moved import ARRIVING_SCHEMA, LEFT_SCHEMA, describe_move
from tests.redis_server import RedisServer, client
from tests.store.moves import META, BrokenOff, Plan, contents, move, moving, runs_in
from tests.store.steps import claimed, commit_of, imported, refreshed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WRITES = 8
"""How many writes a small move has: a test checks it."""
ABORT_WRITES = 5
"""How many writes an abort of it has."""


@pytest.fixture
async def new(own_redis: RedisServer) -> AsyncIterator[Redis]:
    """Yield a client of the Redis to move to."""
    async with client(own_redis.port) as redis:
        yield redis


async def fill(store: Store, redis: Redis) -> None:
    """Make some of every kind of key."""
    await refreshed(store, redis, "g1", "g2", "g3")
    await imported(store, "gone")
    await store.registry.forget("gone", {})
    await store.flows.put("ticket", Flow("ticket", "g1", "p", "ticket"))
    await store.history.add({("p", store.clock() // 60_000): (1, 0)})
    await store.notices.enqueue("webhook", ["grant/g1"])


async def test_a_move_brings_everything(
    store: Store, redis: Redis, new: Redis, shared_redis: RedisServer, own_redis: RedisServer
) -> None:
    """Every key arrives, the store keeps its id, and afterwards brokers write in the new one alone."""
    await fill(store, redis)
    before = await contents(redis)
    done = await move(shared_redis.url, own_redis.url)
    assert await contents(new) == before
    assert (done.grants, done.keys, done.repaired, done.unanswered) == (3, len(before), 0, {})
    meta: Any = await new.hgetall(META)
    assert meta[b"store"].decode() == store.store_id
    assert not any(name.startswith(b"move") for name in meta)
    assert {name for name in meta if name.startswith(b"provider:")} == {b"provider:p"}
    assert await runs_in(store, own_redis)
    assert not await runs_in(store, shared_redis)
    with pytest.raises(WrongStore, match=f"this store was left: token-broker move brought it to {own_redis.url}"):
        await store.schedule.claim("p", 1, 60_000)
    again = await move(shared_redis.url, own_redis.url)
    assert again.already


async def test_nobody_claims_on_the_new_redis_before_journals_were_replayed(
    store: Store, redis: Redis, shared_redis: RedisServer, own_redis: RedisServer, key: str, tmp_path: Path
) -> None:
    """The first claim is fenced for the hold-off."""
    await refreshed(store, redis, "g1")
    await move(shared_redis.url, own_redis.url)
    async with open_store(
        RedisSettings(url=own_redis.url), Sealer(parse_sealing_keys(key)), data_dir=tmp_path
    ) as moved_store:
        await moved_store.identify(store.store_id)
        assert (await moved_store.schedule.claim("p", 1, 60_000)).fenced is not None


async def test_large_keys_arrive_whole(
    store: Store, redis: Redis, new: Redis, shared_redis: RedisServer, own_redis: RedisServer
) -> None:
    """Keys of thousands of items are copied part by part, and a difference in a later part is found."""
    await imported(store, "g1")
    await redis.zadd("broker:{0}:due:q", {f"g{n:05}": 1_796_060_000_000.5 + n for n in range(3000)})
    await redis.hset("broker:{0}:held", mapping={f"f{n}": f"g{n}" for n in range(3000)})
    await redis.rpush("broker:{0}:attempts:x", *(str(n) for n in range(1000)))
    before = await contents(redis)
    async with moving(shared_redis.url, own_redis.url) as one:
        await one._begin()
        await one._hold_back((await one._begin())[0])
        await one._fill((await one._begin())[1])
        assert await contents(new) == before
        await new.zadd("broker:{0}:due:q", {"g02999": 5})
        await new.hset("broker:{0}:held", "f2999", "another")
        await new.rpush("broker:{0}:attempts:x", "more")
        await new.set("broker:{0}:surplus", "x")
        assert len(await one._copy.compare(lambda *_: None)) == 4
        assert not await one._copy.compare(lambda *_: None)
    assert await contents(new) == before


async def test_a_small_move_has_so_many_writes(
    store: Store, redis: Redis, shared_redis: RedisServer, own_redis: RedisServer
) -> None:
    """What is broken off below is every write of a move."""
    await fill(store, redis)
    plan = Plan()
    await move(shared_redis.url, own_redis.url, plan)
    assert plan.writes == WRITES


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, WRITES + 1))
async def test_broken_off_and_repeated(
    store: Store, redis: Redis, new: Redis, shared_redis: RedisServer, own_redis: RedisServer, at: int, *, after: bool
) -> None:
    """Broken off at any write, brokers may write in one store at most; repeated, everything has moved."""
    await fill(store, redis)
    before = await contents(redis)
    with pytest.raises(BrokenOff):
        await move(shared_redis.url, own_redis.url, Plan(at, after))
    assert not (await runs_in(store, shared_redis) and await runs_in(store, own_redis))
    await move(shared_redis.url, own_redis.url)
    assert await contents(new) == before
    assert await runs_in(store, own_redis)
    assert not await runs_in(store, shared_redis)


@pytest.mark.parametrize("at", range(1, WRITES + 1))
async def test_broken_off_and_aborted(
    store: Store, redis: Redis, new: Redis, shared_redis: RedisServer, own_redis: RedisServer, at: int
) -> None:
    """Aborted after it was broken off, the old store is as before and the new Redis empty, unless that was opened."""
    await fill(store, redis)
    before = await contents(redis)
    with pytest.raises(BrokenOff):
        await move(shared_redis.url, own_redis.url, Plan(at, after=True))
    async with moving(shared_redis.url, own_redis.url) as one:
        if at == WRITES:
            with pytest.raises(InvalidSettings, match="was opened, and brokers may have used it"):
                await one.abort()
            return
        assert await one.abort()
    assert await redis.hget(META, "store") == store.store_id.encode()
    meta: Any = await redis.hgetall(META)
    assert not any(name.startswith(b"move") for name in meta)
    assert await contents(redis) == before
    assert await new.keys("*") == []
    assert await runs_in(store, shared_redis)


@pytest.mark.parametrize("at", range(1, ABORT_WRITES + 1))
async def test_an_abort_may_be_broken_off_too(
    store: Store, redis: Redis, new: Redis, shared_redis: RedisServer, own_redis: RedisServer, at: int
) -> None:
    """An abort that was broken off is repeated, and never leaves two stores in which brokers may write."""
    await fill(store, redis)
    before = await contents(redis)
    with pytest.raises(BrokenOff):
        await move(shared_redis.url, own_redis.url, Plan(WRITES - 1, after=True))  # left, and not opened yet
    async with moving(shared_redis.url, own_redis.url, Plan(at, after=True)) as one:
        with pytest.raises(BrokenOff):
            await one.abort()
    assert not (await runs_in(store, shared_redis) and await runs_in(store, own_redis))
    async with moving(shared_redis.url, own_redis.url) as one:
        with contextlib.suppress(InvalidSettings):  # there is nothing to abort any more
            await one.abort()
    assert await new.keys("*") == []
    assert await contents(redis) == before
    assert await runs_in(store, shared_redis)


async def test_two_moves_at_once_do_no_harm(
    store: Store, redis: Redis, new: Redis, shared_redis: RedisServer, own_redis: RedisServer
) -> None:
    """A process that still copies when another one has opened the new store writes nothing there any more."""
    await fill(store, redis)
    async with moving(shared_redis.url, own_redis.url) as slow:
        old, _ = await slow._begin()
        await slow._hold_back(old)
        await move(shared_redis.url, own_redis.url)
        await new.hset("broker:{0}:grant:g1", "generation", "9")
        with pytest.raises(WrongStore):
            await slow._copy_from("0", "run")
    assert await new.hget("broker:{0}:grant:g1", "generation") == b"9"


async def test_an_abort_ends_a_move_that_still_runs(
    store: Store, redis: Redis, shared_redis: RedisServer, own_redis: RedisServer
) -> None:
    """The move that was aborted from elsewhere can neither leave the old store nor open the new one."""
    await fill(store, redis)
    async with moving(shared_redis.url, own_redis.url) as slow:
        old, _ = await slow._begin()
        await slow._hold_back(old)
        async with moving(shared_redis.url, own_redis.url) as other:
            await other.abort()
        for step in (slow._leave, slow._open):
            with pytest.raises((StoreUnavailable, KeyError)):
                await step()
    assert await runs_in(store, shared_redis)
    assert not await runs_in(store, own_redis)


async def test_a_mark_that_the_old_redis_lost_ends_the_move(
    store: Store, redis: Redis, new: Redis, shared_redis: RedisServer, own_redis: RedisServer
) -> None:
    """After a failover that lost the mark brokers ran again: the store is not opened, and the next move copies anew."""
    await fill(store, redis)
    async with moving(shared_redis.url, own_redis.url) as one:
        old, fresh = await one._begin()
        await one._hold_back(old)
        await one._fill(fresh)
        await redis.hset(META, "store", store.store_id)
        await redis.hset(META, "schema", "1")
        [claim] = await claimed(store)
        await store.schedule.commit(store.registry.prepare(commit_of(claim, refresh="r3")))
        with pytest.raises(WrongStore):
            await one._leave()
    await redis.hdel(META, "move_id", "move_store", "move_schema", "move_to", "move_at")
    before = await contents(redis)
    await move(shared_redis.url, own_redis.url)
    assert await contents(new) == before


async def test_back_to_the_redis_that_was_left(
    store: Store, redis: Redis, shared_redis: RedisServer, own_redis: RedisServer, new: Redis
) -> None:
    """The way back is a move like any other: what was left there is replaced."""
    await fill(store, redis)
    await move(shared_redis.url, own_redis.url)
    await new.hset("broker:{0}:grant:g1", "generation", "9")
    await new.delete("broker:{0}:grant:g2")
    after = await contents(new)
    await move(own_redis.url, shared_redis.url)
    assert await contents(redis) == after
    assert await runs_in(store, shared_redis)
    assert not await runs_in(store, own_redis)
    claimed_there = await store.schedule.claim("p", 1, 60_000)
    assert claimed_there.fenced is not None, "this run of the server was known there before the move"
    assert claimed_there.wait_ms <= 15_000, "and the fence of the drain that was there is not waited for"


async def test_a_broker_that_knows_no_store_begins_none(
    store: Store, redis: Redis, shared_redis: RedisServer, own_redis: RedisServer, key: str, tmp_path: Path
) -> None:
    """Neither the store that is left nor the incomplete one is taken for its own by a broker with a fresh data_dir."""
    await fill(store, redis)
    with pytest.raises(BrokenOff):
        await move(shared_redis.url, own_redis.url, Plan(5, after=True))
    for url, words in ((shared_redis.url, "is being moved to"), (own_redis.url, "is arriving here from")):
        async with open_store(RedisSettings(url=url), Sealer(parse_sealing_keys(key)), data_dir=tmp_path) as fresh:
            with pytest.raises(WrongStore, match=words):
                await fresh.identify(None)


class TestRefused:
    """What cannot be moved is refused before anything is changed."""

    async def test_a_redis_with_another_store(
        self, store: Store, redis: Redis, new: Redis, shared_redis: RedisServer, own_redis: RedisServer
    ) -> None:
        """The new Redis holds grants of somebody else."""
        await fill(store, redis)
        await new.hset(META, mapping={"store": "somebody", "schema": "1"})
        with pytest.raises(InvalidSettings, match=r"already holds a store \(somebody\) under namespace 'broker'"):
            await move(shared_redis.url, own_redis.url)
        assert await new.hgetall(META) == {b"store": b"somebody", b"schema": b"1"}
        assert await runs_in(store, shared_redis)

    async def test_keys_without_a_store(
        self, store: Store, redis: Redis, new: Redis, shared_redis: RedisServer, own_redis: RedisServer
    ) -> None:
        """Keys under the namespace are named; those of other programs do not matter."""
        await fill(store, redis)
        await new.set("another:program", "x")
        await new.set("broker:{0}:grant:theirs", "x")
        with pytest.raises(InvalidSettings, match=r"already has keys .*broker:\{0\}:grant:theirs"):
            await move(shared_redis.url, own_redis.url)
        await new.delete("broker:{0}:grant:theirs")
        await move(shared_redis.url, own_redis.url)
        assert await new.get("another:program") == b"x"

    async def test_the_same_redis(self, store: Store, redis: Redis, shared_redis: RedisServer) -> None:
        """By another name too; another database of one server is another place."""
        await fill(store, redis)
        with pytest.raises(InvalidSettings, match="names the Redis of the settings itself"):
            await move(shared_redis.url, shared_redis.url.replace("127.0.0.1", "localhost"))
        await move(shared_redis.url, shared_redis.url.removesuffix("0") + "7")
        assert not await runs_in(store, shared_redis)

    async def test_nothing_to_move(self, redis: Redis, shared_redis: RedisServer, own_redis: RedisServer) -> None:
        """The old Redis holds no store."""
        del redis
        with pytest.raises(InvalidSettings, match="there is nothing to move"):
            await move(shared_redis.url, own_redis.url)

    async def test_another_target_than_before(
        self, store: Store, redis: Redis, shared_redis: RedisServer, own_redis: RedisServer
    ) -> None:
        """A move that was broken off goes on to the same place."""
        await fill(store, redis)
        with pytest.raises(BrokenOff):
            await move(shared_redis.url, own_redis.url, Plan(3, after=True))
        with pytest.raises(InvalidSettings, match=f"is being moved to {own_redis.url}: use --to {own_redis.url}"):
            await move(shared_redis.url, own_redis.url.removesuffix("0") + "3")

    async def test_a_replica(
        self, store: Store, redis: Redis, shared_redis: RedisServer, own_redis: RedisServer
    ) -> None:
        """A read-only server is no target."""
        await fill(store, redis)
        await own_redis.ask("REPLICAOF", "127.0.0.1", str(shared_redis.port))
        with pytest.raises(StoreUnavailable, match="read-only replica"):
            await move(shared_redis.url, own_redis.url)
        assert await runs_in(store, shared_redis)
        await own_redis.ask("REPLICAOF", "NO", "ONE")

    async def test_a_store_that_the_broker_does_not_know(
        self, store: Store, redis: Redis, shared_redis: RedisServer, own_redis: RedisServer
    ) -> None:
        """The settings' data_dir belongs to another store."""
        await fill(store, redis)
        async with moving(shared_redis.url, own_redis.url, known="another") as one:
            with pytest.raises(InvalidSettings, match="knows store another"):
                await one.run(wait_s=0.05)


@pytest.mark.parametrize("schema", [LEFT_SCHEMA, ARRIVING_SCHEMA])
def test_a_version_that_knows_of_no_move_does_not_start(schema: str) -> None:
    """Its fresh data_dir would take any store's id for its own, but not this schema."""
    assert unknown_schema(schema.encode()) is not None


def test_names_without_a_move_say_nothing() -> None:
    """The id of an ordinary store is of no move."""
    assert describe_move("0123456789abcdef") is None
    assert describe_move("") is None
