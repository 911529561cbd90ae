"""What a person does to a grant while a refresh is in flight, or Redis away: each ends with one live refresh token."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.sandbox import walk_login, walk_to_redirect
from tests.proxy import RedisProxy
from tests.steps import (
    assert_sound,
    everything,
    log_in,
    make_due,
    next_generation,
    roll_back,
    state_of,
    stored_refresh_token,
)
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker
    from tests.redis_server import RedisServer

QUICK = {"request_timeout": "1s", "lease": "8s"}


async def test_a_forgotten_grant_stays_forgotten(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A log out is not undone by any journal, whether the store remembers it or not."""
    async with start_broker(refresh=QUICK) as other, start_broker(refresh=QUICK) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        await other.token("g1")
        before = await everything(redis)
        assert (await broker.ask("DELETE", "/v1/grants/g1"))[1]["forgotten"]
        await redis.hset("broker:{0}:epoch", "run_id", "0000")
        await until(lambda: broker.events("journal.replayed"))
        assert await redis.exists("broker:{0}:grant:g1") == 0
        await roll_back(redis, before)
        await until(lambda: _gone(redis))


async def _gone(redis: Redis) -> bool:
    return bool(await redis.exists("broker:{0}:grant:g1") == 0)


def _more_than(requests: list[Any], number: int) -> bool:
    return len(requests) > number


def _given_back(broker: RunningBroker, before: int) -> bool:
    return len(broker.events("grant.given_back")) > before


async def test_moves_while_a_refresh_is_in_flight(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Login, provider change and log out while a refresh is in flight: one live refresh token, nothing left over."""
    async with start_broker(refresh=QUICK) as broker:
        seen = 0
        for grant, move in (("g1", "acme"), ("g2", "een")):
            await log_in(broker, grant, "acme")
            old = sandbox.rotating.family_of(await stored_refresh_token(broker, grant))
            assert old is not None
            _, started, _ = await broker.ask("POST", f"/v1/grants/{grant}/login", json={"provider": move})
            sandbox.rotating.options.latency = 0.9
            asked = len(sandbox.rotating.token_requests)
            await make_due(redis, "acme", grant)
            await until(partial(_more_than, sandbox.rotating.token_requests, asked))
            sandbox.rotating.options.latency = 0
            await walk_login(started["login_url"])
            await until(partial(_given_back, broker, seen))
            assert (await broker.token(grant))["provider"] == move
            assert (await state_of(broker, grant))["state"] == "due"
            await assert_sound(broker, sandbox, (grant, move))
            assert not sandbox.rotating.is_live_refresh(old.refresh_token or ""), "what nobody holds is revoked"
            seen = len(broker.events("grant.given_back"))
        await broker.import_("g3", "acme", sandbox.rotating.issue().refresh_token or "")
        sandbox.rotating.options.latency = 0.6
        asked = len(sandbox.rotating.token_requests)
        await make_due(redis, "acme", "g3")
        await until(lambda: len(sandbox.rotating.token_requests) > asked)
        body = {"provider": "acme", "refresh_token": "r-0123456789"}
        assert (await broker.ask("PUT", "/v1/grants/g3", json=body))[0] == 409
        status, answer, _ = await broker.ask("DELETE", "/v1/grants/g3")
        assert (status, answer["revoked"]) == (200, True)
        assert sandbox.rotating.families[-1].refresh_token is None
        assert sandbox.rotating.reuse == 0


async def test_a_login_survives_redis_going_away(
    start_broker: StartBroker, sandbox: Sandbox, own_redis: RedisServer
) -> None:
    """Redis goes away during a code exchange: what it brought is on disk, and is stored when Redis is back."""
    async with (
        RedisProxy(own_redis.port) as proxy,
        start_broker(refresh=QUICK, redis={"url": proxy.url}) as broker,
    ):
        _, started, _ = await broker.ask("POST", "/v1/grants/g1/login", json={"provider": "acme"})
        redirected = await walk_to_redirect(started["authorization_url"], broker.settings.redirect_uri)
        sandbox.rotating.options.latency = 0.5
        body = {"redirected_to": redirected, "state": started["state"]}
        login = asyncio.create_task(broker.ask("POST", "/v1/grants/g1/login/complete", json=body))
        await until(lambda: sandbox.rotating.token_requests)
        proxy.down()
        await until(lambda: _journaled(broker))
        proxy.up = True
        assert (await login)[0] == 200
        await assert_sound(broker, sandbox, ("g1", "acme"))


async def _journaled(broker: RunningBroker) -> bool:
    detail = (await broker.get("/healthz"))["checks"]["journal"]["detail"]
    return "1 responses not yet stored" in detail


async def test_a_log_out_forgets_no_newer_login(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """A login that completes while a log out revokes the grant before it stands, and the log out says so."""
    async with start_broker(refresh=QUICK) as broker:
        await log_in(broker, "g1", "acme")
        _, started, _ = await broker.ask("POST", "/v1/grants/g1/login", json={"provider": "acme"})
        redirected = await walk_to_redirect(started["authorization_url"], broker.settings.redirect_uri)
        sandbox.rotating.faults.order("hang", endpoint="revoke")
        log_out = asyncio.create_task(broker.ask("DELETE", "/v1/grants/g1"))
        await asyncio.sleep(0.2)
        body = {"redirected_to": redirected, "state": started["state"]}
        assert (await broker.ask("POST", "/v1/grants/g1/login/complete", json=body))[0] == 200
        sandbox.rotating.faults.release()
        status, answer, _ = await log_out
        assert (status, answer["error"]) == (409, "conflict")
        assert "that login stands" in answer["error_description"]
        await assert_sound(broker, sandbox, ("g1", "acme"))
        assert (await state_of(broker, "g1"))["state"] == "due"


async def test_a_retry_after_ends_with_the_providers_pause(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis
) -> None:
    """A wrong Retry-After of a day is undone for every grant by taking the provider up again."""
    async with start_broker(refresh=QUICK) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        token = await broker.token("g1")
        await assert_sound(broker, sandbox, ("g1", "acme"))
        sandbox.rotating.faults.order("status", status=429, headers={"Retry-After": "86400"})
        await make_due(redis, "acme", "g1")
        await until(lambda: broker.events("grant.postponed"))
        assert (await broker.ask("POST", "/v1/providers/acme/retry"))[0] == 202
        await next_generation(broker, "g1", token["generation"], 15)
        await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_an_older_token_is_not_imported_over_a_newer(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """A file in which an id comes twice may be sent again and again; alone, the older token is refused in words."""
    older, newer = (sandbox.rotating.issue().refresh_token or "" for _ in range(2))
    lines = [json.dumps({"grant_id": "g1", "provider": "acme", "refresh_token": token}) for token in (older, newer)]
    async with start_broker(refresh={**QUICK, "import_spread": "1s"}) as broker:
        for statuses in (["created", "replaced"], ["unchanged", "unchanged"], ["unchanged", "unchanged"]):
            outcomes = (await broker.ask("POST", "/v1/import", data="\n".join(lines)))[1]["text"]
            assert [json.loads(line)["status"] for line in outcomes.splitlines()] == statuses
            await broker.token("g1")
        status, body, _ = await broker.ask("PUT", "/v1/grants/g1", json={"provider": "acme", "refresh_token": older})
        assert (status, body["error"]) == (409, "conflict")
        assert "another one since" in body["error_description"]
        await assert_sound(broker, sandbox, ("g1", "acme"))
