"""Steps that many tests of the store take: import, claim, commit, and look where a grant is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from broker.model import Claim, Commit, Ending, Token
from broker.secret import Secret
from broker.store import Claimed, Store

if TYPE_CHECKING:
    from redis.asyncio import Redis


LEASE = 60_000


async def imported(store: Store, *grants: str, provider: str = "p") -> None:
    """Import grants, due now."""
    for grant in grants:
        registered = await store.registry.import_(grant, provider, Secret(f"r-{grant}"), None, due_at=store.clock())
        assert registered.status == "created"
    await asyncio.sleep(0.002)  # only its millisecond tells a login from what was before


async def refreshed(store: Store, redis: Redis, *grants: str, provider: str = "p") -> None:
    """Import grants, commit a first token of each, and make them due again."""
    await imported(store, *grants, provider=provider)
    for claim in await claimed(store, len(grants), provider):
        await store.schedule.commit(store.registry.prepare(commit_of(claim)))
    await redis.zadd(f"broker:{{0}}:due:{provider}", dict.fromkeys(grants, 1))


async def claimed(store: Store, n: int = 1, provider: str = "p") -> list[Claim]:
    """Claim grants that are due; return their claims."""
    return (await brought_by(store, n, provider)).claims


async def brought_by(store: Store, n: int = 1, provider: str = "p") -> Claimed:
    """Claim as a replica that has replayed its journal."""
    brought = await store.schedule.claim(provider, n, LEASE)
    if brought.fenced is not None:
        store.schedule.replayed_after = brought.fenced
        brought = await store.schedule.claim(provider, n, LEASE)
    return brought


def commit_of(claim: Claim, access: str = "a1", refresh: str | None = "r2", **changes: Any) -> Commit:
    """Return a commit of new tokens for a claim."""
    generation = changes.pop("generation", claim.generation + 1)
    token = Token(
        claim.grant_id,
        claim.provider,
        generation,
        Secret(access),
        "Bearer",
        None,
        claim.claimed_at,
        claim.claimed_at + 3_600_000,
        claim.claimed_at + 2_700_000,
        claim.claimed_at + 3_600_000,
        {"httpsBaseUrl": {"port": 443}},
    )
    return Commit(
        claim,
        "refreshed",
        None,
        token,
        Secret(refresh) if refresh else None,
        token.refresh_at,
        Ending(),
        0,
        claim.claimed_at,
        recovered=False,
    )


async def sets(redis: Redis, grant: str, provider: str = "p") -> list[str]:
    """In which of the three sets a grant is."""
    states = ("due", "leased", "parked")
    return [s for s in states if await redis.zscore(f"broker:{{0}}:{s}:{provider}", grant) is not None]
