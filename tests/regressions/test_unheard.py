"""A Redis user that may hear no channel, from the start or later: the broker says so, and soon serves what is new."""

from __future__ import annotations

from typing import Any

import pytest

from broker.sandbox import Sandbox
from tests.conftest import StartBroker
from tests.redis_server import RedisServer, client
from tests.waiting import until

EVERYTHING = "broker on >pw ~* +@all"


async def allow(redis: RedisServer, rules: str) -> str:
    """Set the rules of the user `broker`; return the URL with it."""
    async with client(redis.port) as asked:
        await asked.execute_command("ACL", "SETUSER", *rules.split())  # type: ignore[no-untyped-call]
    return redis.url.replace("redis://", "redis://broker:pw@")


@pytest.mark.parametrize(
    ("before", "after"),
    [(EVERYTHING, ""), (f"{EVERYTHING} &*", "broker resetchannels"), (f"{EVERYTHING} &*", "broker -psubscribe")],
    ids=["no channels", "channels taken away", "command taken away"],
)
async def test_a_broker_that_hears_nothing(
    start_broker: StartBroker, sandbox: Sandbox, own_redis: RedisServer, before: str, after: str
) -> None:
    """It reads again what it serves: another broker's logout is seen within seconds, and it is degraded."""
    deaf_url = await allow(own_redis, before)
    async with (
        start_broker(redis={"url": own_redis.url}) as other,
        start_broker(redis={"url": deaf_url}) as deaf,
    ):
        for name in ("g1", "g2"):
            await other.import_(name, "acme", sandbox.rotating.issue().refresh_token or "")
            await deaf.token(name)
        if after:
            await allow(own_redis, after)
            async with client(own_redis.port) as redis:  # a right is looked at when a connection subscribes
                await redis.client_kill_filter(_type="pubsub")

        async def degraded() -> Any:
            check = (await deaf.get("/healthz"))["checks"]["follower"]
            return check["status"] != "ok" and check

        check = await until(degraded, 15)
        assert "no subscription" in check["detail"]
        assert "denied access" in check["detail"]
        assert (await other.ask("DELETE", "/v1/grants/g1"))[0] in {200, 204}

        async def gone() -> bool:
            return (await deaf.ask("GET", "/v1/grants/g1/token"))[0] == 404

        await until(gone, 5)
        said = [event["error"] for event in deaf.events("subscription.lost") if "denied" in event["error"]]
        assert len(said) == 1
        assert said[0] in check["detail"]
        await allow(own_redis, f"{EVERYTHING} &*")

        async def well() -> bool:
            return bool((await deaf.get("/healthz"))["checks"]["follower"]["status"] == "ok")

        await until(well, 10)
        assert said == [event["error"] for event in deaf.events("subscription.lost") if "denied" in event["error"]]
