"""What people were told, and what is to be looked at: one schedule for each way of telling them.

A *subject* is what a notice may be about, `grant/acme-1` or `provider/acme`; it stands in the schedule of a way as
long as something is wrong with it, or as long as people were told that something is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.store import scripts
from broker.token_answer import message_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.store.clock import Clock
    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary
    from broker.token_answer import Message


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

    async def add(self, way: str, subjects: Iterable[str]) -> None:
        """Have *subjects* looked at, before all others; those that stand in the schedule already stay as they are."""
        names = list(subjects)
        if names:
            await self._primary.run(scripts.SUSPECT, [self._keys.subjects(way)], names)

    async def look(self, way: str, n: int, lease_ms: int) -> list[Leased]:
        """Lease up to *n* subjects that are due."""
        keys = [self._keys.subjects(way), self._keys.told(way)]
        asked = time.monotonic()
        now, *rows = await self._primary.run(scripts.LOOK, keys, [n, lease_ms])
        self._clock.observe(now, asked)
        return [Leased(subject.decode(), record.decode(), int(ends)) for subject, record, ends in rows]

    async def note(self, way: str, leased: Leased, record: str, look_at: int | None) -> Leased | None:
        """Write down what came of a look, and when (epoch ms) to look again; None: never.

        Gives the lease as it stands from now on: *look_at* within the old one gives it up. None: it was no longer ours.
        """
        keys = [self._keys.subjects(way), self._keys.told(way)]
        args: list[Argument] = [leased.subject, leased.ends, record, "" if look_at is None else look_at]
        if await self._primary.run(scripts.NOTE, keys, args) != b"noted":
            return None
        return Leased(leased.subject, record, leased.ends if look_at is None else look_at)

    async def publish(self, grant_id: str, message: Message) -> None:
        """Publish *message* to a grant's subscribers."""
        text = message_text(message, self._primary.store_id)
        await self._primary.call("PUBLISH", self._keys.channel(grant_id), text)
