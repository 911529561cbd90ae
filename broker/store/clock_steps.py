"""Agree with the other brokers on the steps of Redis's clock, and move back the times of tokens after a step back.

Knows nothing of how a step is found: see `clock`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from broker.store import scripts
from broker.store.clock import uptime
from broker.store.fields import maybe_int

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.model import State
    from broker.store.clock import Clock
    from broker.store.redis.primary import Primary

_PAGE_SIZE = 500
_TRIES = 4
_ANCHOR_MS = 86_400_000
"""How long a later process may go on with the uptime of this one: two clocks drift apart by less than a step then."""
_KEPT_AGAIN = 3_600.0
_DRIFT_MS = 500
_REWOUND: tuple[State, ...] = ("leased", "parked", "due")
"""Those that are due last: with their last page the clock counts as seen."""


def _read_boot() -> str:
    """Return what says that uptimes of two processes are of one clock: the boot, and its time namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}-{Path('/proc/self/ns/time').readlink()}"
    except OSError:
        return ""


_BOOT = _read_boot()


class ClockSteps:
    """Every method raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, primary: Primary, keys: scripts.Keys, clock: Clock) -> None:
        self._primary = primary
        self._keys = keys
        self._clock = clock
        self._anchor = (math.inf, -math.inf)
        """What this process kept last for a later one, and when (uptime)."""

    async def agree(self) -> bool:
        """Look at the clock, and have one offset in the store and here.

        Returns:
            Whether tokens are to be rewound for it.
        """
        rewound = await self._look()
        return rewound > self._clock.offset

    async def _look(self, *, rewound: int | None = None) -> int:
        """Return the offset to which tokens with a higher one were rewound last; *rewound*: that it was done."""
        script, clock, found = scripts.OBSERVE_CLOCK, self._clock, 0
        keys = script.keys(epoch=self._keys.epoch, anchor=self._keys.anchor(_BOOT))
        known: bytes | str = ""
        offset = ""
        for _ in range(_TRIES):
            asked = uptime()
            now, stored, moved_at, found, seen_at, anchor = await self._primary.run(
                script,
                keys,
                script.args(
                    known=known,
                    offset=offset,
                    rewound="" if rewound is None else rewound,
                    steady=self._new_anchor(),
                    anchor_ms=_ANCHOR_MS,
                ),
            )
            clock.observe(now, asked)
            wanted = clock.compare(
                maybe_int(stored),
                moved_at=maybe_int(moved_at) or 0,
                anchor=maybe_int(anchor),
                seen_at=maybe_int(seen_at),
            )
            if wanted is None:
                break
            known, offset = "" if stored is None else stored, str(wanted)
        return maybe_int(found) or 0

    def _new_anchor(self) -> str:
        """Return what a later process is to go on with; empty where what was kept is good."""
        steady, (kept, at) = self._clock.steady, self._anchor
        if not _BOOT or steady is None or (abs(steady - kept) < _DRIFT_MS and uptime() < at + _KEPT_AGAIN):
            return ""
        self._anchor = (steady, uptime())
        return f"{steady:.0f}"

    async def rewind_all(self, providers: Iterable[str], lease_ms: int) -> None:
        """Rewind the grants of all *providers*, and note that it was done."""
        offset = self._clock.offset
        for provider in providers:
            await self._rewind(provider, lease_ms)
        await self._look(rewound=offset)

    async def rewind(self, provider: str, lease_ms: int) -> None:
        """Move back the times of tokens that were set before the clock was set back, and leases that last too long."""
        await self.agree()
        await self._rewind(provider, lease_ms)

    async def _rewind(self, provider: str, lease_ms: int) -> None:
        for state in _REWOUND:
            keys = scripts.REWIND.keys(
                ids=self._keys.ids(state, provider),
                leased=self._keys.ids("leased", provider),
                **self._keys.index(provider),
                provider=self._keys.provider(provider),
                epoch=self._keys.epoch,
                grant_prefix=self._keys.grants,
            )
            skip, examined = 0, _PAGE_SIZE
            while examined == _PAGE_SIZE:
                args = scripts.REWIND.args(state=state, skip=skip, page_size=_PAGE_SIZE, lease_ms=lease_ms)
                examined = await self._primary.run(scripts.REWIND, keys, args)
                skip += _PAGE_SIZE
