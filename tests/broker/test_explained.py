"""What a running broker tells of grants that wait for something, as `explain` reads it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import aiohttp

from broker.cli.explain import fetch_facts
from broker.cli.http import Broker
from broker.report.explanation import Explanation, explain
from broker.report.grant_facts import FAILED, FINE, LOG_IN, TRY_AGAIN
from tests.broker.steps import imported
from tests.redis_server import start_redis
from tests.steps import make_due
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker
    from tests.redis_server import RedisServer


async def explained(broker: RunningBroker, grant: str) -> Explanation:
    """Return what `explain` says of a grant right now."""
    async with aiohttp.ClientSession(headers={"X-Broker-Key": broker.admin_key}) as session:
        described, past, provider = await fetch_facts(Broker(session, broker.url, broker.url, "admin.key"), grant)
    return explain(grant, described, past, provider, past["now"])


async def said(
    broker: RunningBroker, grant: str, true: Callable[[Explanation], bool], timeout: float = 10
) -> Explanation:
    """Return the first explanation that is as wanted."""

    async def look() -> Explanation | None:
        explanation = await explained(broker, grant)
        return explanation if true(explanation) else None

    found: Explanation = await until(look, timeout, every=0.1)
    return found


async def test_a_fence(start_broker: StartBroker, sandbox: Sandbox, own_redis: RedisServer) -> None:
    """After a restart of Redis every grant waits for the fence: that is the reason, and when it opens is named."""
    async with start_broker(redis={"url": own_redis.url}, refresh={"request_timeout": "1s"}) as broker:
        await imported(broker, sandbox, "g")
        own_redis.kill()
        again = start_redis(own_redis.directory, own_redis.port)
        try:
            await until(lambda: _answers(broker))
            explanation = await said(broker, "g", lambda e: "Redis was restarted" in e.why)
            assert explanation.exit_code == FINE
            assert explanation.next_at is not None
            assert 0 < explanation.next_at - time.time() <= 7
        finally:
            await broker.stop()
            again.kill()


async def _answers(broker: RunningBroker) -> bool:
    return (await broker.ask("GET", "/v1/providers"))[0] == 200


async def test_a_half_closed_lane_and_a_pause(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Three failures across grants close the lane for all, one that did not fail included; a Retry-After is a pause."""
    names = ["g1", "g2", "g3", "quiet"]
    await imported(broker, sandbox, *names)
    sandbox.rotating.faults.order("status", status=429, headers={"Retry-After": "3600"})
    await make_due(redis, "acme", "g1")
    explanation = await said(broker, "g1", lambda e: "Retry-After" in e.why)
    assert explanation.next_at is not None
    assert 3500 < explanation.next_at - time.time() < 3700
    await broker.ask("POST", "/v1/providers/acme/retry")
    sandbox.rotating.faults.order("status", None, status=503)
    for name in names[:3]:
        await make_due(redis, "acme", name)
    explanation = await said(broker, "quiet", lambda e: "is failing" in e.why)
    assert "token requests in a row brought nothing" in explanation.why
    assert explanation.exit_code == FINE
    sandbox.rotating.faults.clear()
    await said(broker, "quiet", lambda e: e.why.startswith("Grant quiet is alive."), timeout=20)


async def test_a_breaker(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Three dead grants are each a matter of their own, the fourth is the provider's, and is not given up."""
    names = ["g1", "g2", "g3", "g4"]
    await imported(broker, sandbox, *names)
    refusal = {"error": "invalid_grant", "error_description": "not this one"}
    sandbox.rotating.faults.order("status", 4, status=400, body=refusal)
    for name in names[:3]:
        await make_due(redis, "acme", name)
    for name in names[:3]:
        explanation = await said(broker, name, lambda e: "no longer accepts the refresh token" in e.why)
        assert "invalid_grant: not this one" in explanation.why
        assert explanation.exit_code == LOG_IN
    await make_due(redis, "acme", "g4")
    explanation = await said(broker, "g4", lambda e: "is suspended" in e.why)
    assert "grant after grant" in explanation.why
    assert "invalid_grant" in explanation.why
    assert explanation.command == "token-broker retry --provider acme"
    history = (await broker.get("/v1/grants/g4/attempts"))["attempts"]
    assert history[-1]["decided"] == "suspended"


async def test_a_missing_key(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A grant that no sealing key opens is said to be that, before and after a broker has parked it for it."""
    await imported(broker, sandbox, "g")
    await redis.hset("broker:{0}:grant:g", "access_token", "sealed with a key of another store")
    assert "sealing.keys_file" in (await explained(broker, "g")).why
    await make_due(redis, "acme", "g")
    await until(lambda: bool(broker.events("grant.parked")))
    explanation = await explained(broker, "g")
    assert (explanation.exit_code, explanation.command) == (FAILED, "token-broker retry g")
    assert (await broker.get("/v1/grants/g/attempts"))["attempts"][-1]["outcome"] == "unreadable"


async def test_nothing_valid_yet(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """A grant that was imported and whose provider cannot be reached: try again, and why."""
    dead = {"kind": "oauth2", "client_id": "c", "client_secret": "s" * 20, "token_endpoint": "http://127.0.0.1:1/token"}
    async with start_broker(providers={"gone": dead}) as broker:
        body = {"provider": "gone", "refresh_token": "a-refresh-token"}
        assert (await broker.ask("PUT", "/v1/grants/g", json=body))[0] == 201
        explanation = await said(broker, "g", lambda e: "nothing was sent" in e.why or "is failing" in e.why)
        assert explanation.exit_code == TRY_AGAIN
        assert "no access token yet" in explanation.next
