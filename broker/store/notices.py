"""What people were told, and what is to be looked at: one schedule for each way of telling them.

A *subject* is what a notice may be about, `grant/acme-1` or `provider/acme`; it stands in the schedule of a way as
long as something is wrong with it, or as long as people were told that something is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.store import scripts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.store.clock import Clock
    from broker.store.primary import Primary


@dataclass(frozen=True, slots=True)
class Leased:
    """A subject leased to us for one look; `record` is what the last look wrote down, or empty."""

    subject: str
    record: str
    ends: int
    """End of the lease, epoch ms."""


class Notices:
    """Every method raises `StoreUnavailable` when Redis cannot say."""

    def __init__(self, primary: Primary, keys: scripts.Keys, clock: Clock) -> None:
        self._primary = primary
        self._keys = keys
        self._clock = clock

    async def enqueue(self, channel: str, subjects: Iterable[str]) -> None:
        """Have *subjects* looked at, before all others; those that stand in the schedule already stay as they are."""
        names = list(subjects)
        if names:
            script = scripts.ENQUEUE_SUBJECTS
            await self._primary.run(script, script.keys(subjects=self._keys.subjects(channel)), script.args(names))

    async def lease(self, channel: str, n: int, lease_ms: int) -> list[Leased]:
        """Lease up to *n* subjects that are due."""
        script = scripts.LEASE_SUBJECTS
        keys = script.keys(subjects=self._keys.subjects(channel), last_notices=self._keys.last_notices(channel))
        asked = time.monotonic()
        now, *rows = await self._primary.run(script, keys, script.args(n=n, lease_ms=lease_ms))
        self._clock.observe(now, asked)
        return [Leased(subject.decode(), record.decode(), int(ends)) for subject, record, ends in rows]

    async def finish(self, channel: str, leased: Leased, record: str, look_at: int | None) -> Leased | None:
        """Write down what came of a look, and when (epoch ms) to look again; None: never.

        Gives the lease as it stands from now on: *look_at* within the old one gives it up. None: it was no longer ours.
        """
        script = scripts.FINISH_SUBJECT
        keys = script.keys(subjects=self._keys.subjects(channel), last_notices=self._keys.last_notices(channel))
        args = script.args(
            subject=leased.subject,
            lease_ends=leased.ends,
            record=record,
            next_at="" if look_at is None else look_at,
        )
        if await self._primary.run(script, keys, args) != b"noted":
            return None
        return Leased(leased.subject, record, leased.ends if look_at is None else look_at)

    async def publish(self, grant_id: str, message: str) -> None:
        """Tell a grant's subscribers, whoever they are."""
        await self._primary.call("PUBLISH", self._keys.channel(grant_id), message)
