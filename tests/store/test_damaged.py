"""Whoever can write Redis damages one grant: it is named, and everything else is listed, claimed and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from broker.secret import Secret
from broker.store.index_walk import examine
from tests.store.ends import listed
from tests.store.steps import LEASE, brought_by, claimed, commit_of, imported, refreshed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.asyncio import Redis

    from broker.model import State
    from broker.store import Store

KEY = "broker:{0}:grant:bad"
STATES: tuple[State, ...] = ("due", "leased", "parked")
DAMAGES: dict[str, Mapping[Any, Any] | None] = {
    "no hash": None,
    "an end that is no number": {"expires_at": "soon"},
    "an end beyond all dates": {"expires_at": "9" * 19},
    "a login that is no number": {"granted_at": "nan"},
    "a due time of bytes": {"refresh_at": b"\xff\xfe"},
    "a generation of words": {"generation": "one"},
    "failures of words": {"failures": "many"},
    "a reason of bytes": {"reason": b"\xc3("},
    "an outcome of bytes": {"last_outcome": b"\xff", "last_detail": b"\xff"},
    "times of the attempt": {"attempt_at": "then", "attempt": "x", "unknown_at": "when"},
    "an end of the grant": {"reauthorize_by": "x", "reauthorize_limit": b"\xff x"},
    "an age of words": {"issued_at": "-", "answered_at": "-", "last_at": "-"},
    "a scope of bytes": {"scope": b"\xff"},
    "an owner of bytes": {"owner": b"\xff", "label": b"\xff"},
    "other fields": {"clock_offset": b"\xff", "stated_limits": b"\xff", "refused": b"\xff", "recovering": b"\xff"},
}


async def damage(redis: Redis, how: str) -> None:
    if (fields := DAMAGES[how]) is None:
        await redis.set(KEY, "no hash")
    else:
        await redis.hset(KEY, mapping=fields)


@pytest.fixture(params=DAMAGES)
async def damaged(store: Store, redis: Redis, request: pytest.FixtureRequest) -> str:
    """Three grants of a provider, one of them damaged."""
    await refreshed(store, redis, "a", "bad", "z")
    await damage(redis, request.param)
    return str(request.param)


async def test_every_reader(store: Store, redis: Redis, damaged: str) -> None:
    """Lists, counts, metrics, the scanner, the walks and the reads of one grant: none of them fails, none is short."""
    page = await store.grants.page(["p"], STATES, None, 100)
    rows = {grant.grant_id: grant for _, grant in page.rows}
    assert {"a", "bad", "z"} == {*rows}
    assert rows["bad"].provider == "p"
    assert rows["bad"].tampered or damaged in {"times of the attempt", "other fields", "an owner of bytes"}, damaged
    assert not rows["a"].tampered
    assert rows["a"].token
    assert sorted(await listed(store, "p")) == ["a", "bad", "z"]
    assert (await store.urgency.counts(["p"]))["p"][0] == 3
    assert {each.grant_id for each in await store.soonest.for_providers(["p"], 10)} == {"a", "bad", "z"}
    await store.soonest.parked(["p"], 10)
    found, _ = await store.grants.needing_attention(["p"], None, 10, failures=1, ends_by=0)
    assert {grant.grant_id for grant in found} <= {"bad"}
    (state,) = await store.grants.providers(["p"])
    assert sum(state.counts.values()) == 3
    await store.history.with_last_answers([state])
    assert await examine(store, ["p"], None) is not None
    assert (await store.lost.find("p", "due", 0))[:2] == (3, 0)
    bad, good = await store.grants.get_many(["bad", "a"])
    assert bad is not None
    assert good is not None
    await store.attempts.for_grant("bad", bad)
    assert (await store.grants.placed(good))[1].grant_id == "a"
    await store.clock_steps.rewind("p", LEASE)
    assert (await store.resealing.page(None)).grants == 3
    await store.schedule.abandon("nobody", ["p"])


async def test_a_claim(store: Store, redis: Redis, damaged: str) -> None:
    """The others are claimed at once; a damaged one is named and claimed no second time."""
    brought = await brought_by(store, 10)
    assert {"a", "z"} <= {claim.grant_id for claim in brought.claims}
    if damaged == "no hash":
        assert brought.damaged == ("bad",)
        assert await redis.zscore("broker:{0}:parked:p", "bad") is not None
    else:
        assert {claim.grant_id for claim in (*brought.claims, *brought.unreadable)} == {"a", "bad", "z"}
        assert all(claim.tampered for claim in brought.unreadable)
    assert brought.unreadable or damaged not in {"a generation of words", "an age of words", "failures of words"}
    assert (await brought_by(store, 10)).claims == []


async def test_an_import_replaces_it(store: Store, redis: Redis, damaged: str) -> None:
    """Whatever is damaged: a new refresh token makes a sound grant of it."""
    del damaged
    seen = await store.registry.generation("bad")
    assert seen is None or seen.provider == "p"
    registered = await store.registry.import_("bad", "p", Secret("new"), None, due_at=store.clock())
    assert registered.status in {"replaced", "created"}
    await redis.delete("broker:{0}:leased:p")
    assert {claim.grant_id: claim.refresh_token.reveal() for claim in await claimed(store, 10)}["bad"] == "new"
    bad = await store.grants.get("bad")
    assert bad is not None
    assert bad.tampered is None


@pytest.mark.parametrize("how", ["no hash", "a provider of bytes", "a provider of words"])
async def test_a_logout_of_it(store: Store, redis: Redis, how: str) -> None:
    """Nobody knows whose it is: its key goes, and its places in all sets, and no journal brings it back."""
    await refreshed(store, redis, "a", "bad")
    (claim,) = [claim for claim in await claimed(store, 2) if claim.grant_id == "bad"]
    record = store.registry.prepare(commit_of(claim)).record
    await redis.zadd("broker:{0}:parked:p", {"bad": 1})
    if how == "no hash":
        await redis.set(KEY, "no hash")
    else:
        await redis.hset(KEY, "provider", b"\xff" if how == "a provider of bytes" else "no id")
    assert await store.registry.forget("bad", {}, up_to=store.clock())
    assert not await redis.exists(KEY)
    for name in ("due", "leased", "parked", "ends", "failing"):
        assert await redis.zscore(f"broker:{{0}}:{name}:p", "bad") is None
    assert await redis.zscore("broker:{0}:leased:p", "a") is not None
    assert await store.registry.restore(record) == "forgotten"
    assert not await store.registry.forget("bad", {})


async def test_claims_of_all_kinds(store: Store, redis: Redis) -> None:
    """Also where a lane probes, and where it searches for expired tokens, a damaged grant stops nobody."""
    await refreshed(store, redis, "a", "bad", "z")
    for how in ("no hash", "an age of words", "an end that is no number"):
        await redis.delete(KEY, "broker:{0}:leased:p", "broker:{0}:parked:p", "broker:{0}:provider:p")
        await redis.zadd("broker:{0}:due:p", {"a": 3, "bad": 1, "z": 2})
        await redis.hset(KEY, mapping={"provider": "p", "generation": 1})
        if how == "no hash":
            await redis.delete(KEY)
        await damage(redis, how)
        await redis.hset("broker:{0}:grant:a", "expires_at", 1)
        expired = await store.schedule.claim("p", 10, LEASE, expired_after=0)
        assert "a" in {claim.grant_id for claim in expired.claims}
        await redis.zadd("broker:{0}:due:p", {"a": 3})
        await redis.delete("broker:{0}:leased:p")
        await redis.hset("broker:{0}:provider:p", mapping={"suspended": "x", "ailing": 9})
        await store.schedule.claim("p", 1, LEASE)


async def test_ids_that_nobody_can_have(store: Store, redis: Redis) -> None:
    """Members of the sets that are no ids, and scores without an end, are passed over."""
    await refreshed(store, redis, "a", "bad")
    for name in ("due", "leased", "parked", "ends", "failing"):
        await redis.zadd(f"broker:{{0}}:{name}:p", {b"\xff\xfe": 1, b"": 2, b"a b": 3, b"\xc3\xa4": 4})
    await redis.hset(b"broker:{0}:grant:\xff\xfe", mapping={"provider": "p", "generation": 1})
    await redis.hset("broker:{0}:lost", mapping={b"\xff": b"x", "y": "due nan z p"})
    await redis.zadd("broker:{0}:due:p", {"bad": float("inf"), "a": float("-inf")})
    page = await store.grants.page(["p"], STATES, None, 100)
    assert {"a", "bad"} <= {grant.grant_id for _, grant in page.rows}
    assert sorted(await listed(store, "p")) == ["a", "bad"]
    assert {"a", "bad"} <= {each.grant_id for each in await store.soonest.for_providers(["p"], 100)}
    assert {"a", "bad"} <= {*await store.grants.ids("p")}
    await store.lost.find("p", "parked", 0)
    assert await store.lost.all() == []
    assert [claim.grant_id for claim in await claimed(store, 10)] == ["a"]


async def test_a_damaged_provider(store: Store, redis: Redis) -> None:
    """The state of one provider is damaged: those of the others are known, and so are all counts."""
    await imported(store, "a")
    await imported(store, "b", provider="q")
    await redis.hset("broker:{0}:provider:p", mapping={"ailing": "x", "suspended_at": b"\xff", "detail": b"\xff"})
    p, q = await store.grants.providers(["p", "q"])
    assert (p.counts["due"], q.counts["due"]) == (1, 1)
    await redis.delete("broker:{0}:provider:p")
    await redis.set("broker:{0}:provider:p", "x")
    p, q = await store.grants.providers(["p", "q"])
    assert (p.counts["due"], q.counts["due"]) == (1, 1)
