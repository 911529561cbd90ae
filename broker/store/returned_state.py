"""At which server a provider was last seen to return `state`: the field `returns_state` of what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.store.redis.primary import Primary
    from broker.store.scripts import Keys

_FIELD = "returns_state"


async def note(primary: Primary, keys: Keys, provider: str, server: str) -> None:
    """Note that *provider* returned a state at *server*; another store gets nothing.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    primary.recognise(await primary.call("HGET", keys.meta, "store"))
    await primary.call("HSET", keys.provider(provider), _FIELD, server)


async def last_seen_at(primary: Primary, keys: Keys, provider: str) -> str | None:
    """Return the server at which *provider* was last seen to return a state; None: it never was.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    server: bytes | None = await primary.call("HGET", keys.provider(provider), _FIELD)
    return None if server is None else server.decode("utf-8", "replace")
