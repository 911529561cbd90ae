"""Steps of the status page's tests."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from broker.sandbox import Sandbox
from tests.conftest import RunningBroker
from tests.steps import make_due
from tests.waiting import until


async def kill(broker: RunningBroker, sandbox: Sandbox, redis: Redis, *grants: str) -> None:
    """Have the provider refuse grants of acme for good, one by one: the breaker sees other grants succeed between."""
    for grant in grants:
        sandbox.rotating.faults.order("status", 1, status=400, body={"error": "invalid_grant"})
        await make_due(redis, "acme", grant)
        await until(lambda: parked(broker, grant))


async def parked(broker: RunningBroker, grant: str) -> bool:
    """Whether a grant is parked."""
    return bool((await broker.get(f"/v1/grants/{grant}"))["state"] == "parked")


async def changed(locator: Any, before: str) -> bool:
    """Whether an element says another thing than before."""
    return bool(await locator.inner_text() != before)


async def newer(broker: RunningBroker, grant: str, generation: int) -> bool:
    """Whether a grant has a newer token."""
    return bool((await broker.token(grant))["generation"] > generation)


async def gone(screen: Any, grant: str) -> bool:
    """Whether a grant is no longer listed."""
    return bool(await screen.line(grant).count() == 0)


async def counts(page: Any, number: int) -> bool:
    """Whether so many grants are shown."""
    return bool(await page.locator("li.grant").count() == number)
