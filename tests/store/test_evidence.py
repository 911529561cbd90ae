"""Refusals judged by what other grants of the provider meet: the table's lines through the real scripts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.model import InvalidClient, InvalidGrant, Outcome, Park, Postpone, Rejected
from broker.refresh import policy
from broker.secret import Secret
from broker.store.attempts import Attempt
from tests.providers.reading import OAUTH2
from tests.providers.refusal_lines import LINES, Line
from tests.store.steps import brought_by, claimed, commit_of, imported, refreshed, sets

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.model import Claim
    from broker.providers import Dialect
    from broker.store import Recorded, Store

PROVIDER = "broker:{0}:provider:p"
DUE = "broker:{0}:due:p"
DEAD = InvalidGrant("invalid_grant")
UNAUTHORIZED = InvalidClient("unauthorized_client", sure=False)
BARE_401 = InvalidGrant("http_401", sure=False)
CLIENT = InvalidClient("invalid_client")
REJECTED = Rejected("http_400", "")


async def refused(store: Store, claim: Claim, outcome: Outcome, dialect: Dialect = OAUTH2) -> Recorded:
    """Record what a token request of *claim* came to."""
    step = policy.decide(claim, outcome, dialect, store.clock(), 0.5)
    await asyncio.sleep(0.002)  # a claim is known to be later than what was recorded by its millisecond
    if isinstance(step, Postpone):
        return await store.schedule.postpone(step, None)
    assert isinstance(step, Park)
    return await store.schedule.park(step, {})


async def claim_of(store: Store, redis: Redis, grant: str) -> Claim:
    """Claim one grant, due as the only one, once the provider may be asked."""
    await redis.zadd(DUE, {grant: 1}, xx=True)
    if await redis.hexists(PROVIDER, "not_before"):
        await redis.hset(PROVIDER, mapping={"not_before": 1})
    await asyncio.sleep(0.002)
    (claim,) = await claimed(store)
    assert claim.grant_id == grant
    return claim


async def ask(store: Store, redis: Redis, grant: str, outcome: Outcome) -> Recorded:
    """Claim a grant, and record what its token request came to."""
    return await refused(store, await claim_of(store, redis, grant), outcome)


async def succeed(store: Store, redis: Redis, grant: str) -> None:
    """Claim a grant, and commit a new token of it."""
    claim = await claim_of(store, redis, grant)
    assert (await store.schedule.commit(store.registry.prepare(commit_of(claim))))[0] == "committed"
    await asyncio.sleep(0.002)


async def later(redis: Redis, *grants: str) -> None:
    """Make grants due at another time, an hour ahead."""
    seconds, _ = await redis.time()
    await redis.zadd(DUE, dict.fromkeys(grants, (seconds + 3600) * 1000), xx=True)


async def attempts(store: Store, grant: str) -> list[Attempt]:
    """Return the attempts of a grant."""
    return (await store.attempts.for_grant(grant, await store.grants.get(grant))).attempts


async def suspended(redis: Redis) -> bytes | None:
    """Why the provider is suspended."""
    return await redis.hget(PROVIDER, "suspended")  # type: ignore[return-value]


async def verdict(store: Store, redis: Redis, reason: str = "reauthorization_required") -> str:
    """Return what became of g1, and of its provider, in the words of the table."""
    if await suspended(redis):
        return "registration"
    held = await store.grants.get("g1")
    assert held is not None
    if held.parked:
        return "dead" if held.reason == reason else "rejected"
    return "busy" if held.last_outcome == "busy" else "retry"


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.id)
async def test_line(line: Line, store: Store, redis: Redis) -> None:
    """Each line comes to what it must, whatever others of the provider meet meanwhile; nobody else is parked."""
    others = ["g2", "g3", "g4"]
    await refreshed(store, redis, "g1", *others)
    await later(redis, "g1", *others)
    outcome = line.read()
    for _ in range(2):
        if line.want == "dead" and (await store.grants.get("g1")).parked:  # type: ignore[union-attr]
            break
        await refused(store, await claim_of(store, redis, "g1"), outcome)
        await later(redis, "g1")
        for other in others:
            if line.context == "others_succeed":
                await succeed(store, redis, other)
            elif line.context == "others_refused":
                await ask(store, redis, other, outcome)
            await later(redis, other)
    assert await verdict(store, redis) == line.want
    assert [grant for grant in others if await sets(redis, grant) != ["due"]] == []


async def test_a_lone_grant_is_no_evidence(store: Store, redis: Redis) -> None:
    """Where nobody else is asked, a doubtful refusal is tried once more, then it suspends; the next success tells."""
    await refreshed(store, redis, "g1", "g2")
    await later(redis, "g1", "g2")
    assert await ask(store, redis, "g1", BARE_401) == "postponed"
    assert await suspended(redis) is None
    await later(redis, "g1")
    assert await ask(store, redis, "g1", BARE_401) == "suspended"
    assert await suspended(redis) == b"http_401"
    assert [a.decided for a in await attempts(store, "g1")][-2:] == ["undecided", "suspended"]
    assert [a.outcome for a in await attempts(store, "g1")][-2:] == ["rejected", "registration"]
    await later(redis, "g1")
    await succeed(store, redis, "g2")
    assert await suspended(redis) is None
    assert await ask(store, redis, "g1", BARE_401) == "parked"
    assert (await attempts(store, "g1"))[-1].decided == "parked_alone"


@pytest.mark.parametrize("outcome", [UNAUTHORIZED, BARE_401, CLIENT], ids=["unauthorized", "bare 401", "client"])
async def test_a_registration_that_heals_parks_nobody(store: Store, redis: Redis, outcome: Outcome) -> None:
    """A blip of a registration, with requests that overlap its beginning and its end, costs no grant."""
    names = [f"g{n}" for n in range(8)]
    await refreshed(store, redis, *names)
    before, *hit = await claimed(store, 8)
    await asyncio.sleep(0.002)
    for claim in hit:
        assert await refused(store, claim, outcome) in {"postponed", "suspended"}
    # Asked before the blip, answered after its beginning: no evidence against the others.
    await store.schedule.commit(store.registry.prepare(commit_of(before)))
    await later(redis, *names)
    for claim in hit[:4]:
        assert await ask(store, redis, claim.grant_id, outcome) in {"postponed", "suspended"}
        await later(redis, claim.grant_id)
    # One is asked in the blip's last moment; before it is answered, another succeeds.
    late = await claim_of(store, redis, hit[4].grant_id)
    await redis.zrem("broker:{0}:leased:p", late.grant_id)
    await succeed(store, redis, hit[5].grant_id)
    assert await refused(store, late, outcome) in {"postponed", "suspended"}
    for claim in hit:
        if claim is not hit[5]:
            await succeed(store, redis, claim.grant_id)
    assert await redis.zcard("broker:{0}:parked:p") == 0
    assert await suspended(redis) is None


async def test_evidence_is_of_its_time(store: Store, redis: Redis) -> None:
    """A success counts if it was asked for after the last refusal of that grant, whatever was known before."""
    await refreshed(store, redis, "g1", "g2", "g3")
    await later(redis, "g1", "g2", "g3")
    assert await ask(store, redis, "g3", UNAUTHORIZED) == "postponed"
    await later(redis, "g3")
    await succeed(store, redis, "g2")
    await later(redis, "g2")
    assert await redis.hget(PROVIDER, "succeeded_from")
    early = await claim_of(store, redis, "g2")
    assert await ask(store, redis, "g1", UNAUTHORIZED) == "postponed"
    await later(redis, "g1")
    # Asked before that refusal: it says nothing of what came after.
    await store.schedule.commit(store.registry.prepare(commit_of(early)))
    await later(redis, "g2")
    assert await ask(store, redis, "g1", UNAUTHORIZED) == "suspended"
    await later(redis, "g1")
    await succeed(store, redis, "g2")
    await later(redis, "g2")
    assert await ask(store, redis, "g1", UNAUTHORIZED) == "parked"


async def test_a_success_that_says_nothing_leaves_the_question_open(store: Store, redis: Redis) -> None:
    """After a success that was asked for before a refusal, the next one still counts."""
    await refreshed(store, redis, "g1", "g2")
    await later(redis, "g1", "g2")
    early = await claim_of(store, redis, "g2")
    assert await ask(store, redis, "g1", UNAUTHORIZED) == "postponed"
    await later(redis, "g1")
    await store.schedule.commit(store.registry.prepare(commit_of(early)))
    await later(redis, "g2")
    await succeed(store, redis, "g2")
    await later(redis, "g2")
    assert await ask(store, redis, "g1", UNAUTHORIZED) == "parked"


async def test_the_client_of_one_grant_alone_is_tried_for_a_while(store: Store, redis: Redis) -> None:
    """`invalid_client` to one grant while others succeed is tried like any refusal, then parked; others go on."""
    await refreshed(store, redis, "g1", "g2")
    await later(redis, "g1", "g2")
    assert await ask(store, redis, "g1", CLIENT) == "suspended"
    await later(redis, "g1")
    for number in range(4):
        await succeed(store, redis, "g2")
        await later(redis, "g2")
        if number == 3:  # moved to where half of its margin is gone
            count, _, last = str(await redis.hget("broker:{0}:grant:g1", "refused")).strip("b'").split()
            await redis.hset("broker:{0}:grant:g1", "refused", f"{count} {int(last) - 3_600_000} {last}")
        assert await ask(store, redis, "g1", CLIENT) == ("parked" if number == 3 else "postponed")
        assert await suspended(redis) is None
        await later(redis, "g1")
    decided = [a.decided for a in await attempts(store, "g1")]
    assert decided[-5:] == ["suspended", *["postponed_alone"] * 3, "parked_alone"]
    assert (await store.grants.get("g1")).reason == "invalid_client"  # type: ignore[union-attr]


async def test_41_junk_tokens_stop_nobody(store: Store, redis: Redis) -> None:
    """Imported tokens that never lived are parked one by one; the breaker does not count them, and others go on."""
    await refreshed(store, redis, "good")
    await later(redis, "good")
    junk = [f"junk{n:02}" for n in range(41)]
    await imported(store, *junk)
    for claim in await claimed(store, 41):
        assert await refused(store, claim, DEAD) == "parked"
    assert await redis.hgetall(PROVIDER) == {
        name: value for name, value in (await redis.hgetall(PROVIDER)).items() if name in {b"seen_at", b"succeeded_at"}
    }
    await succeed(store, redis, "good")


@pytest.mark.parametrize("outcome", [UNAUTHORIZED, BARE_401, CLIENT], ids=["unauthorized", "bare 401", "client"])
async def test_a_grant_that_never_had_a_token_does_not_suspend_a_provider_that_works(
    store: Store, redis: Redis, outcome: Outcome
) -> None:
    """Its refusals say nothing where others have succeeded; where nobody ever has, they are all that there is."""
    await refreshed(store, redis, "good")
    await later(redis, "good")
    await imported(store, "junk")
    for _ in range(4):
        assert await ask(store, redis, "junk", outcome) == "postponed"
        await later(redis, "junk")
    assert await suspended(redis) is None
    await imported(store, "first", provider="q")
    first = (await brought_by(store, 1, "q")).claims[0]
    if outcome is not CLIENT:
        assert await refused(store, first, outcome) == "postponed"
        await redis.zadd("broker:{0}:due:q", {"first": 1})
        first = (await brought_by(store, 1, "q")).claims[0]
    assert await refused(store, first, outcome) == "suspended"


@pytest.mark.parametrize("outcome", [DEAD, UNAUTHORIZED, BARE_401, CLIENT, REJECTED])
async def test_junk_over_grants_that_had_tokens_stops_nobody(store: Store, redis: Redis, outcome: Outcome) -> None:
    """An access token that an import left in place says nothing of the imported refresh token."""
    names = [f"g{n}" for n in range(5)]
    await refreshed(store, redis, "good", *names)
    await later(redis, "good", *names)
    for name in names:
        registered = await store.registry.import_(name, "p", Secret(f"junk-{name}"), None, due_at=store.clock())
        assert registered.status == "replaced"
        assert (await store.grants.get(name)).token is not None  # type: ignore[union-attr]
        assert await ask(store, redis, name, outcome) in {"parked", "postponed"}
        await later(redis, name)
    assert await suspended(redis) is None
    assert not await redis.hexists(PROVIDER, "ailing")
    await succeed(store, redis, "good")


async def test_junk_over_a_grant_that_had_a_token_is_no_witness(store: Store, redis: Redis) -> None:
    """While the provider is suspended, such a grant is asked after those whose refresh token is known to have lived."""
    await refreshed(store, redis, "g1", "junk", "good")
    await later(redis, "g1", "junk", "good")
    assert await ask(store, redis, "g1", CLIENT) == "suspended"
    await later(redis, "g1")
    await store.registry.import_("junk", "p", Secret("r-other"), None, due_at=store.clock())
    await redis.zadd(DUE, {"junk": 1, "good": 2})
    await redis.hset(PROVIDER, mapping={"not_before": 1})
    await asyncio.sleep(0.002)
    assert [claim.grant_id for claim in await claimed(store)] == ["good"]


async def order_of_probes(store: Store, redis: Redis) -> list[str]:
    """Return which due grants are probed, each refused as the client, until one comes again."""
    order: list[str] = []
    while True:
        await redis.hset(PROVIDER, "not_before", 1)
        await asyncio.sleep(0.002)
        (claim,) = await claimed(store, 9)
        assert await claimed(store, 9) == [], "one at a time"
        if claim.grant_id in order:
            return order
        order.append(claim.grant_id)
        await refused(store, claim, CLIENT)


async def test_the_order_of_probes(store: Store, redis: Redis) -> None:
    """The grant that succeeded last comes first, one that never had a token behind these, a refused one last."""
    await imported(store, "new")
    await later(redis, "new")
    for name in ("a", "b", "c", "d"):
        await imported(store, name)
        await succeed(store, redis, name)
        await later(redis, name)
    assert await ask(store, redis, "d", CLIENT) == "suspended"
    await redis.zadd(DUE, {"new": 1, "d": 2, "a": 3, "b": 4, "c": 5})
    assert await order_of_probes(store, redis) == ["c", "b", "a", "new", "d"]


async def test_a_witness_need_not_wait_for_pauses_of_others(store: Store, redis: Redis) -> None:
    """While only refused grants are due the pauses grow; another one that falls due meanwhile is asked sooner."""
    await refreshed(store, redis, "dead", "good")
    await later(redis, "dead", "good")
    await ask(store, redis, "dead", CLIENT)
    await redis.hset(PROVIDER, mapping={"witness_at": 1})
    for _ in range(4):
        assert await ask(store, redis, "dead", CLIENT) == "suspended"
    assert (await brought_by(store, 9)).claims == [], "the one that was refused waits"
    pause = int(await redis.hget(PROVIDER, "not_before") or 0) - store.clock()
    assert 30_000 < pause <= 60_000
    await redis.zadd(DUE, {"good": 1})
    (claim,) = await claimed(store, 9)
    assert claim.grant_id == "good"
    assert await refused(store, claim, CLIENT) == "suspended"
    assert await claimed(store, 9) == []
    left = int(await redis.hget(PROVIDER, "witness_at") or 0) - store.clock()
    assert 5_000 < left <= 10_000, "the second witness"


async def test_what_the_server_asks_for_holds_for_a_witness(store: Store, redis: Redis) -> None:
    """A Retry-After while the provider is suspended is kept by everybody."""
    await refreshed(store, redis, "g1", "g2", "g3")
    await later(redis, "g1", "g2", "g3")
    await ask(store, redis, "g1", CLIENT)
    await redis.hset(PROVIDER, "witness_at", 1)
    claim = await claim_of(store, redis, "g2")
    await store.schedule.postpone(
        Postpone(claim, "busy", "http_429", "", 1, 1, lane="ailing", not_before=store.clock() + 90_000), None
    )
    await redis.zadd(DUE, {"g3": 1})
    assert await claimed(store, 9) == []


async def test_a_success_of_a_sound_provider_writes_nothing_about_it(store: Store, redis: Redis) -> None:
    """Evidence costs a commit one look: the provider's hash is as before."""
    await refreshed(store, redis, "g1", "g2")
    before = await redis.hgetall(PROVIDER)
    await succeed(store, redis, "g1")
    assert await redis.hgetall(PROVIDER) == before
