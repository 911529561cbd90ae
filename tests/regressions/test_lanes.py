"""How many requests a provider gets at a time, and how a lane finds out what it can take."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from broker.model import Grant
from broker.read import Reader
from tests.regressions.conftest import Ground, MakeGround
from tests.scripted_server import Exchange, Step, success
from tests.waiting import until

LIMIT = 5
GRANTS = [f"g{number}" for number in range(200)]


def fragile(dice: random.Random) -> tuple[list[str], Step]:
    """Whom it reset, and a step that resets what comes while five are being answered, redeemed or not by coin."""
    resets: list[str] = []

    async def step(exchange: Exchange) -> bool | None:
        if exchange.auth_server.in_flight > LIMIT:
            resets.append(exchange.request.grant)
            if dice.random() < 0.5:
                exchange.rotate()
                exchange.lose_rotation()
            exchange.reset()
            return None
        await asyncio.sleep(0.02)
        return await success()(exchange)

    return resets, step


async def all_asked(ground: Ground) -> bool:
    """Whether nothing is due or under way any more."""
    return (
        all(len(ground.auth_server.requests_of(grant)) > 1 for grant in GRANTS)
        and not (await ground.provider())["grants"]["leased"]
    )


async def test_endpoint_that_fails_above_a_handful(make_ground: MakeGround) -> None:
    """A lane wider than its server can bear narrows down: few are hit, none is dead, nothing is redeemed twice."""
    async with make_ground(*GRANTS) as ground:
        resets, step = fragile(random.Random(47))
        ground.auth_server.usual = step
        await ground.due(*GRANTS)
        await until(lambda: all_asked(ground), 30, 0.1)
        # The first burst of 32 is what it is; of the other 168 hardly any goes the same way.
        assert len(resets) <= 32 - LIMIT + 25
        assert (await ground.provider())["grants"]["parked"] == 0


async def test_concurrency_of_a_handful(make_ground: MakeGround) -> None:
    """With `concurrency` below what the server bears all go through."""
    async with make_ground(*GRANTS, refresh={"concurrency": 4}) as ground:
        resets, step = fragile(random.Random(47))
        ground.auth_server.usual = step
        await ground.due(*GRANTS)
        await until(lambda: all_asked(ground), 30, 0.1)
        assert resets == []
        assert ground.auth_server.most_in_flight <= 4


async def test_read_that_meets_a_commit(make_ground: MakeGround, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that finds no token, while the first one is being written down, does not cause a second refresh."""
    load = Reader._load

    async with make_ground() as ground:

        async def slow_load(reader: Reader, grant_id: str) -> Grant:
            grant = await load(reader, grant_id)
            if grant.token is None:
                await until(lambda: ground.has_token(grant_id))
            return grant

        monkeypatch.setattr(Reader, "_load", slow_load)
        ground.auth_server.script.append(after(0.2))
        body = {"provider": "as", "refresh_token": ground.auth_server.issue("g1")}
        await ground.ask("PUT", "/v1/grants/g1", json=body)
        assert (await ground.broker.token("g1"))["access_token"] == ground.auth_server.access["g1"]
        again = await ground.redis.zcount("broker:{0}:due:as", "-inf", time.time() * 1000 + 60_000)
        assert (again, len(ground.auth_server.requests_of("g1"))) == (0, 1)


def after(seconds: float) -> Step:
    """Return a success that takes its time."""

    async def step(exchange: Exchange) -> bool | None:
        await asyncio.sleep(seconds)
        return await success()(exchange)

    return step
