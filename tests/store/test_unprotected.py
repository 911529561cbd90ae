"""What sealing does not stop, as SECURITY.md says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.model.account import Ownership
from broker.secret import Secret
from tests.store.steps import brought_by, claimed, commit_of, refreshed

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.store import Store

HASH = "broker:{0}:grant:g1"


async def test_an_older_state_that_is_put_back(store: Store, redis: Redis) -> None:
    """It opens: its token is served to its own end, and its refresh token is the one that is sent next."""
    await refreshed(store, redis, "g1")
    older: Any = await redis.dump(HASH)
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(claim, "a2", "r3")))
    await redis.restore(HASH, 0, older, replace=True)
    await redis.zadd("broker:{0}:due:p", {"g1": 1})
    grant = await store.grants.get("g1")
    assert grant is not None
    assert grant.token is not None
    assert (grant.tampered, grant.token.access_token) == (None, Secret("a1"))
    brought = await brought_by(store)
    assert [claim.refresh_token for claim in brought.claims] == [Secret("r2")]


async def test_what_is_in_the_clear(store: Store, redis: Redis) -> None:
    """Beside what is sealed a grant has its provider, scope, type, owner and label, times, states and a fingerprint."""
    await store.registry.import_(
        "g1", "p", Secret("r1"), "a b", due_at=store.clock(), ownership=Ownership(owner="team", label="shop")
    )
    (claim,) = await claimed(store)
    await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    fields: Any = await redis.hgetall(HASH)
    clear = {name.decode() for name, value in fields.items() if not is_sealed(store, value)}
    times = {"answered_at", "clock_offset", "expires_at", "granted_at", "issued_at", "last_at", "refresh_at"}
    states = {"committed", "generation", "imported", "last_detail", "last_outcome"}
    assert clear == {"label", "owner", "provider", "scope", "token_type"} | times | states
    assert fields[b"imported"].strip() == Secret("r1").fingerprint().encode()


def is_sealed(store: Store, value: bytes) -> bool:
    """Return whether *value* begins as what the store's key seals does, and is longer than a time."""
    return len(value) > 32 and not value.isascii() and store.sealer.is_current(value)
