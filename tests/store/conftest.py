"""A store of each test's own on the run's Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.secret import Sealer, new_sealing_key, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import Store, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from redis.asyncio import Redis

    from tests.redis_server import RedisServer


@pytest.fixture
def key() -> str:
    """One sealing key."""
    return new_sealing_key()


@pytest.fixture
async def store(shared_redis: RedisServer, redis: Redis, key: str, tmp_path: Path) -> AsyncIterator[Store]:
    """Yield an empty store that knows itself."""
    del redis
    async with open_store(
        RedisSettings(url=shared_redis.url), Sealer(parse_sealing_keys(key)), data_dir=tmp_path
    ) as opened:
        await opened.identify()
        yield opened
