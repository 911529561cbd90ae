"""Another store answers, with grants of the same names: nothing there is read or written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.errors import StoreUnavailable, WrongStore
from broker.secret import Sealer, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import Store, open_store, scripts
from tests.store.steps import LEASE, imported

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

    from tests.redis_server import RedisServer


ALL = [script for script in vars(scripts).values() if isinstance(script, scripts.Script)]


@pytest.mark.parametrize("script", ALL, ids=lambda script: script.verb)
async def test_no_verb_touches_another_store(store: Store, redis: Redis, script: scripts.Script) -> None:
    """No script reads or writes a store with another id, even if its grants have the same names."""
    await imported(store, "g1", "g2")
    await redis.hset(store.keys.meta, "store", "another")
    before = {key: await redis.dump(key) for key in await redis.keys("*")}
    keys = ["broker:{0}:grant:g1", "broker:{0}:due:p", "broker:{0}:grant:g2", "broker:{0}:held"] * 3
    with pytest.raises(WrongStore, match=r"holds another store \(another\)"):
        await store.primary.run(script, keys, ["g1"] * 12)
    with pytest.raises(WrongStore, match=r"holds another store \(another\)"):
        await store.primary.run_durably(script, [(keys, ["g1"] * 12)] * 2, replicas=0)
    assert {key: await redis.dump(key) for key in await redis.keys("*")} == before


async def test_nothing_is_read_of_another_store(store: Store, redis: Redis) -> None:
    """A grant of the same name in another store is not returned, and a grant missing there does not count as gone."""
    await imported(store, "g1")
    await redis.hset(store.keys.meta, "store", "another")
    for asked in (store.grants.get("g1"), store.grants.get("none"), store.grants.providers(["p"])):
        with pytest.raises(WrongStore):
            await asked


async def test_nothing_is_done_before_the_store_is_known(
    store: Store, shared_redis: RedisServer, key: str, tmp_path: Path
) -> None:
    """Until it was identified no verb runs."""
    del store
    settings = RedisSettings(url=shared_redis.url)
    async with open_store(settings, Sealer(parse_sealing_keys(key)), data_dir=tmp_path) as other:
        with pytest.raises(StoreUnavailable, match="not known yet"):
            await other.schedule.claim("p", 1, LEASE)
        with pytest.raises(StoreUnavailable, match="not known yet"):
            await other.grants.get("g1")
