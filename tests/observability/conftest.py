"""A broker with everything to see in its metrics, and what the commands' and the notices' tests have."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.sandbox import Sandbox
from tests.cli import conftest as cli
from tests.conftest import RunningBroker, StartBroker
from tests.notify import conftest as notify
from tests.steps import log_in, make_due, state_of
from tests.waiting import until

DAY = 86_400_000
home = cli.home
receiver = notify.receiver


@pytest.fixture
async def busy_broker(
    start_broker: StartBroker,
    sandbox: Sandbox,
    redis: Redis,
    receiver: notify.Receiver,
) -> AsyncIterator[RunningBroker]:
    """Yield a broker with a living grant, a dead one, and one whose end is near."""
    async with start_broker(notify=receiver.settings) as broker:
        for name in ("well", "dead"):
            await broker.import_(name, "acme", sandbox.rotating.issue().refresh_token or "")
        sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant"})
        await make_due(redis, "acme", "dead")
        await until(lambda: _is_parked(broker, "dead"))
        await log_in(broker, "ending", "een")
        now = int(time.time() * 1000)
        ends = {"granted_at": now - 80 * DAY, "reauthorize_by": now + 10 * DAY}
        await redis.hset("broker:{0}:grant:ending", mapping=dict[Any, Any](ends))
        await broker.token("well")
        yield broker


async def _is_parked(broker: RunningBroker, grant: str) -> bool:
    return bool((await state_of(broker, grant))["state"] == "parked")
