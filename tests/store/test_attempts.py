"""A grant's last attempts: written by the scripts that decide about them, bounded, and removed with the grant."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from broker.model import Claim, Ending, Park, Postpone
from broker.secret import Secret
from broker.store.attempts import KEPT, Attempt, Past, attempt_record, entry, replica_name
from tests.store.steps import claimed, commit_of, imported, refreshed
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store

GRANT = "broker:{0}:grant:g1"


async def past(store: Store, grant: str = "g1") -> Past:
    """Return the attempts of a grant."""
    return await store.attempts.for_grant(grant, await store.grants.get(grant))


async def again(store: Store, redis: Redis, grant: str = "g1") -> Claim:
    """Return the grant claimed, made due first where it waits."""
    await redis.zadd("broker:{0}:due:p", {grant: 1}, xx=True)
    (claim,) = await claimed(store)
    return claim


def postponed(claim: Claim, **changes: object) -> Postpone:
    """Return a step that puts a grant off by a minute."""
    step = Postpone(claim, "busy", "http_503", "come back later", claim.claimed_at + 60_000, 1)
    return replace(step, **changes)  # type: ignore[arg-type]


async def test_each_script_remembers_what_it_settled(store: Store, redis: Redis) -> None:
    """Commit, postpone and park leave an entry each, oldest first, with what the server said and what was decided."""
    await imported(store, "g1")
    claim = await again(store, redis)
    assert (await past(store)).under_way == (claim.claimed_at, replica_name())
    await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    await store.schedule.commit(store.registry.prepare(commit_of(claim)))  # a commit that is repeated is one attempt
    await store.schedule.postpone(postponed(await again(store, redis)), None)
    dead = await again(store, redis)
    detail = "invalid_grant: Token was revoked\tby its owner"
    step = Park(dead, "dead", "reauthorization_required", detail, "reauthorization_required", "invalid_grant")
    assert await store.schedule.park(step, {}) == "parked"
    found = await past(store)
    assert [(a.outcome, a.error, a.error_description, a.decided) for a in found.attempts] == [
        ("refreshed", "", "", "kept"),
        ("busy", "http_503", "come back later", "postponed"),
        ("dead", "invalid_grant", "Token was revoked by its owner", "parked"),
    ]
    kept, later, parked = found.attempts
    assert {a.replica for a in found.attempts} == {replica_name()}
    assert kept.at == claim.claimed_at // 1000 * 1000
    assert kept.next_at == commit_of(claim).refresh_at // 1000 * 1000
    assert later.next_at is not None
    assert later.next_at - later.at == 60_000
    assert parked.next_at is None
    assert (found.under_way, found.next_at, found.unknown_at) == (None, None, None)


async def test_only_the_last_ten_are_kept_in_order(store: Store, redis: Redis) -> None:
    """However many attempts a grant had, the last ten are there; what a claim reads does not grow by them."""
    await imported(store, "g1")
    await store.schedule.postpone(postponed(await again(store, redis), code="c0"), None)
    fields = await redis.hlen(GRANT)
    for number in range(1, KEPT + 3):
        await store.schedule.postpone(postponed(await again(store, redis), code=f"c{number}"), None)
    assert [a.error for a in (await past(store)).attempts] == [f"c{number}" for number in range(3, KEPT + 3)]
    assert await redis.hlen(GRANT) == fields


async def test_a_history_that_cannot_be_written_holds_nothing_up(store: Store, redis: Redis) -> None:
    """What an answer brought is kept, and its grant goes back to due, whatever becomes of the list of attempts."""
    await imported(store, "g1")
    await redis.set("broker:{0}:attempts:g1", "of another type")
    claim = await again(store, redis)
    assert await store.schedule.commit(store.registry.prepare(commit_of(claim)), [{}]) == ("committed", True)
    assert await store.schedule.postpone(postponed(await again(store, redis), code="c"), None) == "postponed"
    parked = Park(await again(store, redis), "dead", "gone", "", "refresh_failing")
    assert await store.schedule.park(parked, {}) == "parked"


async def test_a_history_goes_with_its_grant(store: Store, redis: Redis) -> None:
    """Nothing of a grant that was logged out is left behind, and another under its name begins anew."""
    await imported(store, "g1")
    await store.schedule.commit(store.registry.prepare(commit_of(await again(store, redis))), [{}])
    assert await redis.llen("broker:{0}:attempts:g1") == 1
    assert await store.registry.forget("g1", {})
    assert await redis.keys("*g1*") == []
    await imported(store, "g1")
    assert (await past(store)).attempts == []


async def test_an_attempt_nobody_ended_is_named(store: Store, redis: Redis) -> None:
    """A lease that ended leaves an attempt of unknown outcome, with its own time and replica; claimed twice, two."""
    await imported(store, "g1")
    first = second = await again(store, redis)
    times = [first.claimed_at - 90_000, first.claimed_at - 60_000]
    for at in times:
        await redis.hset(GRANT, "attempt_at", at)  # far apart: two claims may fall into one millisecond
        await redis.zrem("broker:{0}:leased:p", "g1")
        await redis.zadd("broker:{0}:due:p", {"g1": 1})
        second = await again(store, redis)
    found = await past(store)
    assert [(a.outcome, a.error, a.decided, a.replica, a.at) for a in found.attempts] == [
        ("unknown", "lease_ended", "open", replica_name(), at // 1000 * 1000) for at in times
    ]
    assert found.unknown_at == times[0]
    assert found.under_way == (second.claimed_at, replica_name())
    # The time of a replay is put off without a request: that is no attempt.
    held_back = postponed(second, outcome="unknown", unknown=True, asked=False)
    assert await store.schedule.postpone(held_back, None) == "postponed"
    found = await past(store)
    assert (len(found.attempts), found.next_at, found.unknown_at) == (2, held_back.due_at, times[0])


async def test_three_refused_then_the_provider(store: Store, redis: Redis) -> None:
    """What the breaker decided is remembered as that: parked for three, suspended for the fourth."""
    names = ["g1", "g2", "g3", "g4"]
    await refreshed(store, redis, *names)
    for claim in sorted(await claimed(store, 4), key=lambda c: c.grant_id):
        await store.schedule.park(Park(claim, "rejected", "invalid_scope", "no", "refresh_failing"), {})
    decided = [(await past(store, name)).attempts[-1].decided for name in names]
    assert decided == ["parked", "parked", "parked", "suspended"]


async def test_a_restored_answer_is_remembered(store: Store, redis: Redis) -> None:
    """An answer that a store lost and a journal restored is recorded once, beside the attempts that it still had."""
    await imported(store, "g1")
    await store.schedule.postpone(postponed(await again(store, redis)), None)
    claim = await again(store, redis)
    record = store.registry.prepare(commit_of(claim)).record
    for expected in ("restored", "known"):
        assert await store.registry.restore(record) == expected
    assert [(a.outcome, a.decided) for a in (await past(store)).attempts] == [
        ("busy", "postponed"),
        ("refreshed", "restored"),
    ]


async def test_a_login_keeps_them_and_forgetting_does_not(store: Store, redis: Redis) -> None:
    """They are the grant's: a login over it keeps them, forgetting it removes them and leaves when it was forgotten."""
    await imported(store, "g1")
    claim = await again(store, redis)
    await store.schedule.park(Park(claim, "dead", "x", "", "refresh_failing"), {})
    token = commit_of(claim).token
    assert token is not None
    seen = await store.registry.generation("g1")
    login = store.registry.prepare_login(token, Secret("r-login"), ending=Ending(), followed=0)
    await store.registry.log_in(login, seen=seen, message={})
    assert [a.decided for a in (await past(store)).attempts] == ["parked"]
    assert (await past(store)).forgotten_at is None
    assert await store.registry.forget("g1", {})
    found = await past(store)
    assert found.attempts == []
    assert found.forgotten_at == await redis.zscore("broker:{0}:forgotten", "g1")
    assert (await past(store, "never")).forgotten_at is None


async def test_a_store_without_them_gets_them(store: Store, redis: Redis) -> None:
    """A grant of a version that remembered nothing has no past, a lease that its replica left open included."""
    await imported(store, "g1")
    await again(store, redis)
    await redis.hdel(GRANT, "attempt_by")
    assert (await past(store)).attempts == []
    await redis.zrem("broker:{0}:leased:p", "g1")
    await redis.zadd("broker:{0}:due:p", {"g1": 1})
    await store.schedule.commit(store.registry.prepare(commit_of(await again(store, redis))))
    assert [(a.decided, a.replica) for a in (await past(store)).attempts] == [("open", ""), ("kept", replica_name())]


async def test_a_grace_counts_from_the_first_open_attempt(store: Store, redis: Redis) -> None:
    """However many open attempts follow each other, the first may have spent the refresh token: its time is kept."""
    await imported(store, "g1")
    (first,) = await claimed(store)
    for ago in (90_000, 60_000, 30_000):
        await redis.hset("broker:{0}:grant:g1", "attempt_at", first.claimed_at - ago)
        await redis.zadd("broker:{0}:leased:p", {"g1": 1.5})
        (later,) = await claimed(store)
        assert later.unknown_at == first.claimed_at - 90_000
        step = postponed(later, outcome="unknown", unknown=True, due_at=1)
        assert await store.schedule.postpone(step, None) == "postponed"
        (later,) = await claimed(store)
        assert later.unknown_at == first.claimed_at - 90_000


@pytest.mark.parametrize("letter", ["x", "é", "漢", "🙂", "\t", "\udc80"])
def test_an_entry_is_bounded(letter: str) -> None:
    """Whatever a server says, an entry fits the compact encoding of its hash, reads back, and keeps its beginning."""
    words = entry("registration", 1, 10**12, "h" * 48 + ":123456", error="e" * 64, description=letter * 300)
    slot = f"suspended\t{words}".encode()
    assert len(slot) <= 256
    attempt = Attempt.parse(slot)
    assert (attempt.outcome, attempt.error, attempt.decided) == ("registration", "e" * 64, "suspended")
    assert attempt.error_description.startswith(letter.replace("\t", " ").encode("utf-8", "replace").decode() * 20)


async def test_the_fence_shows(store: Store, redis: Redis) -> None:
    """While nobody may claim, because the server is another run, the past says until when."""
    await imported(store, "g1")
    assert (await past(store)).fenced_until is None
    await redis.hset("broker:{0}:epoch", "open_at", str(store.clock() + 9_000))
    found = await past(store)
    assert found.fenced_until is not None
    assert 8_000 < found.fenced_until - store.clock() <= 9_000
    await redis.hset("broker:{0}:epoch", "open_at", str(store.clock() - 1))

    async def open_again() -> bool:
        return (await past(store)).fenced_until is None

    await until(open_again)


def test_what_is_remembered_of_a_refusal() -> None:
    """A refusal whose reason is the server's own code keeps both; no code is repeated in front of its description."""
    claim = Claim("g", "p", 1, "a", Secret("r"), None, None, None, None, 1, 0, None, 1, 5_000, 0.0)
    slots = [
        attempt_record(Park(claim, "rejected", "invalid_scope", "not yours", "refresh_failing"), "h:1"),
        attempt_record(Park(claim, "dead", "x", "invalid_grant", "reauthorization_required", "invalid_grant"), "h:1"),
    ]
    read_back = [Attempt.parse(f"parked\t{slot}".encode()) for slot in slots]
    assert [(a.error, a.error_description) for a in read_back] == [
        ("invalid_scope", "not yours"),
        ("invalid_grant", ""),
    ]


async def test_what_is_put_off_is_shown_as_due_then(store: Store, redis: Redis) -> None:
    """A grant that failed is described and listed with the time of its next try, not with that of its old plan."""
    await imported(store, "g1")
    step = postponed(await again(store, redis))
    await imported(store, "g2")
    await claimed(store)
    await store.schedule.postpone(step, None)
    grant = await store.grants.get("g1")
    assert grant is not None
    state, placed = await store.grants.placed(grant)
    assert (state, placed.refresh_at) == ("due", step.due_at)
    page = await store.grants.page(["p"], ["due", "leased"], None, 10)
    assert [(s, g.grant_id, g.refresh_at == step.due_at) for s, g in page.rows] == [
        ("leased", "g2", False),
        ("due", "g1", True),
    ]


async def test_a_restored_login_is_called_one(store: Store, redis: Redis) -> None:
    """A login that a store lost, and a journal restored, is recorded as a login."""
    await imported(store, "g1")
    token = commit_of(await again(store, redis), "login").token
    assert token is not None
    record = store.registry.prepare_login(token, Secret("r"), ending=Ending(), followed=0).record
    await redis.delete(GRANT)
    assert await store.registry.restore(record) == "restored"
    assert [(a.outcome, a.decided) for a in (await past(store)).attempts] == [("logged_in", "restored")]


async def test_a_grant_is_described_with_what_came_of_it(store: Store) -> None:
    """One that is parked between two readings of it is not said to be parked for nothing."""
    await imported(store, "g1")
    (claim,) = await claimed(store)
    before = await store.grants.get("g1")
    assert before is not None
    await store.schedule.park(Park(claim, "dead", "invalid_grant", "spent", "refresh_failing"), {})
    state, grant = await store.grants.placed(before)
    assert (state, grant.reason, grant.last_detail) == ("parked", "invalid_grant", "invalid_grant: spent")
