"""The common ground on a server of a case's own, and what such a server is told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from redis.asyncio import Connection, Redis

from tests.conftest import RunningBroker
from tests.redis_server import RedisServer, client
from tests.regressions.conftest import Ground, MakeGround
from tests.scripted_server import Exchange, Step, http
from tests.waiting import until


@contextlib.asynccontextmanager
async def ground_on(
    make_ground: MakeGround, server: RedisServer, *grants: str, redis: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Ground]:
    """Yield the common ground with *server* as its Redis."""
    table = {"url": server.url, **(redis or {})}
    async with client(server.port) as own, make_ground(*grants, redis=table, **options) as ground:
        ground.redis = own
        yield ground


def held_back(until_set: asyncio.Event) -> Step:
    """Return a step that redeems at once and answers when the event is set."""

    async def step(exchange: Exchange) -> bool:
        tokens = exchange.rotate()
        await until_set.wait()
        await exchange.send(http({**tokens, "token_type": "Bearer", "expires_in": 3600}))
        return True

    return step


async def in_flight(ground: Ground, grant: str = "g1") -> asyncio.Event:
    """Have *grant* fall due and be redeemed; the answer comes when the event that this gives is set."""
    answer = asyncio.Event()
    ground.auth_server.grant_steps[grant].append(held_back(answer))
    before = len(ground.auth_server.requests_of(grant))
    await ground.due(grant)
    await until(lambda: len(ground.auth_server.requests_of(grant)) > before)
    return answer


async def soon(ground: Ground, *grants: str, seconds: float = 3.0) -> None:
    """Have grants fall due in a moment: while writes are refused their scores cannot be moved."""
    at = (time.time() + seconds) * 1000
    await ground.redis.zadd("broker:{0}:due:as", dict.fromkeys(grants, at), xx=True)


async def refused_import(ground: Ground) -> dict[str, Any]:
    """Try an import that the store does not take: 503, with `error`, and `Retry-After` or not; return its body."""
    body = {"provider": "as", "refresh_token": "rt-that-is-never-stored-0123"}
    status, answer, _ = await ground.ask("PUT", "/v1/grants/refused", json=body)
    assert (status, answer["error"]) == (503, "store_unavailable"), answer
    return answer


async def check(broker: RunningBroker, name: str) -> str:
    """Return what /healthz says of one check."""
    return str((await broker.get("/healthz"))["checks"][name]["detail"])


async def says(broker: RunningBroker, name: str, word: str, timeout: float = 15) -> None:
    """Wait until /healthz says *word* in the detail of a check; it is 200 all the while."""

    async def said() -> bool:
        return word in await check(broker, name)

    await until(said, timeout, 0.05)


async def healthy(broker: RunningBroker, timeout: float = 20) -> None:
    """Wait until nothing is wrong any more."""

    async def ok() -> bool:
        return bool((await broker.get("/healthz"))["status"] == "ok")

    await until(ok, timeout, 0.05)


async def not_ready_because(broker: RunningBroker, word: str, timeout: float = 15) -> None:
    """Wait until /readyz is 503 and says *word*; /healthz is 200 all the while."""
    await until(lambda: broker.events("broker.listening"))

    async def said() -> bool:
        assert (await broker.ask("GET", "/healthz"))[0] == 200
        status, body, _ = await broker.ask("GET", "/readyz")
        return status == 503 and word in body["checks"]["redis"]["detail"]

    await until(said, timeout, 0.05)


async def ready(broker: RunningBroker, timeout: float = 20) -> None:
    """Wait until it is ready, and learn the admin's key, which it has made by then."""
    await until(lambda: broker.events("broker.listening"))

    async def is_ready() -> bool:
        return (await broker.ask("GET", "/readyz"))[0] == 200

    await until(is_ready, timeout, 0.05)
    broker.admin_key = (broker.settings.data_dir / "admin.key").read_text().strip()


async def stat(redis: Redis, name: str, section: str = "stats") -> int:
    """Return a number of INFO."""
    return int((await redis.info(section))[name])


async def own_attempts(seconds: float) -> int:
    """How often the brokers of this process try to connect to Redis in the next *seconds*."""
    made = 0
    connect = Connection._connect

    async def counted(self: Connection) -> None:
        nonlocal made
        made += self.client_name == "token-broker"
        await connect(self)  # type: ignore[no-untyped-call]

    Connection._connect = counted  # type: ignore[method-assign]
    try:
        await asyncio.sleep(seconds)
    finally:
        Connection._connect = connect  # type: ignore[method-assign]
    return made
