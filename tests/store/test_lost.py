"""Lost grants: noted where they stood, restored from the last answer only, and never after a logout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.errors import WrongStore
from broker.model import Ending, Park, Postpone
from broker.model.account import NOBODY
from broker.secret import Secret
from broker.store.attempts import Attempt
from broker.store.lost import LostGrant, find_position
from broker.token_answer import message
from tests.store.steps import claimed, commit_of, imported, sets

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.model import Claim
    from broker.store import Store

GRANT = "broker:{0}:grant:g1"
DUE = "broker:{0}:due:p"
LEASED = "broker:{0}:leased:p"
PLANNED = 1_800_000_000_123


async def answered(store: Store) -> tuple[Claim, str]:
    """Import a grant and commit an answer; return the claim, and the record of the answer as a journal has it."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    prepared = store.registry.prepare(commit_of(claim))
    await store.schedule.commit(prepared)
    return claim, prepared.record


async def noted(store: Store) -> list[tuple[str, str, str]]:
    """Return id, provider and state of each lost grant."""
    return [lost[:3] for lost in await store.lost.all()]


@pytest.mark.parametrize("state", ["due", "claimed", "parked", "leased"])
async def test_a_lost_grant_is_noted_and_stands_where_it_stood(store: Store, redis: Redis, state: str) -> None:
    """Due, claimed, parked or leased; the outcome of a request under way is unknown then."""
    _, record = await answered(store)
    planned = await redis.zscore(DUE, "g1") or 0
    if state in {"parked", "leased"}:
        await redis.zadd(DUE, {"g1": 1})
        (claim,) = await claimed(store)
        if state == "parked":
            dead = Park(claim, "dead", "reauthorization_required", "", "reauthorization_required", code="invalid_grant")
            assert await store.schedule.park(dead, {}) == "parked"
    await redis.delete(GRANT)
    if state == "leased":
        await redis.zadd(LEASED, {"g1": 1.5})
        assert await claimed(store) == []
    elif state == "claimed":
        await redis.zadd(DUE, {"g1": 1})
        assert await claimed(store) == []
    else:
        assert (await store.lost.find("p", state, 0))[:2] == (1, 1)  # type: ignore[arg-type]
    assert await sets(redis, "g1") == []
    assert await noted(store) == [("g1", "p", "due" if state == "claimed" else state)]
    assert await store.lost.restore("g1", record) == "restored"
    assert await noted(store) == []
    assert await sets(redis, "g1") == ["parked" if state == "parked" else "due"]
    if state == "due":
        assert await redis.zscore(DUE, "g1") == planned
    reason, unknown_at = await redis.hmget(GRANT, "reason", "unknown_at")
    assert reason == (b"reauthorization_required" if state == "parked" else None)
    assert (unknown_at is not None) == (state == "leased")


@pytest.mark.parametrize("later", ["import", "login", "refresh"])
async def test_what_came_later_is_not_undone(store: Store, redis: Redis, later: str) -> None:
    """An older answer restores nothing: its refresh token may be spent, or belong to another login."""
    claim, record = await answered(store)
    if later == "import":
        await store.registry.import_("g1", "p", Secret("another"), None, due_at=store.clock())
    elif later == "login":
        held = await store.registry.generation("g1")
        token = commit_of(claim).token
        assert held is not None
        assert token is not None
        token.generation = held.generation + 1  # type: ignore[misc]
        token.refresh_at += 5_000  # type: ignore[misc]
        login = store.registry.prepare_login(
            token, Secret("r9"), ending=Ending(), followed=held.generation, ownership=NOBODY
        )
        heard = message("reauthorized", "g1", "p", token.generation)
        assert await store.registry.log_in(login, seen=held, message=heard) is not None
    else:
        await redis.zadd(DUE, {"g1": 1})
        (claim,) = await claimed(store)
        commit = commit_of(claim, "a3", "r3")
        commit.refresh_at += 5_000  # type: ignore[misc]
        await store.schedule.commit(store.registry.prepare(commit))
    await redis.delete(GRANT)
    await store.lost.find("p", "due", 0)
    assert await store.lost.restore("g1", record) == "older"
    assert not await redis.exists(GRANT)


async def test_a_logout_stays_one(store: Store, redis: Redis) -> None:
    """A grant that was logged out is not restored, whether its hash went by the logout or before it."""
    _, record = await answered(store)
    await store.registry.forget("g1", message("revoked", "g1", "p", 1))
    await redis.zadd(DUE, {"g1": 1})  # as a hand that mended too much leaves it
    await store.lost.find("p", "due", 0)
    assert await store.lost.restore("g1", record) in {"older", "forgotten"}
    assert not await redis.exists(GRANT)


async def test_a_grant_that_is_there_again_is_not_lost(store: Store, redis: Redis) -> None:
    """A login or an import ends it."""
    await answered(store)
    await redis.delete(GRANT)
    await store.lost.find("p", "due", 0)
    await store.registry.import_("g1", "p", Secret("another"), None, due_at=store.clock())
    assert await noted(store) == []


async def test_another_store_keeps_its_notes(store: Store, redis: Redis) -> None:
    """What is lost in another store is noted there as before."""
    await redis.hset(store.keys.lost, "g1", "due 1 1 p")
    await redis.hset(store.keys.meta, "store", "another")
    with pytest.raises(WrongStore):
        await store.lost.drop("g1")
    assert await redis.hexists(store.keys.lost, "g1")


async def test_an_unknown_outcome_stays_unknown(store: Store, redis: Redis) -> None:
    """A request whose answer was not heard may have spent the token that the record has."""
    _, record = await answered(store)
    await redis.zadd(DUE, {"g1": 1})
    (claim,) = await claimed(store)
    step = Postpone(claim, "unknown", "timeout", "", due_at=store.clock() + 60_000, failures=1, unknown=True)
    assert await store.schedule.postpone(step, None) == "postponed"
    await redis.delete(GRANT)
    await store.lost.find("p", "due", 0)
    assert await store.lost.restore("g1", record) == "restored"
    assert await redis.hget(GRANT, "unknown_at") is not None


def attempt(decided: str, next_at: int | None = PLANNED // 1000 * 1000) -> Attempt:
    """Return an attempt."""
    return Attempt(PLANNED - 60_000, "b", "refreshed", "", error_description="", decided=decided, next_at=next_at)


@pytest.mark.parametrize(
    ("score", "attempts", "proven"),
    [
        (PLANNED, [], True),
        (PLANNED + 1, [], False),
        (PLANNED + 1, [attempt("kept")], True),
        (PLANNED + 1, [attempt("kept"), attempt("postponed")], True),
        (PLANNED + 1, [attempt("kept"), attempt("kept", PLANNED + 9_000)], False),
        (PLANNED + 1, [attempt("kept"), attempt("registered", PLANNED - 9_000)], False),
        (PLANNED + 1, [attempt("postponed")], False),
    ],
)
def test_what_shows_that_a_record_is_the_last(score: int, attempts: list[Attempt], *, proven: bool) -> None:
    """The due time that it planned, or the last answer among the attempts."""
    record: dict[str, int | str] = {"provider": "p", "refresh_at": PLANNED}
    position = find_position(LostGrant("g1", "p", "due", score, PLANNED), record, attempts)
    assert (position is not None) is proven
