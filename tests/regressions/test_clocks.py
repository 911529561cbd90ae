"""Wall clocks in the field: other zones, a day ahead, hours apart, a second back. Redis's clock is what counts."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.redis_server import RedisServer
from tests.regressions.clocks import WallClock, redis_at, take_in
from tests.regressions.conftest import provider_at
from tests.regressions.process import Process, broker_process
from tests.scripted_server import Exchange, authorization_server, success
from tests.steps import fall_due, make_due
from tests.waiting import until

DUE = "broker:{0}:due:as"
DAY = 86_400
LIFE = 12
"""Seconds that tokens live where a case watches one refresh after another."""
WATCHED = 4
"""Seconds after the shift that are looked at."""


SHIFTS = {
    "october": (dt.datetime(2026, 10, 25, 1, tzinfo=dt.UTC), ["Europe/Berlin", "Asia/Kathmandu", "Mars/Olympus"]),
    "march": (dt.datetime(2026, 3, 29, 1, tzinfo=dt.UTC), ["Europe/Berlin"]),
}


ZONES = {"Europe/Berlin": 90, "Asia/Kathmandu": 40, "Mars/Olympus": 40}
"""Zones, the last one invalid, and how many grants a broker in each of them holds."""


@pytest.mark.parametrize(("shift", "zones"), SHIFTS.values(), ids=SHIFTS)
async def test_daylight_saving(tmp_path: Path, shift: dt.datetime, zones: list[str]) -> None:
    """The hour that is skipped or comes twice makes no burst, in whatever zone the broker is, or says it is."""
    clock = WallClock(tmp_path / "clock", shift.timestamp() - time.time() - 3600)
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        server = stack.enter_context(redis_at(clock, tmp_path / "redis"))
        redis = await enter(Redis.from_url(server.url))
        servers = {zone: await enter(authorization_server(usual=success(expires_in=LIFE))) for zone in zones}
        brokers: dict[str, Process] = {}
        for number, (zone, auth_server) in enumerate(servers.items()):
            folder, env = tmp_path / f"b{number}", {**clock.env, "TZ": zone}
            broker = broker_process(
                folder, server.url, {"as": provider_at(auth_server)}, env=env, namespace=zone_key(zone)
            )
            brokers[zone] = await enter(broker)
            grants = [f"g{n}" for n in range(ZONES[zone])]
            for begin in range(0, len(grants), 10):  # a faked clock makes every look at it slow
                some = grants[begin : begin + 10]
                await asyncio.gather(*(brokers[zone].put(grant, auth_server.issue(grant)) for grant in some))
            await until(lambda: all(auth_server.redeemed[g] for g in grants), 20)
        start = shift.timestamp() - 1.5
        for zone, auth_server in servers.items():
            # As after a long run: each somewhere between two refreshes.
            dice = random.Random(zone)
            spread = {
                g: (start + dice.uniform(0.70, 0.85) * LIFE * n / len(auth_server.live)) * 1000
                for n, g in enumerate(auth_server.live)
            }
            await fall_due(redis, "as", spread, zone_key(zone))
        clock.set(start - time.time())
        await until(lambda: clock() > shift.timestamp() + WATCHED, 30, 0.1)
        at_shift = time.monotonic() + shift.timestamp() - clock()
        for zone, auth_server in servers.items():
            usual = ZONES[zone] / (0.775 * LIFE) * WATCHED
            asked = sum(0 <= request.at - at_shift < WATCHED for request in auth_server.requests)
            assert 0 < asked < usual * 2, zone
            seen = 0
            for grant in auth_server.live:
                times = await redis.hmget(
                    f"{zone_key(zone)}:{{0}}:grant:{grant}", "issued_at", "refresh_at", "expires_at"
                )
                issued_at, refresh_at, expires_at = (int(at or 0) / 1000 for at in times)
                if issued_at < start:
                    continue
                seen += 1
                assert issued_at <= clock()
                assert expires_at - issued_at == LIFE
                assert 0.7 * LIFE - 0.01 <= refresh_at - issued_at <= 0.85 * LIFE
            assert seen
            stamp = dt.datetime.fromisoformat(brokers[zone].log[-1]["timestamp"])
            assert stamp.utcoffset() == dt.timedelta(0)
            assert abs(stamp.timestamp() - clock()) < 5
            assert auth_server.reuse == 0


def zone_key(zone: str) -> str:
    """Return the namespace of the broker in *zone*."""
    return zone.replace("/", "-")


async def test_a_day_ahead_and_back(tmp_path: Path) -> None:
    """A clock a day ahead has each grant asked once and then rests; put back, no grant waits for the day to come."""
    clock = WallClock(tmp_path / "clock")
    grants = [f"g{number}" for number in range(50)]
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(redis_at(clock, tmp_path / "redis"))
        redis = await stack.enter_async_context(Redis.from_url(server.url))
        auth_server = await stack.enter_async_context(authorization_server())
        broker = await stack.enter_async_context(
            broker_process(tmp_path / "b", server.url, {"as": provider_at(auth_server)}, env=clock.env)
        )
        await take_in(broker, auth_server, *grants)
        stepped = asyncio.Event()

        async def slow(exchange: Exchange) -> bool | None:
            await stepped.wait()
            return await success()(exchange)

        auth_server.grant_steps["g0"].append(slow)
        await make_due(redis, "as", "g0")
        await until(lambda: len(auth_server.requests_of("g0")) == 2)
        clock.set(DAY)
        await until(lambda: all(auth_server.redeemed[grant] == 2 for grant in grants[1:]))
        stepped.set()  # what was under way at the step is answered only now
        await until(lambda: auth_server.redeemed["g0"] == 2)
        assert auth_server.most_in_flight <= 32

        async def rests() -> bool:
            used = broker.cpu_seconds()
            await asyncio.sleep(1)
            return broker.cpu_seconds() - used < 0.5

        await until(rests, 30)
        assert len(auth_server.requests) == 2 * len(grants)
        clock.set(0)

        async def none_waits() -> bool:
            late = await redis.zcount(DUE, (clock() + 3600) * 1000, "+inf")
            return bool(await redis.zcard(DUE) == len(grants) and late == 0)

        await until(none_waits)
        token = await broker.get("/v1/grants/g0/token")
        assert (token["access_token"], token["expires_in"] <= 3600) == (auth_server.access["g0"], True)
        await make_due(redis, "as", "g0")
        await until(lambda: auth_server.redeemed["g0"] == 3)
        await broker.keeps(auth_server)


async def test_a_lease_of_tomorrow(tmp_path: Path) -> None:
    """A lease that a killed broker took a day ahead ends in time, and its open attempt is not repeated."""
    clock = WallClock(tmp_path / "clock")
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(redis_at(clock, tmp_path / "redis"))
        redis = await stack.enter_async_context(Redis.from_url(server.url))
        auth_server = await stack.enter_async_context(authorization_server())

        async def hang(exchange: Exchange) -> None:
            exchange.rotate()
            exchange.lose_rotation()
            await asyncio.sleep(30)

        settings = (server.url, {"as": provider_at(auth_server)})
        refresh = {"request_timeout": "400ms", "lease": "5500ms"}
        with contextlib.suppress(AssertionError):  # it is dead when it is looked through
            async with broker_process(tmp_path / "b1", *settings, env=clock.env, refresh=refresh) as broker:
                await take_in(broker, auth_server, "g1")
                clock.set(DAY)
                auth_server.script.append(hang)
                await until(lambda: len(auth_server.requests_of("g1")) == 2)
                broker.popen.kill()
                broker.popen.wait()
        assert len(auth_server.requests_of("g1")) == 2
        # As a restart of the server on the wrong day leaves it.
        await redis.hset("broker:{0}:epoch", "open_at", int((clock() + 10) * 1000))
        clock.set(0)
        async with broker_process(tmp_path / "b2", *settings, env=clock.env, refresh=refresh) as broker:

            async def at_rest() -> float | None:
                score: float | None = await redis.zscore(DUE, "g1")
                return score if score and (await broker.get("/v1/grants/g1"))["last"]["outcome"] == "unknown" else None

            score = await until(at_rest, 15)
            assert score < (clock() + 3600) * 1000
            assert len(auth_server.requests_of("g1")) == 2
            assert (await broker.get("/v1/grants/g1/token"))["expires_in"] <= 3600
            await broker.keeps(auth_server)


async def test_one_replica_hours_ahead(shared_redis: RedisServer, redis: Redis, tmp_path: Path) -> None:
    """Of two replicas one is eight hours ahead: both refresh, none twice, and generations only grow."""
    clock = WallClock(tmp_path / "clock", 8 * 3600)
    grants = [f"g{number}" for number in range(100)]

    async def slow(exchange: Exchange) -> bool | None:
        await asyncio.sleep(0.05)
        return await success()(exchange)

    async with authorization_server(usual=slow) as auth_server, contextlib.AsyncExitStack() as stack:
        settings = (shared_redis.url, {"as": provider_at(auth_server)})
        right = await stack.enter_async_context(broker_process(tmp_path / "b1", *settings))
        wrong = await stack.enter_async_context(broker_process(tmp_path / "b2", *settings, env=clock.env))
        await take_in(right, auth_server, *grants)
        await fall_due(redis, "as", {g: (time.time() + n * 0.05) * 1000 for n, g in enumerate(grants)})
        seen: dict[str, list[tuple[int, int]]] = {"g10": [], "g50": [], "g90": []}

        async def done() -> bool:
            for broker in (right, wrong):
                for grant, generations in seen.items():
                    token = await broker.get(f"/v1/grants/{grant}/token")
                    assert 0 < token["expires_in"] <= 3600
                    generations.append((brokers[broker.url], token["generation"]))
            return all(auth_server.redeemed[grant] == 2 for grant in grants)

        brokers = {right.url: 0, wrong.url: 1}
        await until(done, 20)
        for number in (0, 1):
            for generations in seen.values():
                generations_served = [generation for which, generation in generations if which == number]
                assert generations_served == sorted(generations_served)
        await right.keeps(auth_server)
        metrics = [await broker.metrics() for broker in (right, wrong)]
        shares = [m.get(("token_broker_refreshes_total", "refreshed as"), 0) for m in metrics]
        assert min(shares) > 0, shares
        offsets = [m["token_broker_clock_offset_seconds", ""] for m in metrics]
        assert offsets == pytest.approx([0, 8 * 3600], abs=1)
        await wrong.keeps(auth_server)


async def test_a_second_back_again_and_again(tmp_path: Path) -> None:
    """Small steps back make nothing negative, nothing raise, no forced refresh early, and nothing redeemed twice."""
    clock = WallClock(tmp_path / "clock")
    grants = [f"g{number}" for number in range(20)]

    async def lose(exchange: Exchange) -> None:
        exchange.rotate()
        exchange.lose_rotation()
        exchange.reset()

    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(redis_at(clock, tmp_path / "redis"))
        redis = await stack.enter_async_context(Redis.from_url(server.url))
        auth_server = await stack.enter_async_context(authorization_server())
        refresh = {"min_interval": "4s"}
        broker = await stack.enter_async_context(
            broker_process(tmp_path / "b", server.url, {"as": provider_at(auth_server)}, env=clock.env, refresh=refresh)
        )
        await take_in(broker, auth_server, *grants, "forced", "lost")
        auth_server.grant_steps["lost"].append(lose)
        waits: list[int] = []
        for step in range(1, 11):
            clock.set(-step)
            await make_due(redis, "as", *grants, "lost")
            await broker.ask("POST", "/v1/providers/as/retry")  # it makes the lane look at once
            await until(lambda: all(auth_server.redeemed[grant] == step + 1 for grant in grants))
            ends = time.monotonic() + 0.8
            while time.monotonic() < ends:
                generation = (await broker.get("/v1/grants/forced/token"))["generation"]
                forced = {"If-Match": f'"{generation}"', "Prefer": "wait=1"}
                status, body, headers = await broker.ask("POST", "/v1/grants/forced/refresh", headers=forced)
                assert status in {200, 429}, body
                waits += [int(headers["Retry-After"])] if status == 429 else []
                await asyncio.sleep(0.1)
        assert waits
        assert all(1 <= wait <= 4 for wait in waits)
        asked = [request.at for request in auth_server.requests_of("forced")]
        assert all(later - earlier >= 4 for earlier, later in pairwise(asked)), asked
        assert len(auth_server.requests_of("lost")) == 2, "what may have been redeemed was presented again"
        negative = {name: value for name, value in (await broker.metrics()).items() if value < 0}
        assert {name for name, _ in negative} <= {"token_broker_clock_offset_seconds"}
        assert all(line.get("next_in", 0) >= 0 for line in broker.log)
        assert not [line for line in broker.log if "exception" in line]
        await broker.keeps(auth_server)


async def test_holder_ten_minutes_ahead(shared_redis: RedisServer, redis: Redis, tmp_path: Path) -> None:
    """A broker ten minutes ahead, with tokens that live far less, refreshes as planned and serves what lives."""
    clock, life, watched = WallClock(tmp_path / "clock", 600), 4, 6.0
    served: list[dict[str, Any]] = []
    async with authorization_server(usual=success(expires_in=life)) as auth_server:
        providers = {"as": provider_at(auth_server)}
        async with broker_process(tmp_path / "b", shared_redis.url, providers, env=clock.env) as broker:
            await take_in(broker, auth_server, "g1")
            began = time.monotonic()
            while time.monotonic() < began + watched:
                token = await broker.get("/v1/grants/g1/token")
                assert 0 <= token["expires_in"] <= life
                assert 0 <= token["expires_at"] - time.time() + 1 <= life + 1, (
                    "counted from receipt, by the right clock"
                )
                served.append(token)
                await asyncio.sleep(0.1)
            asked = [request.at for request in auth_server.requests_of("g1")]
            assert len({token["generation"] for token in served}) in {len(asked), len(asked) - 1}, "one a request"
            assert all(later - earlier >= 0.7 * life for earlier, later in pairwise(asked)), asked
            offset = (await broker.metrics())["token_broker_clock_offset_seconds", ""]
            assert offset == pytest.approx(600, abs=1)
            await broker.keeps(auth_server)
