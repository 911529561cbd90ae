"""Telling a store again what it may have lost: it takes only what follows what it has."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from broker.model import Ending
from broker.secret import Secret
from tests.store.steps import claimed, commit_of, imported, sets

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store


async def test_a_lost_commit_is_restored_once(store: Store, redis: Redis) -> None:
    """A store that lost a commit takes it from a record, into due, and knows it the second time."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    record = store.registry.prepare(commit_of(claim)).record
    assert await store.registry.restore(record) == "restored"
    assert await store.registry.restore(record) == "known"
    assert (await store.schedule.commit(store.registry.prepare(commit_of(claim))))[0] == "already"
    assert await sets(redis, "g1") == ["due"]
    grant = await store.grants.get("g1")
    assert grant is not None
    assert grant.token is not None
    assert grant.token.access_token == Secret("a1")
    assert grant.token.extra == {"httpsBaseUrl": {"port": 443}}
    assert await store.grants.refresh_token("g1") == ("p", Secret("r2"))


async def test_a_lost_grant_is_restored_whole(store: Store, redis: Redis) -> None:
    """A store that lost the grant itself gets it back, granted_at included."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    record = store.registry.prepare(commit_of(claim)).record
    for name in await redis.keys("broker:{0}:grant:*") + await redis.keys("broker:{0}:leased:*"):
        await redis.delete(name)
    assert (await store.schedule.commit(store.registry.prepare(commit_of(claim))))[0] == "lost"
    assert await store.registry.restore(record) == "restored"
    grant = await store.grants.get("g1")
    assert grant is not None
    assert grant.granted_at == claim.granted_at
    assert await sets(redis, "g1") == ["due"]


async def test_a_record_undoes_no_login(store: Store) -> None:
    """What a store has since the generation that a record followed is not overwritten, however new the record."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    token = commit_of(claim, "login").token
    assert token is not None
    seen = await store.registry.generation("g1")
    login = store.registry.prepare_login(token, Secret("r-login"), ending=Ending(), followed=0)
    await store.registry.log_in(login, seen=seen, message={})
    late = store.registry.prepare(commit_of(claim, generation=claim.generation + 99)).record
    assert await store.registry.restore(late) == "replaced"
    assert await store.grants.refresh_token("g1") == ("p", Secret("r-login"))


@pytest.mark.parametrize("first", [0, 1])
async def test_of_two_answers_to_one_refresh_token_the_newest_counts(store: Store, redis: Redis, first: int) -> None:
    """Two replicas were answered, since the store went back behind a claim; they replay in either order."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    records = [
        store.registry.prepare(commit_of(claim, f"a{n}", f"r{n}", generation=claim.generation + n)).record
        for n in (1, 2)
    ]
    await store.registry.restore(records[first])
    assert await store.registry.restore(records[1 - first]) == ("restored" if first == 0 else "known")
    assert await store.grants.refresh_token("g1") == ("p", Secret("r2"))
    held = await store.registry.generation("g1")
    assert held is not None
    assert held.generation == claim.generation + 2


async def test_a_commit_after_another_answer_to_one_refresh_token(store: Store) -> None:
    """The newest of two answers is kept where the older one was stored before it; none is given back."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    older, newer = (
        store.registry.prepare(commit_of(claim, f"a{n}", f"r{n}", generation=claim.generation + n)) for n in (1, 2)
    )
    assert await store.registry.restore(older.record) == "restored"
    newer = replace(newer, commit=replace(newer.commit, claim=replace(claim, attempt="another")))
    assert (await store.schedule.commit(newer))[0] == "lost"
    assert await store.registry.restore(newer.record) == "restored"
    assert await store.grants.refresh_token("g1") == ("p", Secret("r2"))


async def test_a_login_counts_although_an_older_grant_was_refreshed_since(store: Store) -> None:
    """A login stands in a journal alone, and a refresh of what was before it went on: the login is restored over it."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    token = commit_of(claim, "login", generation=claim.generation + 1).token
    assert token is not None
    token = replace(token, issued_at=claim.granted_at + 1)
    login = store.registry.prepare_login(token, Secret("r-login"), ending=Ending(), followed=claim.generation)
    refreshed = store.registry.prepare(commit_of(claim, "a2", generation=claim.generation + 2))
    assert (await store.schedule.commit(refreshed))[0] == "committed"
    assert await store.registry.restore(login.record) == "restored"
    held = await store.grants.get("g1")
    assert held is not None
    assert held.token is not None
    assert (held.token.access_token, held.generation) == (Secret("login"), claim.generation + 3)
    assert await store.grants.refresh_token("g1") == ("p", Secret("r-login"))
    assert await store.registry.restore(login.record) == "known"
    assert await store.registry.restore(refreshed.record) == "replaced"


async def test_no_token_of_another_login_stays(store: Store) -> None:
    """What a login's refresh token brought without an access token is restored over an older grant: its token goes."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    assert (await store.schedule.commit(store.registry.prepare(commit_of(claim))))[0] == "committed"
    later = replace(claim, granted_at=claim.granted_at + 50, generation=claim.generation + 50)
    without = store.registry.prepare(replace(commit_of(later, "", "newest"), token=None)).record
    assert await store.registry.restore(without) == "restored"
    held = await store.grants.get("g1")
    assert held is not None
    assert held.token is None
    assert await store.grants.refresh_token("g1") == ("p", Secret("newest"))


async def test_an_answer_without_a_token_names_no_generation_twice(store: Store, redis: Redis) -> None:
    """The store lost the access token of the generation that such an answer followed: its own is older."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(claim, "old")))
    before = await store.registry.generation("g1")
    assert before is not None
    lost = replace(claim, generation=before.generation + 50, attempt="lost")
    later = claim.claimed_at + 50
    without = store.registry.prepare(replace(commit_of(lost, "", "newest"), token=None, answered_at=later)).record
    assert await store.registry.restore(without) == "restored"
    held = await store.grants.get("g1")
    assert held is not None
    assert held.token is not None
    assert held.token.access_token == Secret("old")
    assert held.generation == before.generation + 51
    assert await store.grants.refresh_token("g1") == ("p", Secret("newest"))
    assert await store.registry.restore(without) == "known"


async def test_a_record_of_another_store_is_not_ours(store: Store) -> None:
    """A journal never writes into a store it does not belong to."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    record = {**json.loads(store.registry.prepare(commit_of(claim)).record), "store": "another"}
    assert await store.registry.restore(json.dumps(record)) == "another store"


async def test_forgotten_is_remembered(store: Store) -> None:
    """Neither a record nor a late commit brings a forgotten grant back; a new grant of that id is a new one."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    record = store.registry.prepare(commit_of(claim)).record
    assert await store.registry.forget("g1", {})
    assert await store.registry.restore(record) == "forgotten"
    assert (await store.schedule.commit(store.registry.prepare(commit_of(claim))))[0] == "gone"
    again = await store.registry.import_("g1", "p", Secret("r-new"), None, due_at=0)
    assert again.status == "created"
    assert again.generation > claim.generation
    assert (await store.schedule.commit(store.registry.prepare(commit_of(claim))))[0] == "superseded"
    old = store.registry.forget_record("g1", claim.generation)
    assert await store.registry.restore(old) == "known"
    held = await store.registry.generation("g1")
    assert held is not None
    assert (held.provider, held.generation) == ("p", again.generation)


async def test_an_import_moves_to_the_provider_it_names(store: Store, redis: Redis) -> None:
    """The same refresh token for another provider corrects a mistake; for the same provider it changes nothing."""
    await imported(store, "g1", provider="wrong")
    token = Secret("r-g1")
    assert (await store.registry.import_("g1", "wrong", token, None, due_at=0)).status == "unchanged"
    assert (await store.registry.import_("g1", "p", token, None, due_at=0)).status == "replaced"
    assert await sets(redis, "g1") == ["due"]
    assert await sets(redis, "g1", "wrong") == []
    assert (await store.registry.import_("g2", "p", token, None, due_at=0)).status == "held"


async def test_an_import_brings_back_no_token_that_another_replaced(store: Store, redis: Redis) -> None:
    """An older token is known as such, whatever came after it; the last eight are remembered, and forgotten with it."""
    old, new = Secret("r-old"), Secret("r-new")

    async def import_(token: Secret) -> str:
        return (await store.registry.import_("g1", "p", token, None, due_at=0)).status

    assert [await import_(token) for token in (old, new)] == ["created", "replaced"]
    assert [await import_(token) for token in (old, new)] == ["outdated", "unchanged"]
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    assert [await import_(token) for token in (old, new)] == ["outdated", "unchanged"]
    assert await store.grants.refresh_token("g1") == ("p", Secret("r2"))
    for number in range(20):
        assert await import_(Secret(f"r-{number}")) == "replaced"
    assert [await import_(Secret(f"r-{number}")) for number in range(12, 20)] == [*["outdated"] * 7, "unchanged"]
    assert await redis.hlen("broker:{0}:held") == 1
    assert await store.registry.forget("g1", {})
    assert await redis.hlen("broker:{0}:held") == 0
    assert await import_(old) == "created"


async def test_an_answer_that_came_after_a_log_out_is_forgotten_too(store: Store) -> None:
    """A broker killed with an answer in its journal, for a grant that was logged out meanwhile, brings nothing back."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    assert await store.registry.forget("g1", {})
    late = store.registry.prepare(commit_of(claim, generation=store.clock() + 60_000)).record
    assert await store.registry.restore(late) == "forgotten"
    assert await store.grants.get("g1") is None


async def test_forgetting_again_undoes_no_login_since(store: Store, redis: Redis) -> None:
    """A store that lost both a log out and the login after it gets both back, whichever journal speaks first."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    old = store.registry.prepare(commit_of(claim)).record
    forgot = store.registry.forget_record("g1", claim.generation)
    token = commit_of(claim, "login", generation=store.clock() + 1).token
    assert token is not None
    login = store.registry.prepare_login(
        token, Secret("r-login"), ending=Ending(), followed=token.generation - 1
    ).record
    restore = store.registry.restore
    assert [await restore(record) for record in (forgot, old, login)] == [
        "forgot",
        "forgotten",
        "restored",
    ]
    assert await store.grants.refresh_token("g1") == ("p", Secret("r-login"))
    assert await sets(redis, "g1") == ["due"]


async def test_forgetting_again_what_the_store_never_had(store: Store, redis: Redis) -> None:
    """A store that lost a grant's whole life, its end included, does not take the life alone from another journal."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    life = store.registry.prepare(commit_of(claim)).record
    end = store.registry.forget_record("g1", claim.generation + 1)
    await redis.delete("broker:{0}:grant:g1", "broker:{0}:leased:p")
    restore = store.registry.restore
    assert [await restore(record) for record in (end, life)] == ["known", "forgotten"]
    assert await sets(redis, "g1") == []


async def test_what_is_restored_has_no_open_attempt(store: Store, redis: Redis) -> None:
    """A record is the end of its attempt: the next claim is a plain one, not one after an unknown outcome."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    record = store.registry.prepare(commit_of(claim)).record
    assert await store.registry.restore(record) == "restored"
    await redis.zadd("broker:{0}:due:p", {"g1": 1})
    (again,) = await claimed(store)
    assert again.unknown_at is None


async def test_a_log_out_waits_for_a_lease(store: Store, redis: Redis) -> None:
    """While a request is under way its grant is held for nobody else, and its lease stands as it was."""
    await imported(store, "g1")
    await claimed(store)
    ends = await redis.zscore("broker:{0}:leased:p", "g1")
    assert await store.schedule.hold("g1", "p", 1) == "leased"
    assert await redis.zscore("broker:{0}:leased:p", "g1") == ends


async def test_no_record_outlives_the_memory_of_a_log_out(store: Store, redis: Redis) -> None:
    """The store remembers for a month that a grant was forgotten: a record older than that restores no grant."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    day = 86_400_000
    old, young = (
        store.registry.prepare(replace(commit_of(claim), answered_at=store.clock() - days * day)).record
        for days in (31, 29)
    )
    assert await store.registry.forget("g1", {})
    await redis.delete("broker:{0}:forgotten")  # as after a month
    assert await store.registry.restore(old) == "forgotten"
    assert await store.grants.get("g1") is None
    assert await store.registry.restore(young) == "restored"


async def test_a_log_out_holds_with_a_clock_behind_the_grant(store: Store, redis: Redis) -> None:
    """Forgetting a grant covers its generation also where that lies ahead of a clock that was set back."""
    await imported(store, "g1")
    await redis.hset("broker:{0}:grant:g1", "generation", store.clock() + 3_600_000)
    (claim,) = await claimed(store)
    prepared = store.registry.prepare(commit_of(claim))
    assert await store.registry.forget("g1", {})
    assert (await store.schedule.commit(prepared))[0] == "gone"
    assert await store.registry.restore(prepared.record) == "forgotten"
