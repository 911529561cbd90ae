"""How many values each key has sealed: the brokers add to it, and `check` warns before random nonces run out.

AES-GCM with random nonces of 96 bits is safe for 2^32 values of one key (NIST SP 800-38D, 8.3). The purposes' derived
keys are counted together, so the count errs to the safe side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.store import scripts
from broker.store.fields import maybe_int

if TYPE_CHECKING:
    from broker.secret import Sealer
    from broker.store.redis.primary import Primary
    from broker.store.scripts import Keys

_FIELD = "seals:"
_AT_ONCE = 1_000
"""Seals that are worth a write; what a broker sealed since then is not counted when it ends."""


class Seals:
    """Adds to the count of the first key, in the field `seals:KEY` of `meta`."""

    def __init__(self, primary: Primary, keys: Keys, sealer: Sealer) -> None:
        self._primary = primary
        self._keys = keys
        self._sealer = sealer
        self._added = 0

    async def add(self) -> None:
        """Add what was sealed since the last call, where that is much.

        Raises:
            StoreUnavailable: Redis does not answer; the next call adds it.
        """
        new = self._sealer.seals - self._added
        if new >= _AT_ONCE:
            keys, args = (
                scripts.NOTE.keys(facts=self._keys.meta),
                scripts.NOTE.args(counter=_field(self._sealer), count=new),
            )
            await self._primary.run(scripts.NOTE, keys, args)
            self._added += new


async def read_seals(primary: Primary, keys: Keys, sealer: Sealer) -> int:
    """Return how many values the first key of *sealer* has sealed, over all brokers.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    return maybe_int(await primary.call("HGET", keys.meta, _field(sealer))) or 0


def _field(sealer: Sealer) -> str:
    return f"{_FIELD}{sealer.first.hex()}"
