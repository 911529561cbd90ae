"""Find what to notify of: grants that were reported, and every grant in turn, a page at a time, by one replica.

A page a second costs little however many grants there are. A problem that nobody reported (a crash, a lost
subscription) is found within one round; the parked grants of a provider come first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.errors import StoreUnavailable
from broker.notify.policy import (
    FAILING_AFTER,
    THRESHOLDS,
    LastNotice,
    Limits,
    Problem,
    ending_condition,
    grant_condition,
)
from broker.process.tasks import run_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.notify.sender import Sender
    from broker.process.heartbeat import Heartbeat
    from broker.store import Store

_SCHEDULE = "sweep"
"""The schedule in Redis whose one subject, of the same name, is the scan: whoever leases it scans a page."""
_PAGE = 200
_PAUSE = 1.0
"""Seconds between two steps."""
_ROUND_MS = 5_000
"""Between the end of one round and the start of the next."""
_LEASE_MS = 30_000
_MAX_REPORTED = 10_000


class Scanner:
    """Enqueue subjects for the *senders*. *limits*: how long the grants of each provider in the settings live."""

    def __init__(
        self, store: Store, limits: Mapping[str, Limits], senders: Sequence[Sender], heartbeat: Heartbeat
    ) -> None:
        self.heartbeat = heartbeat
        self._store = store
        self._limits = limits
        self._senders = senders
        self._reported: set[str] = set()
        self._woken = asyncio.Event()

    def check_soon(self, grant_id: str) -> None:
        """Check a grant in the next step: a message reported a problem with it."""
        if len(self._reported) < _MAX_REPORTED:
            self._reported.add(grant_id)
            self._woken.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Scan until *stopping* is set."""
        while not stopping.is_set():
            await run_until(stopping, self.step())

    async def step(self) -> None:
        """Enqueue the reported grants, the suspended providers and one page of grants, then pause."""
        self.heartbeat.signal()
        self._woken.clear()
        reported, self._reported = self._reported, set()  # more may be reported while these are enqueued
        try:
            await self._enqueue({f"grant/{grant_id}" for grant_id in reported})
            reported = set()
            await self._scan_page()
        except StoreUnavailable as error:
            self._reported |= reported
            self.heartbeat.lose_store(error)
            self._woken.clear()
        else:
            self.heartbeat.trouble = ""
        try:
            await asyncio.wait_for(self._woken.wait(), _PAUSE)
        except TimeoutError:
            pass

    async def _scan_page(self) -> None:
        notices, grants, now = self._store.notices, self._store.grants, self._store.clock()
        await notices.enqueue(_SCHEDULE, [_SCHEDULE])
        for leased in await notices.lease(_SCHEDULE, 1, _LEASE_MS):
            found = {f"provider/{name}" for name in await grants.suspended(self._limits)}
            names = sorted(set(self._limits) | await grants.known_providers())
            candidates, following = await grants.needing_attention(
                names, leased.record or None, _PAGE, failures=FAILING_AFTER, ends_by=now + max(THRESHOLDS)
            )
            for grant in candidates:
                if isinstance(grant_condition(grant, LastNotice()), Problem):
                    found.add(f"grant/{grant.grant_id}")
                limits = self._limits.get(grant.provider, Limits())
                if isinstance(ending_condition(grant, limits, now), Problem):
                    found.add(f"ending/{grant.grant_id}")
            await self._enqueue(found)
            check_at = now + int(_PAUSE * 1000) if following else now + _ROUND_MS
            await notices.finish(_SCHEDULE, leased, following or "", check_at)

    async def _enqueue(self, subjects: set[str]) -> None:
        for sender in self._senders:
            concerned = [subject for subject in subjects if _concerns(subject, sender)]
            if concerned:
                await self._store.notices.enqueue(sender.channel.name, concerned)
                sender.wake()


def _concerns(subject: str, sender: Sender) -> bool:
    """Return whether *sender* may have to notify of *subject*."""
    problems: set[str] = {
        "ending": {"reauthorize_soon"},
        "provider": {"provider_suspended"},
        "grant": {"reauthorization_required", "refresh_failing"},
    }[subject.partition("/")[0]]
    return not problems.isdisjoint(sender.events)
