"""Whose a grant is, and in which sets it is where its hash is damaged and does not say that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.model import GRANT_ID
from broker.store.fields import texts

if TYPE_CHECKING:
    from broker.store.redis.primary import Primary
    from broker.store.scripts import Keys

_PROVIDER = "provider:"
"""What the fields of `meta` begin with that name the providers."""


async def provider_of(primary: Primary, keys: Keys, grant_id: str) -> str | None:
    """Return whose a grant is; empty where there is no such grant, None where it is damaged and nobody knows.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    (raw,) = await primary.pipeline_each([("HGET", keys.grant(grant_id), "provider")])
    if raw is None:
        return ""
    known = None if isinstance(raw, Exception) else GRANT_ID.fullmatch(raw.decode("ascii", "replace"))
    return known[0] if known else None


async def places(primary: Primary, keys: Keys, grant_id: str) -> tuple[str, list[str]]:
    """Return whose a grant is, and the keys of the provider's sets; where nobody knows, of all sets that it is in.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    provider = await provider_of(primary, keys, grant_id)
    if provider is not None:
        return provider, _sets(keys, provider)
    fields = texts(await primary.call("HKEYS", keys.meta))
    names = [field.removeprefix(_PROVIDER) for field in fields if field.startswith(_PROVIDER)]
    sets = [key for name in names for key in _sets(keys, name)]
    scores = await primary.pipeline_each([("ZSCORE", key, grant_id) for key in sets])
    return "", [key for key, at in zip(sets, scores, strict=True) if at is not None and not isinstance(at, Exception)]


def _sets(keys: Keys, provider: str) -> list[str]:
    return [*keys.sets(provider).values(), *keys.index(provider).values()]
