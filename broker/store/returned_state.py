"""At which server a provider was last seen to return `state`: the field `returns_state` of what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.store import scripts
from broker.store.fields import maybe_text

if TYPE_CHECKING:
    from broker.store.redis.primary import Primary
    from broker.store.scripts import Keys

_FIELD = "returns_state"


async def note(primary: Primary, keys: Keys, provider: str, server: str) -> None:
    """Note that *provider* returned a state at *server*; another store gets nothing.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    script = scripts.NOTE
    args = script.args([_FIELD, server], counter="", count=0)
    await primary.run(script, script.keys(facts=keys.provider(provider)), args)


async def last_seen_at(primary: Primary, keys: Keys, provider: str) -> str | None:
    """Return the server at which *provider* was last seen to return a state; None: it never was.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    (server,) = await primary.pipeline_each([("HGET", keys.provider(provider), _FIELD)])
    return maybe_text(None if isinstance(server, Exception) else server)
