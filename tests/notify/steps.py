"""Steps that several tests of notices take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis


async def check_now(redis: Redis, subject: str, channel: str = "webhook") -> None:
    """Move the data, not the clock: a subject that people were notified of is due at once."""

    async def rests() -> bool:
        record = await redis.hget(f"broker:{{0}}:told:{channel}", subject)
        return record is not None and "id" not in json.loads(record)

    await until(rests)
    await redis.zadd(f"broker:{{0}}:subjects:{channel}", {subject: 0}, xx=True)
