"""Quotas of a caller: requests a second, requests that wait, and grants. Each broker counts for itself.

Knows no route. A caller without a quota has no object of this kind, so its requests cost nothing.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.api.places import NoPlace, Places
from broker.errors import QuotaExceeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Self

    from broker.api.places import Place, Whose
    from broker.settings import Caller as CallerSettings


@dataclass(slots=True)
class Quota:
    """The quotas of one caller, and what of them is in use. 0 is no limit.

    Requests are a bucket that holds one second's worth, so a burst of that many is served at once.
    """

    caller: str
    requests_per_second: int
    long_polls: int
    grants: int
    _spare: float = 0.0
    _filled_at: float = 0.0
    _waiting: int = 0
    _places: Places = field(default_factory=Places)

    @classmethod
    def from_settings(cls, name: str, caller: CallerSettings) -> Self | None:
        """Return the quota of a caller; None where it has none."""
        if not (caller.requests_per_second or caller.long_polls or caller.grants):
            return None
        return cls(name, caller.requests_per_second, caller.long_polls, caller.grants)

    def with_limits_of(self, other: Quota) -> Self:
        """Take over the limits of *other*: a reload of the settings gives nobody a fresh quota."""
        self.requests_per_second, self.long_polls, self.grants = (
            other.requests_per_second,
            other.long_polls,
            other.grants,
        )
        return self

    def spend(self, now: float | None = None) -> None:
        """Count one request at *now* (monotonic seconds).

        Raises:
            QuotaExceeded: there were too many.
        """
        rate = self.requests_per_second
        if not rate:
            return
        now = time.monotonic() if now is None else now
        self._spare = min(rate, self._spare + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._spare < 1:
            raise self._exceeded(
                "requests_per_second", f"{rate} requests a second", "send fewer", (1 - self._spare) / rate
            )
        self._spare -= 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a request that waits, as long as the body lasts.

        Raises:
            QuotaExceeded: too many wait already.
        """
        if self.long_polls and self._waiting >= self.long_polls:
            raise self._exceeded("long_polls", f"{self.long_polls} waiting requests", "wait with fewer", 5)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    @asynccontextmanager
    async def place(self, grant_id: str, whose: Whose) -> AsyncIterator[Place]:
        """Hold a place for a new grant during the body.

        Args:
            grant_id: the new grant.
            whose: the grants that count.

        Raises:
            QuotaExceeded: there are too many.
        """
        try:
            async with self._places.hold(self.grants, grant_id, whose) as place:
                yield place
        except NoPlace as error:
            raise self._exceeded(
                "grants",
                f"{self.grants} grants of its patterns, and there are {error.used} with the logins that it has begun",
                "delete some",
            ) from None

    def _exceeded(self, key: str, most: str, cure: str, retry_after: float | None = None) -> QuotaExceeded:
        return QuotaExceeded(
            f"caller {self.caller!r} may have {most}: {cure}, or have callers.{self.caller}.{key} raised",
            denied=f"quota_{key.removesuffix('_per_second')}",
            caller=self.caller,
            retry_after=retry_after,
        )
