"""The scripts on a real server: a grant is always in exactly one of due, leased and parked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.errors import InvalidSettings, StoreUnavailable, WrongStore
from broker.model import Ending, Park, Postpone
from broker.secret import Sealer, Secret, new_sealing_key, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import Store, open_store
from tests.steps import subscribed
from tests.store.steps import LEASE, brought_by, claimed, commit_of, imported, sets
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

    from tests.redis_server import RedisServer


async def test_claim_takes_no_more_than_the_free_slots(store: Store, redis: Redis) -> None:
    """Of ten due grants a lane with three free slots leases three; nobody leases them again."""
    await imported(store, *(f"g{n}" for n in range(10)))
    first = await claimed(store, 3)
    assert len(first) == 3
    assert {c.grant_id for c in first} & {c.grant_id for c in await claimed(store, 100)} == set()
    assert await claimed(store, 100) == []
    for number in range(10):
        assert await sets(redis, f"g{number}") == ["leased"]


async def test_tokens_lie_sealed(store: Store, redis: Redis) -> None:
    """Neither token nor extra member can be read in Redis, and a sealed field moved elsewhere does not open."""
    await imported(store, "g1", "g2")
    one, two = sorted(await claimed(store, 2), key=lambda c: c.grant_id)
    await store.schedule.commit(store.registry.prepare(commit_of(one, "access-token", "refresh-token")))
    await store.schedule.commit(store.registry.prepare(commit_of(two, "a-other")))
    raw = await redis.hgetall("broker:{0}:grant:g1")
    stored = b"".join(bytes(value) for value in raw.values())  # type: ignore[arg-type]
    for secret in (b"access-token", b"refresh-token", b"httpsBaseUrl"):  # long enough to be no chance
        assert secret not in stored
    await redis.hset("broker:{0}:grant:g2", "refresh_token", raw[b"refresh_token"])
    await redis.zadd("broker:{0}:due:p", {"g2": 1})
    moved = await brought_by(store)
    assert moved.claims == []
    assert [c.grant_id for c in moved.unreadable] == ["g2"]


async def test_commit_is_idempotent_by_attempt(store: Store, redis: Redis) -> None:
    """A commit whose reply was lost may be repeated: the second says already, and publishes nothing again."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    async with subscribed(redis, "g1") as heard:
        assert (await store.schedule.commit(store.registry.prepare(commit_of(claim)), [{"n": 1}]))[0] == "committed"
        assert (await store.schedule.commit(store.registry.prepare(commit_of(claim, "a9")), [{"n": 2}]))[0] == "already"
        await store.primary.call("PUBLISH", "broker:tokens:g1", '{"last": 1}')
        await until(lambda: {"last": 1} in heard)
    assert heard == [{"n": 1, "store": store.store_id}, {"last": 1}]
    grant = await store.grants.get("g1")
    assert grant is not None
    assert grant.token is not None
    assert grant.token.access_token == Secret("a1")
    assert await sets(redis, "g1") == ["due"]


async def test_commit_is_durable(store: Store) -> None:
    """With an AOF the commit's own connection proves that it is on disk; more replicas than there are is not proved."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    assert (await store.schedule.commit(store.registry.prepare(commit_of(claim))))[1] is True


async def test_commit_of_another_generation_is_refused(store: Store, redis: Redis) -> None:
    """A grant that was logged in anew, or is gone, takes no answer of an older refresh."""
    await imported(store, "g1", "g2")
    one, two = sorted(await claimed(store, 2), key=lambda c: c.grant_id)
    token = commit_of(one, "login").token
    assert token is not None
    seen = await store.registry.generation("g1")
    login = store.registry.prepare_login(token, Secret("r-login"), ending=Ending(), followed=0)
    await store.registry.log_in(login, seen=seen, message={})
    assert (await store.schedule.commit(store.registry.prepare(commit_of(one))))[0] == "superseded"
    assert await sets(redis, "g1") == ["due"]
    assert await store.grants.refresh_token("g1") == ("p", Secret("r-login"))
    assert await store.registry.forget("g2", {})
    assert (await store.schedule.commit(store.registry.prepare(commit_of(two))))[0] == "gone"
    assert await sets(redis, "g2") == []


ENDED = 1.5
"""Score of a lease whose second term ended too."""


async def test_a_stale_attempt_changes_nothing(store: Store, redis: Redis) -> None:
    """What a replica decided about an attempt that is no longer open is not written down."""
    await imported(store, "g1")
    (old,) = await claimed(store)
    await redis.zadd("broker:{0}:leased:p", {"g1": ENDED})
    (new,) = await claimed(store)
    assert new.attempt != old.attempt
    late = Postpone(old, "busy", "http_503", "", 9_999_999_999_999, 1, lane="ailing")
    assert await store.schedule.postpone(late, None) == "superseded"
    assert await store.schedule.park(Park(old, "dead", "x", "", "refresh_failing"), {}) == "superseded"
    assert await sets(redis, "g1") == ["leased"]


async def test_an_ended_lease_has_a_second_term(store: Store, redis: Redis) -> None:
    """A lease whose end passed unseen (a frozen server, a clock ahead) leaves its holder the time to commit, once."""
    await imported(store, "g1", "g2")
    one, _ = await claimed(store, 2)
    await redis.zadd("broker:{0}:leased:p", {"g1": 1, "g2": 1})
    assert await claimed(store, 2) == []
    assert (await store.schedule.commit(store.registry.prepare(commit_of(one))))[0] == "committed"
    left = (await redis.zscore("broker:{0}:leased:p", "g2") or 0) - store.clock()
    assert 14_000 < left <= 15_001
    await redis.zadd("broker:{0}:leased:p", {"g2": ENDED})
    assert [claim.grant_id for claim in await claimed(store, 2)] == ["g2"]


async def test_an_ended_lease_shows_its_open_attempt(store: Store, redis: Redis) -> None:
    """A replica that died left its attempt open: the next claim says since when, and keeps saying the first time."""
    await imported(store, "g1")
    (first,) = await claimed(store)
    again = first
    for _ in range(2):
        await redis.zadd("broker:{0}:leased:p", {"g1": ENDED})
        (again,) = await claimed(store)
        assert again.unknown_at is not None
        assert abs(again.unknown_at - first.claimed_at) < 1000
    await store.schedule.commit(store.registry.prepare(commit_of(again)))
    await redis.zadd("broker:{0}:due:p", {"g1": 1})
    (clean,) = await claimed(store)
    assert clean.unknown_at is None
    assert clean.refresh_token == Secret("r2")


async def test_not_before_and_one_at_it(store: Store, redis: Redis) -> None:
    """Before a provider's not_before nothing is leased, at it one grant, and a success opens the lane."""
    await imported(store, "g1", "g2", "g3")
    (claim,) = await claimed(store)
    later = store.clock() + 400
    await store.schedule.postpone(
        Postpone(claim, "busy", "http_429", "", later, 1, lane="ailing", not_before=later), None
    )
    waiting = await brought_by(store, 9)
    assert waiting.claims == []
    assert 0 < waiting.wait_ms <= 400
    await asyncio.sleep(0.45)
    (probe,) = await claimed(store, 9)
    assert await claimed(store, 9) == []
    await store.schedule.commit(store.registry.prepare(commit_of(probe)))
    assert len(await claimed(store, 9)) == 2
    assert await redis.hget("broker:{0}:provider:p", "not_before") is None


async def test_failures_in_flight_together_count_once(store: Store, redis: Redis) -> None:
    """Thirty requests that fail together half-close the lane for about a second, not for half a minute."""
    await imported(store, *(f"g{n}" for n in range(30)))
    claims = await claimed(store, 30)
    await asyncio.sleep(0.002)  # a claim is known to be older than a failure by its millisecond
    for claim in claims:
        step = Postpone(claim, "busy", "http_503", "", store.clock() + 5, 1, lane="ailing")
        await store.schedule.postpone(step, None)
    assert await redis.hget("broker:{0}:provider:p", "ailing") == b"3"
    assert 0 < (await brought_by(store, 30)).wait_ms <= 1000


async def test_one_refresh_token_has_one_grant(store: Store) -> None:
    """The same refresh token under another id is refused, under its own id changes nothing, is free once forgotten."""
    await imported(store, "g1")
    token, now = Secret("r-g1"), store.clock()
    other = await store.registry.import_("g2", "p", token, None, due_at=now)
    assert (other.status, other.holder) == ("held", "g1")
    assert (await store.registry.import_("g1", "p", token, None, due_at=now)).status == "unchanged"
    assert (await store.registry.import_("g1", "p", Secret("r-new"), None, due_at=now)).status == "replaced"
    assert (await store.registry.import_("g2", "p", token, None, due_at=now)).status == "created"
    await claimed(store, 9)
    assert (await store.registry.import_("g2", "p", Secret("r-3"), None, due_at=now)).status == "leased"
    await store.registry.forget("g1", {})
    assert (await store.registry.import_("g3", "p", Secret("r-new"), None, due_at=now)).status == "created"


async def test_claims_drop_ids_without_a_grant(store: Store, redis: Redis) -> None:
    """An id in the index without a hash, or of another provider, is dropped."""
    await redis.zadd("broker:{0}:due:p", {"ghost": 1})
    await imported(store, "g1", provider="q")
    await redis.zadd("broker:{0}:due:p", {"g1": 2})
    assert await claimed(store, 9) == []
    assert await redis.zcard("broker:{0}:due:p") == 0
    assert await sets(redis, "g1", "q") == ["due"]


async def test_an_emptied_server_is_another_store(store: Store, redis: Redis) -> None:
    """Where the schema key is gone nothing is claimed and nothing registered."""
    await imported(store, "g1")
    await redis.flushall()
    with pytest.raises(WrongStore):
        await store.schedule.claim("p", 1, LEASE)
    with pytest.raises(WrongStore):
        await store.registry.import_("g2", "p", Secret("r"), None, due_at=0)


async def test_keys_that_do_not_open_are_said_at_start(
    store: Store, shared_redis: RedisServer, key: str, tmp_path: Path
) -> None:
    """A key file without the store's key is refused; with the old key behind a new one it opens."""
    new = new_sealing_key()
    settings = RedisSettings(url=shared_redis.url)
    async with open_store(settings, Sealer(parse_sealing_keys(new)), data_dir=tmp_path) as other:
        with pytest.raises(InvalidSettings, match=r"sealing\.keys_file"):
            await other.identify()
    async with open_store(settings, Sealer(parse_sealing_keys(f"{new}\n{key}")), data_dir=tmp_path) as both:
        await both.identify()
        assert both.store_id == store.store_id


async def test_two_namespaces_share_a_server(store: Store, shared_redis: RedisServer, key: str, tmp_path: Path) -> None:
    """Two environments on one server have different identities and see none of each other's grants."""
    await imported(store, "g1")
    settings = RedisSettings(url=shared_redis.url, namespace="staging")
    async with open_store(settings, Sealer(parse_sealing_keys(key)), data_dir=tmp_path) as other:
        await other.identify()
        assert other.store_id != store.store_id
        assert await other.grants.get("g1") is None


async def test_paging_meets_every_grant_once(store: Store) -> None:
    """A listing by cursor gives each grant once, equal scores included."""
    due_at = store.clock() + 1000
    names = [f"g{n:03}" for n in range(57)]
    for name in names:
        await store.registry.import_(name, "p", Secret(name), None, due_at=due_at)
    seen: list[str] = []
    cursor = None
    while True:
        page = await store.grants.page(["p", "q"], ["due", "leased", "parked"], cursor, 10)
        assert len(page.rows) <= 10
        seen += [grant.grant_id for _, grant in page.rows]
        cursor = page.next
        if cursor is None:
            break
    assert seen == names


async def test_a_server_that_is_gone_is_said_in_time(own_redis: RedisServer, key: str, tmp_path: Path) -> None:
    """Every call to a dead server fails within its bound, as one error."""
    async with open_store(
        RedisSettings(url=own_redis.url), Sealer(parse_sealing_keys(key)), data_dir=tmp_path
    ) as store:
        await store.identify()
        own_redis.kill()
        for call in (store.grants.get("g"), store.schedule.claim("p", 1, LEASE), store.flows.get("x")):
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(call, 3)


async def test_a_replica_that_has_not_replayed_its_journal_claims_nothing(store: Store, redis: Redis) -> None:
    """Whoever missed a fence is sent to replay first, however long it has been open."""
    await imported(store, "g1")
    first = await store.schedule.claim("p", 1, LEASE)
    assert (first.claims, first.fenced is not None) == ([], True)
    assert len(await claimed(store)) == 1
    await redis.hset("broker:{0}:epoch", mapping={"run_id": "0000"})
    fenced = await store.schedule.claim("p", 1, LEASE)
    assert fenced.wait_ms > 0
    await redis.hset("broker:{0}:epoch", "open_at", 5)  # the hold-off passed while it was cut off
    missed = await store.schedule.claim("p", 1, LEASE)
    assert (missed.claims, missed.fenced) == ([], 5)


async def test_an_unknown_outcome_survives_a_store_that_went_back(store: Store, redis: Redis) -> None:
    """That a token request had no answer is written down although the store no longer knows of the attempt."""
    await imported(store, "g1")
    (made,) = await claimed(store)
    await redis.hdel("broker:{0}:grant:g1", "attempt", "attempt_at")
    await redis.zrem("broker:{0}:leased:p", "g1")
    await redis.zadd("broker:{0}:due:p", {"g1": 1})
    later = store.clock() + 60_000
    assert await store.schedule.postpone(Postpone(made, "busy", "x", "", later, 1), None) == "superseded"
    step = Postpone(made, "unknown", "timeout", "", later, 1, unknown=True)
    assert await store.schedule.postpone(step, None) == "postponed"
    assert await claimed(store) == []
    await redis.zadd("broker:{0}:due:p", {"g1": 1})
    (again,) = await claimed(store)
    assert again.unknown_at == made.claimed_at


async def test_a_moved_grant_is_in_one_set(store: Store, redis: Redis) -> None:
    """Hold and retry find a grant under the provider it has by now, not where it was seen last."""
    await imported(store, "g1", "g2", provider="new")
    assert await store.schedule.hold("g1", "old", LEASE) == "held"
    assert await store.schedule.retry("g2", "old") == "due"
    assert await sets(redis, "g1", "old") == await sets(redis, "g2", "old") == []
    assert await sets(redis, "g1", "new") == ["leased"]
    assert await sets(redis, "g2", "new") == ["due"]


async def test_what_followed_from_a_commit_is_not_taken_back(store: Store) -> None:
    """A commit that finds its own descendant in the store restores nothing; after a login it gets superseded."""
    await imported(store, "g1")
    (first,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(first)))
    await store.primary.call("ZADD", "broker:{0}:due:p", 1, "g1")
    (second,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(second, "a2", "r3")))
    late = store.registry.prepare(commit_of(first))
    assert (await store.schedule.commit(late))[0] == "lost"
    assert await store.registry.restore(late.record) == "known"
    record = store.registry.prepare(commit_of(first)).record
    assert await store.registry.restore(record) == "known"
