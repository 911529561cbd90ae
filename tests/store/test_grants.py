"""Grants as they are read: what the store derives from the fields of a grant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.secret import Sealer, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import open_store
from tests.store.steps import claimed, commit_of, imported

if TYPE_CHECKING:
    from pathlib import Path

    from broker.store import Store
    from tests.redis_server import RedisServer


async def test_until_when_a_stored_token_is_usable(
    store: Store, shared_redis: RedisServer, key: str, tmp_path: Path
) -> None:
    """Where a refresh ends the old token, a token that is read is usable until its planned refresh, else to its end.

    The field is not stored: grants that the version before wrote read the same.
    """
    await imported(store, "g1")
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    settings, sealer = RedisSettings(url=shared_redis.url), Sealer(parse_sealing_keys(key))
    async with open_store(settings, sealer, data_dir=tmp_path, old_tokens={"p": "dies"}) as other:
        await other.identify()
        to_its_end, to_refresh = [(await each.grants.get("g1")) for each in (store, other)]
    assert to_its_end is not None
    assert to_its_end.token is not None
    assert to_its_end.token.usable_until == to_its_end.token.expires_at
    assert to_refresh is not None
    assert to_refresh.token is not None
    assert to_refresh.token.usable_until == to_refresh.token.refresh_at < to_refresh.token.expires_at
