"""The last notice of each subject, and when a subject is due: one schedule for each notification channel.

A *subject* is what a notice may be about, `grant/acme-1` or `provider/acme`. It stays in the schedule of a channel as
long as something is wrong with it, or as long as the last notice says that something is.

Knows nothing of what makes a notice due, nor of how one is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.store import scripts
from broker.store.clock import uptime
from broker.token_answer import message_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from broker.store.clock import Clock
    from broker.store.redis.primary import Primary
    from broker.token_answer import Message


@dataclass(frozen=True, slots=True)
class Leased:
    """A subject that this replica has leased; `record` is what `finish` stored last, or empty."""

    subject: str
    record: str
    ends: int
    """End of the lease, epoch ms."""


class Notices:
    """The schedules of notices. Every method raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, primary: Primary, keys: scripts.Keys, clock: Clock) -> None:
        self._primary = primary
        self._keys = keys
        self._clock = clock

    async def enqueue(self, channel: str, subjects: Iterable[str]) -> None:
        """Make *subjects* due before all others; those that are in the schedule already stay where they are."""
        names = list(subjects)
        if names:
            script = scripts.ENQUEUE_SUBJECTS
            await self._primary.run(script, script.keys(subjects=self._keys.subjects(channel)), script.args(names))

    async def lease(self, channel: str, n: int, lease_ms: int) -> list[Leased]:
        """Lease up to *n* subjects that are due, for *lease_ms*."""
        script = scripts.LEASE_SUBJECTS
        keys = script.keys(subjects=self._keys.subjects(channel), last_notices=self._keys.last_notices(channel))
        asked = uptime()
        now, *rows = await self._primary.run(script, keys, script.args(n=n, lease_ms=lease_ms))
        self._clock.observe(now, asked)
        return [Leased(subject.decode(), record.decode(), int(ends)) for subject, record, ends in rows]

    async def finish(self, channel: str, leased: Leased, record: str, next_at: int | None) -> Leased | None:
        """Store what people know of a subject now, and when it is due again.

        Args:
            channel: The notification channel.
            leased: The subject, as `lease` returned it.
            record: What to store; empty: nothing.
            next_at: When it is due again, epoch ms; None: never. A time within the lease ends that.

        Returns:
            The lease as it is from now on; None: another replica had the subject by now, and nothing was stored.
        """
        script = scripts.FINISH_SUBJECT
        keys = script.keys(subjects=self._keys.subjects(channel), last_notices=self._keys.last_notices(channel))
        args = script.args(
            subject=leased.subject,
            lease_ends=leased.ends,
            record=record,
            next_at="" if next_at is None else next_at,
        )
        if await self._primary.run(script, keys, args) != b"noted":
            return None
        return Leased(leased.subject, record, leased.ends if next_at is None else next_at)

    async def records(self, channel: str) -> AsyncIterator[tuple[str, str]]:
        """Yield each subject of which the channel has a record, and that record as it was meanwhile."""
        cursor: Any = 0
        while True:
            cursor, found = await self._primary.call("HSCAN", self._keys.last_notices(channel), cursor, "COUNT", 500)
            pairs = list(found.items()) if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
            for subject, record in pairs:
                yield subject.decode(), record.decode()
            if int(cursor) == 0:
                return

    async def publish(self, grant_id: str, message: Message) -> None:
        """Publish a message on a grant's pub/sub channel."""
        text = message_text(message, self._primary.store_id)
        await self._primary.call("PUBLISH", self._keys.channel(grant_id), text)
