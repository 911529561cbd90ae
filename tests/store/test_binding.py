"""What somebody who can write Redis, but has no key, cannot do with sealed values."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

import pytest

from broker.secret import CannotOpen, Sealer, Tampered, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import open_store
from broker.store.reseal_walk import Position, conclude, walk
from broker.store.resealing import BINDS, CANARY, SEALED_FIELDS
from tests.store.steps import brought_by, claimed, commit_of, imported, refreshed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from redis.asyncio import Redis

    from broker.secret import Purpose
    from broker.store import Store
    from tests.redis_server import RedisServer

HASH = "broker:{0}:grant:g1"
IN_2286 = 9_999_999_999_999
KEY = bytes(range(32))


async def test_a_grant_moved_to_another_provider(store: Store, redis: Redis) -> None:
    """Its refresh token is not handed out for a request there, and its access token is not served as that one's."""
    await refreshed(store, redis, "g1")
    await redis.hset(HASH, "provider", "evil")
    await redis.zadd("broker:{0}:due:evil", {"g1": 1})
    brought = await brought_by(store, 1, "evil")
    assert not brought.claims
    (refused,) = brought.unreadable
    assert not refused.refresh_token.reveal()
    assert refused.tampered == "it is of provider p, and stands in a grant of evil"
    grant = await store.grants.get("g1")
    assert grant is not None
    assert grant.token is None
    assert grant.tampered == refused.tampered
    assert await store.grants.refresh_token("g1") is None


@pytest.mark.parametrize("field", ["expires_at", "issued_at", "generation", "granted_at"])
async def test_times_lengthen_nothing(store: Store, redis: Redis, field: str) -> None:
    """A token ends when it was sealed to end, whatever stands beside it; a person logs in again as early as before."""
    await refreshed(store, redis, "g1")
    before = await store.grants.get("g1")
    assert before is not None
    assert before.token is not None
    await redis.hset(HASH, field, IN_2286)
    grant = await store.grants.get("g1")
    assert grant is not None
    assert grant.token is not None
    assert grant.token.expires_at == before.token.expires_at
    (claim,) = await claimed(store)
    assert claim.granted_at == before.granted_at
    assert (claim.expires_at or 0) == before.token.expires_at


async def test_an_earlier_end_counts(store: Store, redis: Redis) -> None:
    """After its clock was set back, Redis itself moves the end of a token (rewind.lua)."""
    await refreshed(store, redis, "g1")
    before = await store.grants.get("g1")
    assert before is not None
    assert before.token is not None
    await redis.hset(HASH, "expires_at", before.token.expires_at - 60_000)
    after = await store.grants.get("g1")
    assert after is not None
    assert after.token is not None
    assert after.token.expires_at == before.token.expires_at - 60_000


async def test_what_is_sealed_counts(store: Store, redis: Redis) -> None:
    """Another token type or scope beside a token is not served; another scope is not asked for."""
    await refreshed(store, redis, "g1")
    await redis.hset(HASH, mapping={"token_type": "MAC", "scope": "everything"})
    grant = await store.grants.get("g1")
    assert grant is not None
    assert grant.token is not None
    assert (grant.token.token_type, grant.token.scope) == ("Bearer", None)
    (refused,) = (await brought_by(store)).unreadable
    assert refused.tampered == "its scope is another than that of its tokens"


@pytest.mark.parametrize("alter", ["generation", "extra"])
async def test_parts_of_two_generations(store: Store, redis: Redis, alter: str) -> None:
    """An access token beside an older generation, or beside the members of another token, is not served."""
    await refreshed(store, redis, "g1")
    old = await redis.hget(HASH, "extra")
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(claim, "a2", "r3")))
    assert (await read(store)).tampered is None
    await redis.hset(HASH, *(("generation", 1) if alter == "generation" else ("extra", old or b"")))
    assert (await read(store)).tampered == "its access token is of another generation than what stands beside it"


async def test_values_of_another_store(
    store: Store, own_redis: RedisServer, redis: Redis, key: str, tmp_path: Path
) -> None:
    """A grant copied from another store with the same key is neither served nor refreshed."""
    await refreshed(store, redis, "g1")
    copied: Any = await redis.hgetall(HASH)
    async with opened(own_redis, key, tmp_path) as other:
        await other.primary.call("HSET", HASH, *(item for pair in copied.items() for item in pair))
        assert "of store" in ((await read(other)).tampered or "")


async def test_a_store_of_the_version_before(
    store: Store, redis: Redis, shared_redis: RedisServer, key: str, tmp_path: Path
) -> None:
    """Its values are opened, and stay in the form that this version reads and older ones too, until it is resealed.

    Then all are bound, every broker binds what it writes, and a value of before that somebody puts back is refused.
    """
    await like_the_version_before(store, redis)
    await refreshed(store, redis, "g1")
    plain: Any = await redis.hgetall(HASH)
    assert not store.sealer.binds
    assert (await read(store)).token is not None
    async with opened(shared_redis, key, tmp_path) as other:
        step = await walk(other.resealing, Position())
        assert (step.next, step.unreadable, step.grants_resealed) == (None, frozenset(), 1)
        assert (await conclude(other.resealing, step.unreadable)).detail
        assert other.sealer.requires_bound
        bound: Any = await redis.hgetall(HASH)
        assert not {field for field in SEALED_FIELDS if field in bound and bound[field] == plain[field]}
        assert (await read(store)).token is not None
        assert store.sealer.binds, "reading a bound value has a broker bind too"
        (claim,) = await claimed(store)
        await store.schedule.commit(store.registry.prepare(commit_of(claim)))
        assert (await read(other)).token is not None
        await redis.hset(HASH, mapping=plain)
        assert "before this store was resealed" in ((await read(other)).tampered or "")
    async with opened(shared_redis, key, tmp_path) as started_later:
        assert started_later.sealer.requires_bound
        assert (await read(started_later)).token is None


async def test_a_journal_of_before(
    store: Store, redis: Redis, shared_redis: RedisServer, key: str, tmp_path: Path
) -> None:
    """What a journal brings into a store that holds bound values alone is bound on the way."""
    await like_the_version_before(store, redis)
    await imported(store, "g1")
    (claim,) = await claimed(store)
    record = store.registry.prepare(commit_of(claim)).record
    async with opened(shared_redis, key, tmp_path) as other:
        await walk(other.resealing, Position())
        await conclude(other.resealing, frozenset())
        assert await other.registry.restore(record) == "restored"
        grant = await read(other)
        assert grant.token is not None
        assert grant.token.access_token.reveal() == "a1"
        assert await other.registry.restore(store.registry.reseal_record(record)) == "known"


async def test_the_note_alone_demands_nothing(
    store: Store, redis: Redis, shared_redis: RedisServer, key: str, tmp_path: Path
) -> None:
    """Whoever writes the note `sealing` has brokers bind; whoever takes it away loosens nothing."""
    await redis.hdel("broker:{0}:meta", BINDS)
    async with opened(shared_redis, key, tmp_path) as other:
        assert other.sealer.requires_bound
        assert other.sealer.binds
    assert store.sealer.binds


async def test_seals_are_counted(store: Store, redis: Redis) -> None:
    """The count of a key is kept in the store, a thousand at a time."""
    field = f"seals:{store.sealer.first.hex()}"
    await store.seals.add()
    assert await redis.hget("broker:{0}:meta", field) is None
    for _ in range(1_000):
        store.sealer.seal("x", "g", "extra")
    await store.seals.add()
    assert int(await redis.hget("broker:{0}:meta", field) or 0) == store.sealer.seals


@pytest.mark.parametrize("purpose", ["flow", "session", "cursor", "journal", "meta"])
def test_each_purpose_has_its_key(purpose: Any) -> None:
    """What is sealed for one purpose opens for no other, even where the contexts are the same."""
    sealer = Sealer([KEY])
    sealer.binds = True
    sealed = sealer.seal("text", "a", "b", purpose=purpose)
    assert sealer.open(sealed, "a", "b", purpose=purpose) == "text"
    with pytest.raises(CannotOpen):
        sealer.open(sealed, "a", "b")


def test_the_plain_form_is_refused_where_redis_could_bring_it_back() -> None:
    """A journal is a file of the broker's own, and a cursor a caller's for a page: their plain form stays readable."""
    sealer, before = Sealer([KEY]), Sealer([KEY])
    sealer.requires_bound = True
    for purpose in cast("tuple[Purpose, ...]", ("grant", "flow")):
        with pytest.raises(Tampered):
            sealer.open(before.seal("text", "a"), "a", purpose=purpose)
    for purpose in cast("tuple[Purpose, ...]", ("journal", "cursor", "session")):
        assert sealer.open(before.seal("text", "a"), "a", purpose=purpose) == "text"


async def like_the_version_before(store: Store, redis: Redis) -> None:
    """Make an empty store what the version before would have begun."""
    store.sealer.binds = store.sealer.requires_bound = False
    await redis.hset("broker:{0}:meta", "canary", store.sealer.seal("token-broker canary", *CANARY))
    await redis.hdel("broker:{0}:meta", BINDS)


async def read(store: Store) -> Any:
    """Return the grant, which must be there."""
    grant = await store.grants.get("g1")
    assert grant is not None
    return grant


@contextlib.asynccontextmanager
async def opened(server: RedisServer, key: str, folder: Path) -> AsyncIterator[Store]:
    """Open the store of *server* as another broker with the same key."""
    sealer = Sealer(parse_sealing_keys(key))
    async with open_store(RedisSettings(url=server.url), sealer, data_dir=folder) as other:
        await other.identify()
        yield other
