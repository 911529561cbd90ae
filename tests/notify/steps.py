"""Steps that tests of notices take: end a grant, and have a subject checked now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.steps import make_due, state_of
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker


async def kill(broker: RunningBroker, sandbox: Sandbox, redis: Redis, grant: str) -> None:
    """Let the provider end a grant, and wait until the broker knows."""
    await broker.import_(grant, "acme", sandbox.rotating.issue().refresh_token or "")
    sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant", "error_description": "gone\n"})
    await make_due(redis, "acme", grant)
    await until(lambda: is_in(broker, grant, "parked"))


async def is_in(broker: RunningBroker, grant: str, state: str) -> bool:
    """Return whether a grant is in a state."""
    return bool((await state_of(broker, grant))["state"] == state)


async def check_now(redis: Redis, subject: str, channel: str = "webhook") -> None:
    """Move the data, not the clock: a subject that people were notified of is due at once."""

    async def rests() -> bool:
        record = await redis.hget(f"broker:{{0}}:told:{channel}", subject)
        return record is not None and "id" not in json.loads(record)

    await until(rests)
    await redis.zadd(f"broker:{{0}}:subjects:{channel}", {subject: 0}, xx=True)
