"""Redis's clock is stepped while tokens live: lives follow it back, and what it never lengthened is not shortened."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.regressions.clocks import WallClock, redis_at, take_in
from tests.regressions.conftest import provider_at
from tests.regressions.process import Process, broker_process
from tests.scripted_server import AuthorizationServer, authorization_server, success
from tests.waiting import until

HOUR = 3_600
LIFE = 8 * HOUR
EPOCH = "broker:{0}:epoch"
DUE = "broker:{0}:due:as"
WITHIN = 20.0
"""Seconds within which a step is known, on a busy machine."""
EXACT = 3.0
"""Seconds by which lives may differ: `expires_in` counts whole seconds, and a busy machine is late."""


async def agreed(redis: Redis, offset: float, within: float = EXACT) -> bool:
    """Whether the brokers agree on the sum of all steps (seconds), and have rewound every token."""
    stored, rewound = await redis.hmget(EPOCH, "offset", "rewound")
    return abs(int(stored or 0) / 1000 - offset) < within and int(rewound or 0) <= int(stored or 0)


async def lives(broker: Process, auth_server: AuthorizationServer, grant: str, lost: float) -> bool:
    """Whether a broker serves a token for what is left of its life, less *lost* seconds."""
    served = (await broker.get(f"/v1/grants/{grant}/token"))["expires_in"]
    age = time.monotonic() - auth_server.requests_of(grant)[0].at
    print(f"{grant} at {broker.folder.name}: {served}, not {LIFE - age - lost:.0f}")  # the last line is what differs
    return bool(abs(served - (LIFE - age - lost)) < EXACT)


def shortened(shown: list[int]) -> int:
    """Return how much too early a token ends, by what the clock showed from its issue on: a step ahead is believed."""
    return shown[-1] - min(shown)


@pytest.mark.parametrize(
    ("clocks", "provider", "steps"),
    [
        # Two hours back, and a minute more; then an hour ahead, which may be time that did pass, and back again.
        ("redis", "up", [-2 * HOUR, -2 * HOUR - 60, -HOUR - 60, -2 * HOUR - 60]),
        # An hour ahead, then back by more than that, and right again: only the last one cannot be believed to be wrong.
        ("both", "down", [HOUR, -2 * HOUR, 0]),
    ],
)
async def test_lives_follow_the_clock(tmp_path: Path, clocks: str, provider: str, steps: list[int]) -> None:
    """Of two brokers each serves every token to its true end, from memory and from the store, and refreshes in time."""
    clock = WallClock(tmp_path / "clock")
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        server = stack.enter_context(redis_at(clock, tmp_path / "redis"))
        redis = await enter(Redis.from_url(server.url))
        auth_server = await enter(authorization_server(usual=success(expires_in=LIFE)))
        settings = (server.url, {"as": provider_at(auth_server)})
        env = clock.env if clocks == "both" else {}
        holder = await enter(broker_process(tmp_path / "b1", *settings, env=env))
        other = await enter(broker_process(tmp_path / "b2", *settings, env=env))
        issued: dict[str, int] = {}  # a token, and how many steps came before it
        for number, ahead in enumerate([0, *steps]):
            clock.set(ahead)
            await until(partial(agreed, redis, ahead), WITHIN)
            if number == 0 or provider == "up":
                names = [f"g{number}", f"late{number}"]
                await take_in(holder, auth_server, *names)
                issued |= dict.fromkeys(names, number)
            elif number == 1:
                await auth_server.stop()
            for grant, since in issued.items():
                lost = shortened([0, *steps][since : number + 1])
                for broker in [holder] if grant.startswith("late") and number < len(steps) else [holder, other]:
                    await until(partial(lives, broker, auth_server, grant, lost), WITHIN)
                planned = (await redis.zscore(DUE, grant) or 0) / 1000 - clock()
                age = time.monotonic() - auth_server.requests_of(grant)[0].at
                assert 0.69 * LIFE < planned + age + lost < 0.86 * LIFE, (number, grant)
        for broker in (holder, other):
            await until(lambda: any("seconds" in line for line in broker.lines("clock.set_back")))
            assert not [line for line in broker.log if "exception" in line]
        assert all(len(auth_server.requests_of(grant)) == 1 for grant in issued)
        if provider == "down":
            await auth_server.start()
        await holder.keeps(auth_server)


@pytest.mark.parametrize("anchored", [True, False])
async def test_a_clock_that_was_set_back_while_no_broker_ran(tmp_path: Path, anchored: bool) -> None:
    """A broker that starts on the same machine knows by how much; another one by how much at least."""
    clock = WallClock(tmp_path / "clock")
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(redis_at(clock, tmp_path / "redis"))
        redis = await stack.enter_async_context(Redis.from_url(server.url))
        auth_server = await stack.enter_async_context(authorization_server(usual=success(expires_in=LIFE)))
        settings = (server.url, {"as": provider_at(auth_server)})
        async with broker_process(tmp_path / "b", *settings) as broker:
            await take_in(broker, auth_server, "g1")
            await until(lambda: redis.keys("broker:{0}:clock:*"))
        if not anchored:
            await redis.delete(*await redis.keys("broker:{0}:clock:*"))
        stopped = time.monotonic()
        clock.set(-2 * HOUR)
        async with broker_process(tmp_path / "b2", *settings) as broker:
            served = (await broker.get("/v1/grants/g1/token"))["expires_in"]
            true = LIFE - (time.monotonic() - auth_server.requests_of("g1")[0].at)
            unknown = 0 if anchored else time.monotonic() - stopped + 10
            assert -EXACT <= served - true <= unknown + EXACT
            await until(partial(agreed, redis, -2 * HOUR, unknown + EXACT), WITHIN)
            await broker.keeps(auth_server)
