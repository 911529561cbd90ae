"""Account, owner and label in Redis: sealed, resealed, of one login alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from broker.model import Ending, Token
from broker.model.account import Account, Ownership, parse_account
from broker.secret import Sealer, Secret, new_sealing_key, parse_sealing_keys
from broker.settings import Redis as RedisSettings
from broker.store import Flow, open_store
from broker.store.ownership import is_held
from tests.store.steps import claimed, commit_of, imported

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

    from broker.store import Store
    from tests.redis_server import RedisServer

JANE = Account("s1", "jane@example.com", "jane", "Jane Doe")


async def logged_in(store: Store, grant: str, whose: Ownership) -> None:
    """Register a login."""
    now = store.clock()
    token = Token(grant, "p", now, Secret("a"), "Bearer", None, now, now, now, now, {})
    login = store.registry.prepare_login(token, Secret("r"), ending=Ending(), followed=0, ownership=whose)
    seen = await store.registry.generation(grant)
    assert await store.registry.log_in(login, seen=seen, message={})


async def whose(store: Store, grant: str) -> Ownership:
    """Return whose a grant is."""
    found = await store.grants.get(grant)
    assert found is not None
    return found.ownership


async def test_an_account_is_resealed(shared_redis: RedisServer, redis: Redis, tmp_path: Path) -> None:
    """After resealing the account opens with the new key alone, in the store and in the journal's record."""
    old, new = (parse_sealing_keys(new_sealing_key()) for _ in range(2))
    async with open_store(RedisSettings(url=shared_redis.url), Sealer(old), data_dir=tmp_path) as store:
        await store.identify()
        await logged_in(store, "g1", Ownership(JANE, "Jane", ""))
        (claim,) = await claimed(store)
        record = store.registry.prepare(commit_of(claim)).record
    async with open_store(RedisSettings(url=shared_redis.url), Sealer([*new, *old]), data_dir=tmp_path) as store:
        await store.identify()
        assert (await store.resealing.page(None)).unreadable == ()
        record = store.registry.reseal_record(record)
    async with open_store(RedisSettings(url=shared_redis.url), Sealer(new), data_dir=tmp_path) as store:
        await store.identify()
        assert await whose(store, "g1") == Ownership(JANE, "Jane", None)
        await redis.delete("broker:{0}:grant:g1")
        assert await store.registry.restore(record) == "restored"
        assert await whose(store, "g1") == Ownership(JANE, "Jane", None)


async def test_a_grant_of_an_account_is_found(store: Store) -> None:
    """Among grants with and without accounts, the one of an account is found; an account of another login is not."""
    names = [f"g{number}" for number in range(3)]
    await imported(store, *names)
    await logged_in(store, "g1", Ownership(JANE))

    async def held(account: str) -> bool:
        return await is_held(store.primary, store.keys, store.sealer, names, account)

    assert await held("s1")
    assert not await held("s2")
    await store.registry.import_("g1", "p", Secret("another"), None, due_at=store.clock())
    assert not await held("s1"), "an import is another authorization"
    assert await whose(store, "g1") == Ownership()


async def test_text_is_kept_until_it_is_changed(store: Store) -> None:
    """None keeps what stands there, "" removes it, whatever else happens to the grant."""
    await imported(store, "g1")
    assert await store.registry.annotate("g1", "Jane", "x")
    await logged_in(store, "g1", Ownership(None, None, ""))
    assert await whose(store, "g1") == Ownership(None, "Jane", None)
    assert not await store.registry.annotate("g2", "Jane", "x")
    assert await store.grants.get("g2") is None


def test_an_account_of_another_login_is_none() -> None:
    """What an older broker left behind, or somebody wrote there, is no account."""
    assert parse_account(JANE.serialize(7), 7) == JANE
    for text in (JANE.serialize(8), "x", "[]", "{}", '{"granted_at": 7}'):
        assert parse_account(text, 7) is None


async def test_a_flow_without_news_is_as_before(store: Store) -> None:
    """Brokers of the version before read a pending login that says nothing they do not know."""
    await store.flows.put("t", Flow("ticket", "g", "p", "t"))
    sealed = await store.primary.call("GET", store.keys.flow("t"))
    text = store.sealer.open(sealed, "flow", "t", purpose="flow")
    assert not {"held", "decision", "owner", "label", "replace_account", "undecided", "decided_at"} & {
        *json.loads(text)
    }
    flow = Flow("ticket", "g", "p", "t", replace_account=True, owner="", label="x")
    await store.flows.put("t", flow)
    assert await store.flows.get("t") == flow
