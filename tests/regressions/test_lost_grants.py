"""The hash of a grant is gone from Redis, by eviction or by hand, while its id stands in the schedule."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.steps import assert_sound, make_due, state_of
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker

GRANT = "broker:{0}:grant:g1"
LOST = "broker:{0}:lost"


async def dead(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Let the provider refuse the grant, and wait until it is parked."""
    sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant"})
    await make_due(redis, "acme", "g1")
    await until(lambda: is_in(broker, "parked"))


async def is_in(broker: RunningBroker, state: str) -> bool:
    status, body, _ = await broker.ask("GET", "/v1/grants/g1")
    return status == 200 and bool(body["state"] == state)


@pytest.mark.parametrize("state", ["due later", "overdue", "postponed", "parked", "read"])
async def test_the_journal_restores_a_lost_grant(
    broker: RunningBroker, sandbox: Sandbox, redis: Redis, state: str
) -> None:
    """It stands where it stood, with its token; nothing is redeemed twice."""
    await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
    before = await broker.token("g1")
    planned = await redis.zscore("broker:{0}:due:acme", "g1") or 0
    if state == "parked":
        await dead(broker, sandbox, redis)
    if state == "postponed":
        sandbox.rotating.faults.order("status", status=503)
        await make_due(redis, "acme", "g1")
        await until(lambda: failed(redis))
    await redis.delete(GRANT)
    if state == "overdue":
        await make_due(redis, "acme", "g1")
    if state == "read":
        assert (await broker.ask("POST", "/v1/grants/g1/refresh", headers={"If-Match": '"1"'}))[0] == 200
    else:
        await until(lambda: redis.exists(GRANT), 10)
    await until(lambda: is_in(broker, "parked" if state == "parked" else "due"))
    if state in {"due later", "read"}:
        assert (await broker.token("g1"))["access_token"] == before["access_token"]
        assert await redis.zscore("broker:{0}:due:acme", "g1") == planned
    if state == "parked":
        assert (await state_of(broker, "g1"))["reason"] == "reauthorization_required"
    assert broker.events("grant.restored")
    assert not await redis.hlen(LOST)
    if state != "parked":
        await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_a_logout_finds_a_lost_grant(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A grant is logged out for good though its hash is gone: its tokens are revoked, and it does not come back."""
    await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
    await broker.token("g1")
    await redis.delete(GRANT)
    status, body, _ = await broker.ask("DELETE", "/v1/grants/g1")
    assert (status, body["revoked"]) == (200, True), body
    await asyncio.sleep(3)
    assert not await redis.exists(GRANT)
    assert (await broker.ask("GET", "/v1/grants/g1/token"))[0] == 404


async def failed(redis: Redis) -> bool:
    """Whether the last refresh failed."""
    return await redis.hget(GRANT, "failures") == b"1"


async def of_lost(broker: RunningBroker) -> dict[str, Any] | None:
    """Return the verdict once lost grants are a cause of it."""
    verdict = await broker.get("/v1/verdict")
    return verdict if [cause["kind"] for cause in verdict["causes"]] == ["lost"] else None


async def test_what_no_journal_holds_is_named(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, tmp_path: Path
) -> None:
    """In the log, by health, in a metric and by explain; a login ends that, and so does a logout."""
    del tmp_path
    async with start_broker(refresh={"journal": False}) as broker:
        for name in ("g1", "g2"):
            await broker.import_(name, "acme", sandbox.rotating.issue().refresh_token or "")
            await broker.token(name)
        await redis.delete(GRANT, "broker:{0}:grant:g2")

        async def degraded() -> bool:
            check = (await broker.get("/healthz"))["checks"]["lost grants"]
            return check["status"] != "ok" and "g1, g2" in check["detail"]

        await until(degraded, 20)
        (event,) = broker.events("grants.lost")
        assert (event["count"], event["grant_ids"]) == (2, ["g1", "g2"])
        assert "token_broker_lost_grants 2.0" in (await broker.get("/metrics"))["text"]
        verdict = await until(partial(of_lost, broker))
        assert (verdict["status"], verdict["causes"][0]["examples"]) == ("login_needed", ["g1", "g2"])
        assert verdict["summary"].startswith("No grant is left; Redis lost the data of g1 and g2, and no journal")
        past = await broker.get("/v1/grants/g1/attempts")
        assert abs(past["lost_at"] - time.time()) < 30
        assert (await broker.ask("DELETE", "/v1/grants/g1"))[0] in {200, 204}
        assert (await broker.ask("DELETE", "/v1/grants/g1"))[0] == 404
        await broker.import_("g2", "acme", sandbox.rotating.issue().refresh_token or "")

        async def well() -> bool:
            return bool((await broker.get("/healthz"))["checks"]["lost grants"]["status"] == "ok")

        await until(well, 30)
        assert len(broker.events("grants.lost")) == 1


async def test_only_the_last_answer_is_restored(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Of two brokers the one with the older answer restores nothing, and the other one what it received."""
    async with start_broker() as older:
        await older.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        await older.token("g1")
        first = await redis.hget(GRANT, "generation")
        # As if another broker had refreshed it since: its answer is in the journal of that one.
        await redis.zadd("broker:{0}:due:acme", {"g1": time.time() * 1000 + 100_000})
        await redis.rpush("broker:{0}:attempts:g1", f"kept\trefreshed\t{int(time.time())}\t100\tother\t\t")
        await redis.delete(GRANT)
        await until(lambda: redis.hlen(LOST), 10)
        await until(lambda: older.events("grants.lost"), 20)
        assert not await redis.exists(GRANT)
        assert first is not None


async def test_two_brokers_restore_what_either_holds(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Whichever broker notices a loss, the one that holds the answer restores it; a logout stays one."""
    names = [f"g{number}" for number in range(12)]
    async with start_broker() as one, start_broker() as two:
        for name in names:
            await one.import_(name, "acme", sandbox.rotating.issue().refresh_token or "")
        for name in names:
            await one.token(name)
        assert (await two.ask("DELETE", "/v1/grants/g11"))[0] in {200, 204}
        await redis.delete(*(f"broker:{{0}}:grant:{name}" for name in names))

        async def restored() -> bool:
            return all([await redis.exists(f"broker:{{0}}:grant:{name}") for name in names[:11]])

        await until(restored, 15)
        assert not await redis.exists("broker:{0}:grant:g11")
        await until(lambda: not_lost(redis), 10)
        for name in names[:11]:
            await make_due(redis, "acme", name)
        for name in names[:11]:
            await assert_sound(one, sandbox, (name, "acme"))
        assert not one.events("grants.lost")


async def not_lost(redis: Redis) -> bool:
    """Whether no grant is noted as lost."""
    return await redis.hlen(LOST) == 0
