"""Send notices through one channel: lease the subjects that are due, decide, send, and record what was sent.

The lease lets one replica check a subject at a time. The id of a notice is recorded before it is sent, so a repetition
after a crash or a lost response carries the same id.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import structlog

from broker.errors import StoreUnavailable
from broker.model.account import NOBODY, Ownership
from broker.notify import policy
from broker.notify.channels.channel import NotDelivered, deliver
from broker.notify.notice import Notice
from broker.notify.policy import LastNotice, Limits
from broker.process.tasks import run_until

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from broker.model import Grant
    from broker.notify.channels.channel import Channel
    from broker.notify.policy import Condition
    from broker.process.heartbeat import Heartbeat
    from broker.process.metrics import Metrics
    from broker.store import Leased, Store

log = structlog.get_logger()
BATCH = 100
LEASE = 60.0
"""Seconds for a batch: the next replica takes what this one does not get to."""
_PAUSE = 1.0
"""Seconds between two checks of the schedule when nothing wakes the sender."""
_FAILING_PAUSE = (1.0, 60.0)
"""First and longest pause, in seconds, while the receiver accepts nothing: one notice is tried after each."""


class Found(NamedTuple):
    """What a subject is at, how it is, and whose."""

    provider: str
    condition: Condition
    ownership: Ownership = NOBODY


class Sender:
    """Notify of *events* through one channel."""

    def __init__(
        self,
        channel: Channel,
        store: Store,
        limits: Mapping[str, Limits],
        *,
        events: Collection[str],
        metrics: Metrics,
        heartbeat: Heartbeat,
        timeout: float,
        page: str | None = None,
    ) -> None:
        """Wire the sender.

        Args:
            channel: delivers the notices.
            store: holds the schedule and what was sent.
            limits: how long the grants of each provider live.
            events: those to notify of.
            metrics: count the notices.
            heartbeat: of this loop.
            timeout: the longest that one delivery takes, in seconds.
            page: URL of the status page; None: unknown.
        """
        self.channel = channel
        self.events = events
        self.heartbeat = heartbeat
        self._store = store
        self._notices = store.notices
        self._limits = limits
        self._metrics = metrics
        self._timeout = timeout
        self._page = page
        self._woken = asyncio.Event()
        self._failures = 0

    def wake(self) -> None:
        """End the pause: a subject is due."""
        self._woken.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Send until *stopping* is set; the next replica repeats a notice that is on its way then."""
        while not stopping.is_set():
            await run_until(stopping, self.step())

    async def step(self) -> None:
        """Process one batch of subjects, then pause."""
        self._woken.clear()
        self.heartbeat.signal()
        try:
            await self._process_batch()
        except StoreUnavailable as error:
            self.heartbeat.lose_store(error)
        if self._failures:
            first, longest = _FAILING_PAUSE
            pause = min(longest, first * 2 ** min(self._failures - 1, 16)) * (0.5 + random.random() / 2)
            self.heartbeat.signal(allow=pause)
            await asyncio.sleep(pause)
            return
        try:
            await asyncio.wait_for(self._woken.wait(), _PAUSE)
        except TimeoutError:
            pass

    async def _process_batch(self) -> None:
        lease = LEASE + self._timeout  # one delivery fits in, even if it takes its whole timeout
        ends = time.monotonic() + lease
        leased = await self._notices.lease(self.channel.name, BATCH, int(lease * 1000))
        found = await self._conditions(leased)
        if not self._failures:
            self.heartbeat.trouble = ""
        for done, (subject, found_of) in enumerate(zip(leased, found, strict=True)):
            self.heartbeat.signal(allow=self._timeout)
            if time.monotonic() + self._timeout > ends or not await self._process(subject, found_of):
                for rest in leased[done + 1 :]:
                    await self._notices.finish(self.channel.name, rest, rest.record, self._store.clock())
                break

    async def _conditions(self, leased: Sequence[Leased]) -> list[Found]:
        """Return each subject's provider and condition, and whose it is."""
        names = [subject.subject.partition("/")[::2] for subject in leased]
        grants = await self._grants([name for kind, name in names if kind != "provider"])
        states = await self._store.grants.providers([name for kind, name in names if kind == "provider"])
        providers = {state.name: state for state in states}
        now, found = self._store.clock(), list[Found]()
        for (kind, name), subject in zip(names, leased, strict=True):
            if kind == "provider":
                found.append(Found(name, policy.provider_condition(providers[name])))
                continue
            grant = grants.get(name)
            provider, whose = (grant.provider, grant.ownership) if grant else ("", NOBODY)
            if kind == "ending":
                limits = self._limits.get(provider, Limits())
                found.append(Found(provider, policy.ending_condition(grant, limits, now), whose))
            else:
                condition = policy.grant_condition(grant, LastNotice.parse(subject.record))
                found.append(Found(provider, condition, whose))
        return found

    async def _grants(self, grant_ids: Sequence[str]) -> dict[str, Grant | None]:
        if not grant_ids:
            return {}
        grants = await self._store.grants.get_many(grant_ids)
        return dict(zip(grant_ids, grants, strict=True))

    async def _process(self, leased: Leased, found: Found) -> bool:
        """Decide on one subject and send the notice that is due; return False if the receiver did not accept it."""
        condition = found.condition
        channel, now = self.channel.name, self._store.clock()
        recovered_after = policy.RECOVERED_AFTER if leased.subject.startswith("provider/") else 0
        parsed = LastNotice.parse(leased.record)
        decision = policy.decide(condition, parsed, now, self.events, recovered_after=recovered_after)
        last = decision.last
        if decision.event is None:
            await self._notices.finish(channel, leased, last.serialize(), decision.check_at)
            return True
        if not last.id:
            last = replace(last, id=f"msg_{secrets.token_hex(12)}")
            renewed = await self._notices.finish(channel, leased, last.serialize(), leased.ends)
            if renewed is None:
                return True
            leased = renewed
        notice = Notice.for_subject(
            last.id,
            decision.event,
            last.since,
            leased.subject,
            provider=found.provider,
            condition=condition,
            ownership=found.ownership,
            page=self._page,
        )
        if not await self._deliver(notice, leased, last):
            return False
        last, check_at = policy.after_delivery(condition, self._store.clock())
        await self._notices.finish(channel, leased, last.serialize(), check_at)
        return True

    async def _deliver(self, notice: Notice, leased: Leased, last: LastNotice) -> bool:
        """Send *notice*, and schedule the next try of one that was not delivered."""
        retry = await self._attempt(notice, last)
        if retry is not None:
            await self._notices.finish(self.channel.name, leased, retry[0].serialize(), retry[1])
        return retry is None

    async def _attempt(self, notice: Notice, last: LastNotice) -> tuple[LastNotice, int] | None:
        """Send *notice* once, log and count the result.

        Returns:
            None if it was delivered; else what to remember, and when to try again.
        """
        channel = self.channel.name
        line = log.bind(
            way=channel,
            notice=notice.id,
            about=notice.event,
            grant_id=notice.grant_id,
            provider=notice.provider,
            tries=last.tries + 1,
            **({"grants": len(notice.group)} if notice.group else {}),
        )
        try:
            response = await deliver(self.channel, notice)
        except NotDelivered as error:
            last, again = policy.after_failure(last, self._store.clock(), random.random())
            self._failures += 1
            self.heartbeat.trouble = f"notices are not delivered: {error}; the broker retries until they are"
            self._metrics.notices.labels(channel, "failed").inc()
            next_in = (again - self._store.clock()) / 1000
            line.warning("notice.failed", error=str(error), next_in=next_in, exc_info=error.__cause__)
            return last, again
        self._failures, self.heartbeat.trouble = 0, ""
        self._metrics.notices.labels(channel, "sent").inc()
        line.info("notice.sent", detail=response)
        return None
