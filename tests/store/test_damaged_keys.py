"""A key beside the grants is of another type: it is replaced where it can be, named, and stops what needs it alone."""

from __future__ import annotations

from contextlib import nullcontext as does_not_raise
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import DamagedSchedule, StoreUnavailable
from broker.journal.lost import LostGrants
from broker.model import Park, Postpone
from broker.process.heartbeat import Heartbeat
from broker.store import returned_state
from broker.store.index_walk import examine
from tests.store.ends import heal, listed
from tests.store.steps import LEASE, brought_by, claimed, commit_of, imported, refreshed, sets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio import Redis

    from broker.model import State
    from broker.store import Store

STATES: tuple[State, ...] = ("due", "leased", "parked")
REPLACED = ("provider:p", "history:p", "day:p", "ends:p", "failing:p", "attempts:a")
SCHEDULE = ("due:p", "leased:p", "parked:p")


async def damage(store: Store, redis: Redis, key: str) -> str:
    """Have a key be of another type; return its whole name."""
    await redis.set(store.keys.all + key, "damaged")
    return store.keys.all + key


async def populate(store: Store, redis: Redis) -> None:
    """Make four grants of `p` that are due, and one of `q`."""
    await refreshed(store, redis, "a", "b", "c", "d")
    await refreshed(store, redis, "other", provider="q")


async def read_everything(store: Store) -> None:
    """Read what lists, status, verdict, metrics, walks and routes read of all providers."""
    names = ["p", "q"]
    minute = store.clock() // 60_000
    await store.grants.page(names, STATES, None, 100)
    await store.grants.page([*names, *(f"p{n}" for n in range(10))], STATES, None, 100)
    assert "other" in await listed(store, *names)
    assert (await store.urgency.counts(names))["q"] == (1, 0)
    states = await store.grants.providers(names)
    assert [state.name for state in await store.history.with_last_answers(states)] == names
    assert sum(states[1].counts.values()) == 1
    assert "other" in {each.grant_id for each in await store.soonest.for_providers(names, 100)}
    await store.soonest.parked(names, 10)
    await store.grants.suspended(names)
    await store.grants.needing_attention(names, None, 10, failures=1, ends_by=0)
    for name in names:
        await store.grants.ids(name)
    await store.history.for_providers(names, store.clock())
    await store.day.for_providers(names, store.clock())
    await store.history.add({("p", minute): (1, 0), ("q", minute): (1, 0)})
    await store.day.add({("p", minute): (1, 0), ("q", minute): (1, 0)})
    await store.day.note_unserved(names, minute)
    await store.history.note_answers(dict.fromkeys(names, store.clock()))
    await returned_state.note(store.primary, store.keys, "p", "https://p.example")
    assert await returned_state.last_seen_at(store.primary, store.keys, "p") == "https://p.example"
    for grant in await store.grants.get_many(["a", "other"]):
        assert grant is not None
        await store.attempts.for_grant(grant.grant_id, grant)
        await store.grants.placed(grant)
    position, _ = await examine(store, names, None)
    assert position is None
    for state in ("due", "parked"):
        await store.lost.find("p", state, 0)
    await store.lost.restore("a", store.registry.forget_record("a", 1))
    await store.schedule.find_due(names, 1000)
    await store.schedule.abandon("nobody", names)
    await store.clock_steps.rewind_all(names, LEASE)


READERS: dict[str, Callable[[Store], Awaitable[Any]]] = {
    "a list": lambda store: store.grants.page(["p"], STATES, None, 100),
    "an urgent list": lambda store: store.urgency.rows(["p"], None, 100),
    "counts": lambda store: store.urgency.counts(["p"]),
    "states": lambda store: store.grants.providers(["p"]),
    "suspended": lambda store: store.grants.suspended(["p"]),
    "soonest": lambda store: store.soonest.for_providers(["p"], 100),
    "history": lambda store: store.history.for_providers(["p"], store.clock()),
    "day": lambda store: store.day.for_providers(["p"], store.clock()),
    "ids": lambda store: store.grants.ids("p"),
    "returned state": lambda store: returned_state.last_seen_at(store.primary, store.keys, "p"),
    "attempts": lambda store: store.attempts.for_grant("a", None),
    "an answer": lambda store: store.history.note_answers({"p": 1}),
    "a returned state": lambda store: returned_state.note(store.primary, store.keys, "p", "s"),
    "outcomes": lambda store: store.history.add({("p", 1): (1, 0)}),
    "a resume": lambda store: store.schedule.resume("p"),
}


@pytest.mark.parametrize("name", [*REPLACED, *SCHEDULE])
async def test_readers(store: Store, redis: Redis, name: str) -> None:
    """No list, count or walk fails, whichever of them is the first to meet the key, and others' grants are there."""
    await populate(store, redis)
    for read in READERS.values():
        await damage(store, redis, name)
        await read(store)
    await damage(store, redis, name)
    await read_everything(store)


@pytest.mark.parametrize("name", REPLACED)
async def test_what_can_be_replaced(store: Store, redis: Redis, name: str) -> None:
    """Grants are claimed, committed, postponed and parked as ever; the key is written anew, and named."""
    await populate(store, redis)
    whole = await damage(store, redis, name)
    brought = await brought_by(store, 10)
    assert [claim.grant_id for claim in brought.claims] == ["a", "b", "c", "d"]
    by_id = {claim.grant_id: claim for claim in brought.claims}
    await damage(store, redis, name)
    assert (await store.schedule.commit(store.registry.prepare(commit_of(by_id["a"]))))[0] == "committed"
    await damage(store, redis, name)
    later = Postpone(by_id["b"], "busy", "http_503", "", due_at=store.clock(), failures=1, lane="ailing")
    assert await store.schedule.postpone(later, None) == "postponed"
    await damage(store, redis, name)
    dead = Park(by_id["c"], "dead", "reauthorization_required", "", "reauthorization_required")
    assert await store.schedule.park(dead, {}) == "parked"
    await damage(store, redis, name)
    assert await store.schedule.retry("c", "p") == "due"
    await damage(store, redis, name)
    await store.registry.forget("d", {})
    assert [await sets(redis, grant) for grant in "abcd"] == [["due"], ["due"], ["due"], []]
    await read_everything(store)
    await redis.zadd(store.keys.ids("due", "p"), {"a": 1})
    for claim in await claimed(store, 10):
        await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    assert await redis.type(whole) != b"string"
    await heal(store)
    assert {"a", "b", "c"} <= {*await listed(store, "p")}
    found = await store.lost.find("p", "due", 0)
    assert found.damaged == {name}


@pytest.mark.parametrize("name", SCHEDULE)
async def test_the_schedule(store: Store, redis: Redis, name: str) -> None:
    """Claims of this provider say which key it is and what to do; what is under way is recorded; others go on."""
    await populate(store, redis)
    by_id = {claim.grant_id: claim for claim in await claimed(store, 3)}
    whole = await damage(store, redis, name)
    if name == "parked:p":
        assert [claim.grant_id for claim in await claimed(store, 10)] == ["d"]
    else:
        with pytest.raises(DamagedSchedule) as error:
            await store.schedule.claim("p", 10, LEASE)
        assert f"the key {whole} holds something else than grants" in str(error.value)
        assert "remove that key, then `token-broker retry`" in error.value.cure
    assert [claim.grant_id for claim in await claimed(store, 10, "q")] == ["other"]
    prepared = store.registry.prepare(commit_of(by_id["a"], "a9", "r9"))
    assert (await store.schedule.commit(prepared))[0] == "committed"
    grant = await store.grants.get("a")
    assert grant is not None
    assert grant.token is not None
    assert grant.token.access_token.reveal() == "a9"
    assert await store.registry.restore(prepared.record) == "known"
    await redis.delete(store.keys.grant("a"))
    assert await store.registry.restore(prepared.record) == "restored"
    await read_everything(store)
    assert await redis.get(whole) == b"damaged"
    assert name in (await store.lost.find("q", "due", 0)).damaged


@pytest.mark.parametrize("name", SCHEDULE)
async def test_a_schedule_that_was_removed(store: Store, redis: Redis, name: str) -> None:
    """Once an operator has removed the key, a retry gives each grant its place back, and all are claimed."""
    await populate(store, redis)
    whole = await damage(store, redis, name)
    with pytest.raises(DamagedSchedule) if name == "due:p" else does_not_raise():
        await store.schedule.retry("a", "p")
    await redis.delete(whole)
    for grant in await listed(store, "p"):
        await store.schedule.retry(grant, "p")
    assert [claim.grant_id for claim in await claimed(store, 10)] == ["a", "b", "c", "d"]


async def test_nothing_is_half_done(store: Store, redis: Redis) -> None:
    """What would write into a damaged set changes nothing before it fails."""
    await populate(store, redis)
    claims = await claimed(store, 2)
    await damage(store, redis, "due:p")
    before = {key: await redis.dump(key) for key in await redis.keys("*") if b"damaged" not in key}
    late = Postpone(claims[0], "busy", "http_503", "", due_at=store.clock(), failures=1)
    dead = Park(claims[1], "dead", "reauthorization_required", "", "reauthorization_required")
    grant = await store.grants.get("a")
    assert grant is not None
    for refused in (
        store.schedule.postpone(late, None),
        store.schedule.park(dead, {}),
        store.schedule.retry("a", "p"),
        store.schedule.expedite(grant, interval_ms=0),
        store.registry.import_("a", "p", grant.token.access_token, None, due_at=1),  # type: ignore[union-attr]
    ):
        with pytest.raises(DamagedSchedule, match="due:p"):
            await refused
    assert {key: await redis.dump(key) for key in await redis.keys("*") if b"damaged" not in key} == before


async def test_it_is_named(store: Store, redis: Redis) -> None:
    """The broker's health names the keys, for some minutes after each was met last."""
    await imported(store, "a")
    walk = LostGrants(store, None, Heartbeat("lost grants"), ["p"])
    await damage(store, redis, "provider:p")
    await claimed(store)
    await walk.step()
    assert walk.heartbeat.trouble == (
        "keys in Redis held what no broker writes there (provider:p): find out who writes Redis"
    )
    await redis.hset(store.keys.damaged, mapping={"provider:p": store.clock() - 700_000})
    await walk.step()
    await walk.step()
    assert walk.heartbeat.trouble == ""
    assert not await redis.exists(store.keys.damaged)


async def test_an_answer_to_a_damaged_grant(store: Store, redis: Redis) -> None:
    """The key of a grant is damaged while its answer is under way: the answer replaces it."""
    await imported(store, "a")
    (claim,) = await claimed(store)
    await damage(store, redis, "grant:a")
    prepared = store.registry.prepare(commit_of(claim, "a9", "r9"))
    assert (await store.schedule.commit(prepared))[0] == "lost"
    assert await store.registry.restore(prepared.record) == "restored"
    await redis.zadd(store.keys.ids("due", "p"), {"a": 1})
    assert [claim.refresh_token.reveal() for claim in await claimed(store)] == ["r9"]


@pytest.mark.parametrize("garbage", [b"x", b"", b"nan", b"inf", b"9" * 20, b"9" * 400, b"\xff"])
async def test_fields_that_are_no_numbers(store: Store, redis: Redis, garbage: bytes) -> None:
    """What somebody wrote into facts of a provider or of the store stops neither a claim nor a reader."""
    await populate(store, redis)
    facts_of_p = ("seen_at", "ailing", "witness_at", "witnesses", "probes", "doubted_at", "succeeded_at")
    await redis.hset(store.keys.provider("p"), mapping=dict.fromkeys(facts_of_p, garbage))
    for kind in ("history", "day"):
        await redis.hset(f"{store.keys.all}{kind}:p", mapping={"x": garbage})
    for facts in ("open_at", "hold_off", "seen_at", "offset_at", "rewound"):
        await redis.hset(store.keys.epoch, facts, garbage)
        await store.attempts.fence()
        assert (await store.attempts.for_grant("a", None)).fenced_until is None
    await read_everything(store)
    assert {claim.grant_id for claim in await claimed(store, 8)} >= {"a"}


async def test_a_mark_of_the_store_that_is_no_hash(store: Store, redis: Redis) -> None:
    """Where `meta` was replaced, every read of a grant says so in words."""
    await populate(store, redis)
    await damage(store, redis, "meta")
    with pytest.raises(StoreUnavailable):
        await store.grants.get("a")


async def test_the_cure_of_a_key_of_the_whole_store(store: Store, redis: Redis) -> None:
    """Where `epoch` was replaced nobody claims, and who reads why is not sent to start a Redis that runs."""
    await populate(store, redis)
    await damage(store, redis, "epoch")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE") as refused:
        await claimed(store)
    assert "the one that ends in :epoch, remove it" in refused.value.cure
    await redis.delete(store.keys.epoch)
