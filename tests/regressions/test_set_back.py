"""Redis's clock is set back two hours while tokens live: none is served after its end, and none is refreshed late."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.regressions.clocks import WallClock, redis_at, take_in
from tests.regressions.conftest import provider_at
from tests.regressions.process import broker_process
from tests.scripted_server import authorization_server, success
from tests.waiting import until

BACK = 7_200
LIFE = 14


@pytest.mark.parametrize("clocks", ["redis", "both"])
@pytest.mark.parametrize("provider", ["up", "down"])
async def test_lives_move_with_the_clock(tmp_path: Path, clocks: str, provider: str) -> None:
    """Two brokers, one that has the token in memory and one that reads it later: both count down to its true end."""
    clock = WallClock(tmp_path / "clock")
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        server = stack.enter_context(redis_at(clock, tmp_path / "redis"))
        redis = await enter(Redis.from_url(server.url))
        auth_server = await enter(authorization_server(usual=success(expires_in=LIFE)))
        env = clock.env if clocks == "both" else {}
        providers = {"as": provider_at(auth_server)}
        holder = await enter(broker_process(tmp_path / "b1", server.url, providers, env=env))
        other = await enter(broker_process(tmp_path / "b2", server.url, providers, env=env))
        await take_in(holder, auth_server, "g1")
        first = (await holder.get("/v1/grants/g1/token"))["generation"]
        ends = auth_server.requests_of("g1")[0].at + LIFE
        if provider == "down":
            await auth_server.stop()
        await asyncio.sleep(2)
        clock.set(-BACK)
        await until(lambda: all(any(e["event"] == "clock.set_back" for e in b.log) for b in (holder, other)), 8)
        noted = [event["seconds"] for event in holder.log if event["event"] == "clock.set_back"]
        assert noted[0] == pytest.approx(BACK, abs=2)
        refreshed = False
        while time.monotonic() < ends + 1.5:
            for broker in (holder, other):
                status, body, _ = await broker.ask("GET", "/v1/grants/g1/token", headers={"Prefer": "wait=0"})
                left = ends - time.monotonic()
                if status == 200 and body["generation"] == first:
                    assert left > -1, "served after its end"
                    assert body["expires_in"] <= left + 1.5
                    assert body["expires_in"] >= left - 2.5
                    assert body["expires_at"] == pytest.approx(clock() + left, abs=3)
                elif provider == "up":
                    assert status == 200, body
                    refreshed = True
                else:
                    assert left < 1, body
            await asyncio.sleep(0.25)
        assert refreshed is (provider == "up")
        if provider == "up":
            asked = [request.at for request in auth_server.requests_of("g1")]
            assert 0.65 * LIFE <= asked[1] - asked[0] <= 0.95 * LIFE, "refreshed as planned"
            await holder.keeps(auth_server)
        else:
            assert await redis.hget("broker:{0}:epoch", "set_back_by") is not None
            await auth_server.start()
