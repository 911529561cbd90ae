"""A caller's "this token got a 401", and what is answered at once instead of a wait that cannot help."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.proxy import RedisProxy
from tests.steps import assert_sound, make_due, next_generation, state_of
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker
    from tests.redis_server import RedisServer

SOON = 0.9
"""Seconds within which an answer comes that waits for nothing."""


async def report(broker: RunningBroker, generation: int) -> tuple[int, dict[str, Any], Any]:
    """Say that *generation* of g1 got a 401."""
    return await broker.ask("POST", "/v1/grants/g1/refresh", headers={"If-Match": f'"{generation}"'})


async def failed(broker: RunningBroker) -> bool:
    """Whether the last refresh of g1 brought nothing."""
    return bool((await state_of(broker, "g1"))["failures"])


async def test_reports_of_old_generations_need_no_redis(
    start_broker: StartBroker, sandbox: Sandbox, own_redis: RedisServer
) -> None:
    """What memory holds answers a report about an older token at once, whether Redis is there or not."""
    async with RedisProxy(own_redis.port) as proxy, start_broker(redis={"url": proxy.url}) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        first = await broker.token("g1")
        await broker.ask("POST", "/v1/grants/g1/retry")
        second = await next_generation(broker, "g1", first["generation"])
        await assert_sound(broker, sandbox, ("g1", "acme"))
        for up in (True, False):
            if not up:
                proxy.down()
            for old in (1, first["generation"]):
                asked = time.monotonic()
                status, body, _ = await report(broker, old)
                assert (status, body["generation"]) == (200, second["generation"])
                assert time.monotonic() - asked < SOON
        status, body, _ = await report(broker, second["generation"])
        assert (status, body["error"]) == (503, "store_unavailable"), "the current one cannot be replaced now"
        proxy.up = True


async def test_reports_while_backing_off(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """While the provider is not to be asked, a report is answered at once: why, and when the next try comes."""
    await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
    token = await broker.token("g1")
    sandbox.rotating.faults.order("status", status=429, headers={"Retry-After": "30"})
    await make_due(redis, "acme", "g1")
    await until(lambda: failed(broker))
    requests = len(sandbox.rotating.token_requests)
    for _ in range(3):
        asked = time.monotonic()
        status, body, headers = await report(broker, token["generation"])
        assert (status, body["error"]) == (503, "token_unavailable")
        assert "http_429" in body["error_description"]
        assert 1 <= int(headers["Retry-After"]) <= 2, "its own pause"
        assert time.monotonic() - asked < SOON
    assert (await broker.token("g1"))["generation"] == token["generation"], "whoever reads is served all the same"
    assert len(sandbox.rotating.token_requests) == requests


@pytest.mark.parametrize(
    ("answer", "refused"),
    [({"error": "invalid_grant"}, (409, "reauthorization_required")), ({"error": "odd"}, (503, "token_unavailable"))],
    ids=["dead", "rejected"],
)
async def test_a_reported_token_is_not_a_living_one(
    start_broker: StartBroker,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    answer: dict[str, str],
    refused: tuple[int, str],
) -> None:
    """A grant whose refresh is refused after a report: what got the 401 is no token, however long its clock runs."""
    monkeypatch.setattr("broker.refresh.policy.REFUSAL_FIRST", 60_000)  # it is not tried again within this test
    waits = 3 if answer["error"] == "invalid_grant" else 12  # as long as a caller waits
    async with start_broker(refresh={"min_interval": "1s"}) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        token = await broker.token("g1")
        await asyncio.sleep(1.1)
        sandbox.rotating.faults.order("status", status=400, body=answer)
        requests = len(sandbox.rotating.token_requests)
        for again in (False, True):
            asked = time.monotonic()
            status, body, _ = await report(broker, token["generation"])
            assert (status, body["error"]) == refused
            assert time.monotonic() - asked < (SOON if again else waits)
            assert "token-broker " in body["error_description"] or "odd: HTTP 400" in body["error_description"]
        assert len(sandbox.rotating.token_requests) == requests + 1
        assert (await broker.token("g1"))["generation"] == token["generation"], "who has not seen a 401 is served"


async def test_min_ttl_of_a_fresh_token(broker: RunningBroker, sandbox: Sandbox) -> None:
    """More life than a token has that was made a moment ago is refused at once, with when to ask again."""
    sandbox.rotating.options.access_lifetime = 40
    await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
    token = await broker.token("g1")
    requests = len(sandbox.rotating.token_requests)
    await asyncio.sleep(1.1)
    asked = time.monotonic()
    status, body, headers = await broker.ask("GET", "/v1/grants/g1/token?min_ttl=39")
    assert time.monotonic() - asked < SOON
    assert (status, body["error"]) == (503, "token_unavailable")
    assert "without min_ttl" in body["error_description"]
    assert 1 <= int(headers["Retry-After"]) <= 4, "a tenth of its life"
    assert len(sandbox.rotating.token_requests) == requests
    await asyncio.sleep(int(headers["Retry-After"]))
    longer = await broker.get("/v1/grants/g1/token?min_ttl=39")
    assert longer["generation"] > token["generation"]
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_reports_have_a_budget(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A hundred reports of one token count once; a spent budget asks the provider nothing, and says what may be."""
    hour = 3600
    async with start_broker(refresh={"min_interval": "0s", "report_budget": 2}) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        token = await broker.token("g1")
        for _ in range(2):
            answers = await asyncio.gather(*(report(broker, token["generation"]) for _ in range(100)))
            assert {status for status, _, _ in answers} == {200}
            token = await broker.token("g1")
            assert {body["generation"] for _, body, _ in answers} == {token["generation"]}
        requests = len(sandbox.rotating.token_requests)
        asked = time.monotonic()
        answers = await asyncio.gather(*(report(broker, token["generation"]) for _ in range(10)))
        assert time.monotonic() - asked < SOON
        for status, body, headers in answers:
            assert (status, body["error"]) == (429, "too_many_reports")
            assert "scope, account, permission" in body["error_description"]
            assert "refresh.report_budget" in body["error_description"]
            assert hour - 30 < int(headers["Retry-After"]) <= hour
        assert (await report(broker, 1))[0] == 200, "whoever has an older token gets the current one"
        assert len(sandbox.rotating.token_requests) == requests

        key = "broker:{0}:grant:g1"
        now = int(time.time() * 1000)
        await redis.hset(key, "reports_since", now + 1800 * 1000)  # the clock went back by half an hour
        _, _, headers = await report(broker, token["generation"])
        assert hour - 30 < int(headers["Retry-After"]) <= hour
        await redis.hset(key, "reports_since", now - hour * 1000)
        status, body, _ = await report(broker, token["generation"])
        assert status == 200, "the hour is over"
        assert body["generation"] > token["generation"]
        assert await redis.hget(key, "reports") == b"1"
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        token = await next_generation(broker, "g1", body["generation"])
        assert await redis.hget(key, "reports") is None, "what is taken in anew has a budget of its own"
        await assert_sound(broker, sandbox, ("g1", "acme"))
