"""Lanes of many providers rest until they may have something to claim, and miss nothing that polling would find."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from broker.refresh.idle import FEW
from broker.store import Schedule
from tests.conftest import StartBroker, provider_settings
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker

PAUSE = 0.05
MANY = 3 * FEW


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often each lane claims, each `PAUSE` seconds unless it rests."""
    counted: Counter[str] = Counter()
    claim = Schedule.claim

    async def counting(self: Schedule, provider: str, *args: Any, **options: Any) -> Any:
        counted[provider] += 1
        return await claim(self, provider, *args, **options)

    monkeypatch.setattr(Schedule, "claim", counting)
    monkeypatch.setattr("broker.refresh.scheduler.IDLE_PAUSE", PAUSE)
    return counted


def providers(sandbox: Sandbox, many: int) -> dict[str, dict[str, Any]]:
    """Return *many* providers with one registration."""
    return {f"p{number}": provider_settings(sandbox)["acme"] for number in range(many)}


async def rested(claims: Counter[str]) -> int:
    """Return how often any lane claimed within twenty pauses, once all are idle."""
    await asyncio.sleep(10 * PAUSE)
    claims.clear()
    await asyncio.sleep(20 * PAUSE)
    return claims.total()


async def refreshed(broker: RunningBroker, redis: Redis, grant: str, provider: str) -> float:
    """Make a grant due as another replica does; return the seconds until it is refreshed."""
    before, began = (await broker.token(grant))["generation"], time.monotonic()
    await redis.zadd(f"broker:{{0}}:due:{provider}", {grant: 0.0}, xx=True)

    await until(lambda: is_newer(redis, grant, before), 10, 0.01)
    return time.monotonic() - began


async def test_many_idle_lanes_do_not_poll(start_broker: StartBroker, sandbox: Sandbox, claims: Counter[str]) -> None:
    """Most of them rest; a few claim in turn, and so does each in the end. They all count as alive."""
    async with start_broker(providers=providers(sandbox, MANY)) as broker:
        assert await rested(claims) <= MANY * 20 / 4
        assert len(claims) >= 10, "another one's turn each time"
        health = await broker.get("/healthz")
        assert health["status"] == "ok"
        assert sum(name.startswith("lane ") for name in health["checks"]) == MANY


async def test_few_idle_lanes_poll(start_broker: StartBroker, sandbox: Sandbox, claims: Counter[str]) -> None:
    """Each claims for itself where one call for all would save nothing."""
    async with start_broker(providers=providers(sandbox, FEW)):
        assert await rested(claims) >= FEW * 20 / 4
        assert len(claims) == FEW


async def test_a_lane_that_rests_misses_nothing(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, claims: Counter[str]
) -> None:
    """What another replica makes due, or leaves leased, is claimed as soon as by a lane that polls."""
    async with start_broker(providers=providers(sandbox, MANY), refresh={"request_timeout": "1s"}) as broker:
        for number in (3, 17):
            await broker.import_(f"g{number}", f"p{number}", sandbox.rotating.issue().refresh_token or "")
        await rested(claims)
        for number in (3, 17, 3):
            assert await refreshed(broker, redis, f"g{number}", f"p{number}") < 2.0
        before = (await broker.token("g3"))["generation"]
        await redis.zrem("broker:{0}:due:p3", "g3")
        await redis.zadd("broker:{0}:leased:p3", {"g3": 1.5})  # the second term of a lease whose holder died
        await until(lambda: is_newer(redis, "g3", before), 10)
        assert sandbox.rotating.reuse == 0


async def is_newer(redis: Redis, grant: str, generation: int) -> bool:
    """Return whether the store has a later generation of a grant."""
    return bool(int(await redis.hget(f"broker:{{0}}:grant:{grant}", "generation") or 0) > generation)


async def test_lanes_that_rest_notice_a_fence(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, claims: Counter[str]
) -> None:
    """Another run of the server is noticed within the pauses of one lane, and the journal is replayed to it."""
    async with start_broker(providers=providers(sandbox, MANY), refresh={"request_timeout": "1s"}) as broker:
        await broker.import_("g1", "p1", sandbox.rotating.issue().refresh_token or "")
        await rested(claims)
        replays = len(broker.events("journal.replayed"))
        await redis.hset("broker:{0}:epoch", "run_id", "0000")
        await until(lambda: len(broker.events("journal.replayed")) > replays, 2)


async def test_lanes_poll_again_where_few_are_left(
    start_broker: StartBroker, sandbox: Sandbox, claims: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that rests when its neighbours go polls for itself from then on."""
    async with start_broker(providers=providers(sandbox, MANY)):
        await rested(claims)
        monkeypatch.setattr("broker.refresh.idle.FEW", MANY)
        assert await rested(claims) >= MANY * 20 / 4
