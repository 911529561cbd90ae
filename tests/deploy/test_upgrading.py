"""What CHANGELOG.md says of upgrading."""

from __future__ import annotations

import re
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.errors import InvalidSettings
from broker.sandbox import Sandbox
from broker.store.opening import SCHEMA
from tests.conftest import StartBroker
from tests.deploy.deployment import ROOT, USERS

UPGRADING = (ROOT / "CHANGELOG.md").read_text().split("### Upgrading")[1].split("###")[0]


async def everything(redis: Redis) -> dict[bytes, Any]:
    """All that Redis holds, as it would dump it."""
    keys = await redis.execute_command("KEYS", "*")  # type: ignore[no-untyped-call]
    return {key: await redis.dump(key) for key in keys}


async def test_another_schema_is_left_alone(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A broker that finds another schema says so, does not start, and changes nothing: going back is possible."""
    async with start_broker() as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
    await redis.hset("broker:{0}:meta", "schema", str(SCHEMA + 1))
    before = await everything(redis)
    with pytest.raises((InvalidSettings, BaseExceptionGroup)):
        async with start_broker(wait=False) as broker:
            await broker.task
    assert await everything(redis) == before
    error = broker.task.exception()
    assert isinstance(error, InvalidSettings)
    assert f"has schema {SCHEMA + 1}, this version reads {SCHEMA}: run the version that wrote it" in str(error)
    await redis.hset("broker:{0}:meta", "schema", str(SCHEMA))
    async with start_broker() as broker:
        assert (await broker.token("g1"))["grant_id"] == "g1"


def test_changelog_says_what_holds() -> None:
    """The schema and the rights that it names are those of this version."""
    assert f"Redis holds schema {SCHEMA}." in UPGRADING
    line = next(line for line in USERS.read_text().replace("\\\n", " ").splitlines() if line.startswith("user broker "))
    add, take_away = (set(re.findall(r"`(\+\w+)`", part)) for part in re.split("take\\s+away", UPGRADING))
    assert add <= set(line.split())
    assert take_away
    assert not take_away & set(line.split())
