"""Make up for a step back of Redis's clock: for each provider as soon as it is found, and once more a little later.

Knows nothing of how the step is found (see `clock`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from broker.store import scripts
from broker.store.clock import SetBack

if TYPE_CHECKING:
    from broker.model import State
    from broker.store.clock import Clock
    from broker.store.redis.primary import Primary

_REWIND_PAGE = 500
_REWIND_AGAIN = 15.0
"""Seconds after which the schedule is rewound once more."""
_REWOUND: tuple[State, ...] = ("due", "parked")


class Rewinding:
    """Moves back what was planned. Raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, primary: Primary, keys: scripts.Keys, clock: Clock) -> None:
        self._primary = primary
        self._keys = keys
        self._clock = clock
        self._rewound: dict[str, tuple[int, int, float]] = {}
        """Of each provider the last step back that was made up for, how often, and when (monotonic seconds)."""

    def is_due(self, provider: str) -> bool:
        """Return whether a step back of the clock that was found here is to be made up for.

        It is done twice: an answer that came before the step was found may be stored after the first time.
        """
        step, times, since = self._rewound.get(provider, (0, 0, 0.0))
        return step != self._clock.steps_back or (times == 1 and time.monotonic() > since + _REWIND_AGAIN)

    async def rewind(self, provider: str, lease_ms: int) -> int:
        """Move back what was planned before the server's clock was set back, and leases that end later than new ones.

        Returns:
            By how much the clock was set back (ms).
        """
        found, step = self._clock.set_back if self.is_due(provider) else None, self._clock.steps_back
        for state in _REWOUND:
            offset, examined = 0, _REWIND_PAGE
            while examined == _REWIND_PAGE:
                keys = scripts.REWIND.keys(
                    ids=self._keys.ids(state, provider),
                    leased=self._keys.ids("leased", provider),
                    provider=self._keys.provider(provider),
                    epoch=self._keys.epoch,
                    grant_prefix=self._keys.grants,
                )
                at, back_ms = ("", "") if found is None else found
                args = scripts.REWIND.args(
                    offset=offset, page_size=_REWIND_PAGE, lease_ms=lease_ms, at=at, back_ms=back_ms
                )
                examined, agreed_at, agreed_by = await self._primary.run(scripts.REWIND, keys, args)
                found = self._clock.set_back = SetBack(int(agreed_at), int(agreed_by))
                offset += _REWIND_PAGE
        before, times, _ = self._rewound.get(provider, (0, 0, 0.0))
        self._rewound[provider] = (step, times + 1 if before == step else 1, time.monotonic())
        return found.by if found else 0
