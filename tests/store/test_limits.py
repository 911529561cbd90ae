"""What a grant keeps of its answers, its end and extra members: through commits, records, logins, older brokers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from broker.model import Commit, Ending, StatedLimits
from broker.secret import Secret
from broker.store.limits import ending_fields, parse_limit, parse_stated
from tests.store.steps import claimed, commit_of, imported

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.model import Claim
    from broker.store import Store

GRANT = "broker:{0}:grant:g1"
DAY = 86_400_000


async def again(store: Store, redis: Redis) -> Claim:
    """Claim the grant once more."""
    await redis.zadd("broker:{0}:due:p", {"g1": 0.0}, xx=True)
    (claim,) = await claimed(store)
    return claim


def ending_of(claim: Claim, by: int) -> Ending:
    """Return the end that an answer said of the grant of *claim*."""
    return Ending(by, DAY, StatedLimits(claim.granted_at, authorization_ends_at=by, idle_ms=DAY))


def commit_with(claim: Claim, ending: Ending, **extra: object) -> Commit:
    """Return a commit of new tokens, a grant's end and extra members."""
    commit = commit_of(claim)
    assert commit.token is not None
    return replace(commit, ending=ending, token=replace(commit.token, extra=extra))


async def test_a_claim_brings_what_the_last_commit_kept(store: Store, redis: Redis) -> None:
    """The next decision knows the extra members and what was said of the grant's end."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    assert (claim.extra, claim.stated) == ({}, None)
    ending = ending_of(claim, claim.granted_at + DAY)
    await store.schedule.commit(store.registry.prepare(commit_with(claim, ending, realmId="1")))
    claim = await again(store, redis)
    assert (claim.extra, claim.stated) == ({"realmId": "1"}, ending.stated)
    grant = await store.grants.get("g1")
    assert grant is not None
    assert (grant.reauthorize_by, grant.reauthorize_limit) == (ending.reauthorize_by, DAY)
    (soon,) = await store.soonest.for_providers(["p"], 1)
    assert (soon.reauthorize_by, soon.reauthorize_limit) == (ending.reauthorize_by, DAY)


async def test_an_end_that_is_no_more_is_removed(store: Store, redis: Redis) -> None:
    """An answer that says "never" leaves no earlier end behind."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_with(claim, ending_of(claim, claim.granted_at + DAY))))
    claim = await again(store, redis)
    never = Ending(stated=StatedLimits(claim.granted_at, authorization_ends_at=0, idle_ms=0))
    await store.schedule.commit(store.registry.prepare(commit_with(claim, never)))
    grant = await store.grants.get("g1")
    assert grant is not None
    assert (grant.reauthorize_by, grant.reauthorize_limit) == (None, None)
    assert (await again(store, redis)).stated == never.stated


async def test_a_restored_record_agrees_with_the_commit(store: Store, redis: Redis) -> None:
    """A store that lost a commit gets the same members and the same end from the journal."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_with(claim, ending_of(claim, 5), a=1, b=1)))
    claim = await again(store, redis)
    before = await redis.dump(GRANT)
    assert before is not None
    ending = Ending(stated=StatedLimits(claim.granted_at, idle_ms=0))
    prepared = store.registry.prepare(commit_with(claim, ending, a=1, b=2))
    await store.schedule.commit(prepared)
    committed = await store.grants.get("g1")
    await redis.restore(GRANT, 0, before, replace=True)
    assert await store.registry.restore(prepared.record) == "restored"
    assert await store.grants.get("g1") == committed
    assert committed is not None
    assert committed.token is not None
    assert (committed.token.extra, committed.reauthorize_by) == ({"a": 1, "b": 2}, None)
    restored = await again(store, redis)
    assert (restored.extra, restored.stated) == ({"a": 1, "b": 2}, ending.stated)


async def test_a_record_of_before_is_restored(store: Store, redis: Redis) -> None:
    """A journal of a broker that kept no such fields still gives its grant back, with its end."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    record = json.loads(store.registry.prepare(commit_of(claim)).record)
    record["fields"] += ["reauthorize_by", 7]
    assert await store.registry.restore(json.dumps(record)) == "restored"
    grant = await store.grants.get("g1")
    assert grant is not None
    assert (grant.reauthorize_by, grant.reauthorize_limit) == (7, None)
    assert (await again(store, redis)).stated is None


async def test_a_login_begins_anew(store: Store, redis: Redis) -> None:
    """What was said of the grant before does not count for what a person grants now."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    commit = commit_with(claim, ending_of(claim, claim.granted_at + DAY), a=1)
    await store.schedule.commit(store.registry.prepare(commit))
    assert commit.token is not None
    token = replace(commit.token, generation=commit.token.generation + 1, extra={})
    login = store.registry.prepare_login(token, Secret("r-login"), ending=Ending(), followed=0)
    await store.registry.log_in(login, seen=await store.registry.generation("g1"), message={})
    claim = await again(store, redis)
    assert (claim.extra, claim.stated) == ({}, None)
    assert await redis.hmget(GRANT, "reauthorize_by", "reauthorize_limit", "stated_limits") == [None] * 3


async def test_fields_that_an_older_broker_left_do_not_count(store: Store, redis: Redis) -> None:
    """It writes `reauthorize_by` and `granted_at` alone: the limit of another end, and another login's, are unknown."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    ending = ending_of(claim, claim.granted_at + DAY)
    await store.schedule.commit(store.registry.prepare(commit_with(claim, ending)))
    await redis.hset(GRANT, mapping={"reauthorize_by": 5, "granted_at": claim.granted_at + 1})
    grant = await store.grants.get("g1")
    assert grant is not None
    assert (grant.reauthorize_by, grant.reauthorize_limit) == (5, None)
    assert (await again(store, redis)).stated is None


async def test_extra_members_that_no_key_opens_stop_no_refresh(store: Store, redis: Redis) -> None:
    """They are lost with the key; the grant is claimed all the same, and its next commit writes them anew."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    await redis.hset(GRANT, "extra", b"sealed by nobody")
    assert (await again(store, redis)).extra == {}


def test_what_cannot_be_parsed_is_not_known() -> None:
    """A newer broker may write more than this one understands."""
    assert parse_stated(b'{"granted_at": 1, "later": 2}', 1) is None
    assert parse_stated(b"[]", 1) is None
    assert parse_stated(b"{", 1) is None
    assert parse_stated(None, 1) is None
    assert parse_limit(None, 5) is None
    assert parse_limit("9 5", None) is None
    assert ending_fields(Ending()) == []
