"""One way of telling, at work: leases what is to be looked at, decides, sends, and writes down what was told.

The lease makes one replica look at a subject at a time. What is sent has its id written down first, so whoever sends
it again, after a crash or an answer that was lost, sends it under the same id.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from broker.errors import StoreUnavailable
from broker.notify import policy
from broker.notify.channels.channel import NotDelivered
from broker.notify.notice import notice
from broker.notify.policy import LastNotice, Limits
from broker.process.tasks import unless

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from broker.model import Grant
    from broker.notify.channels.channel import Channel
    from broker.notify.policy import Condition
    from broker.process.heartbeat import Heartbeat
    from broker.process.metrics import Metrics
    from broker.store import Leased, Store

log = structlog.get_logger()
_BATCH = 100
_LEASE = 60.0
"""Seconds for a batch: what it does not come to is left to whoever looks next."""
_PAUSE = 1.0
"""Seconds between two looks when nothing wakes us."""
_FAILING_PAUSE = (1.0, 60.0)
"""First and longest pause, in seconds, while the receiver takes nothing: one notice is tried after each."""


class Sender:
    """Tells of *events* by one way. *limits*: how long the grants of each provider live."""

    def __init__(
        self,
        way: Channel,
        store: Store,
        limits: Mapping[str, Limits],
        events: Collection[str],
        metrics: Metrics,
        *,
        heart: Heartbeat,
        timeout: float,
    ) -> None:
        """*timeout*: the most seconds that one notice takes."""
        self.way = way
        self.events = events
        self.heart = heart
        self._store = store
        self._notices = store.notices
        self._limits = limits
        self._metrics = metrics
        self._timeout = timeout
        self._woken = asyncio.Event()
        self._failures = 0

    def wake(self) -> None:
        """Something is to be looked at."""
        self._woken.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Tell until *stopping*; what is then on its way is sent again by whoever comes next."""
        while not stopping.is_set():
            await unless(stopping, self.step())

    async def step(self) -> None:
        """One batch of looks, and the pause until the next."""
        self._woken.clear()
        self.heart.signal()
        try:
            await self._batch()
        except StoreUnavailable as error:
            self.heart.trouble = str(error)
        if self._failures:
            first, longest = _FAILING_PAUSE
            pause = min(longest, first * 2 ** min(self._failures - 1, 16)) * (0.5 + random.random() / 2)
            self.heart.signal(allow=pause)
            await asyncio.sleep(pause)
            return
        try:
            await asyncio.wait_for(self._woken.wait(), _PAUSE)
        except TimeoutError:
            pass

    async def _batch(self) -> None:
        lease = _LEASE + self._timeout  # one notice fits in, however long it may take
        ends = time.monotonic() + lease
        leased = await self._notices.look(self.way.name, _BATCH, int(lease * 1000))
        conditions = await self._conditions(leased)
        if not self._failures:
            self.heart.trouble = ""
        for done, (subject, (provider, condition)) in enumerate(zip(leased, conditions, strict=True)):
            self.heart.signal(allow=self._timeout)
            if time.monotonic() + self._timeout > ends or not await self._look(subject, provider, condition):
                for rest in leased[done + 1 :]:
                    await self._notices.note(self.way.name, rest, rest.record, self._store.clock())
                break

    async def _conditions(self, leased: Sequence[Leased]) -> list[tuple[str, Condition]]:
        """Of each subject its provider's name and what is the matter with it."""
        names = [subject.subject.partition("/")[::2] for subject in leased]
        grants = await self._grants([name for kind, name in names if kind != "provider"])
        states = await self._store.grants.providers([name for kind, name in names if kind == "provider"])
        providers = {state.name: state for state in states}
        now, found = self._store.clock(), list[tuple[str, "Condition"]]()
        for (kind, name), subject in zip(names, leased, strict=True):
            if kind == "provider":
                found.append((name, policy.provider_condition(providers[name])))
                continue
            grant = grants.get(name)
            provider = grant.provider if grant else ""
            if kind == "ending":
                found.append((provider, policy.ending(grant, self._limits.get(provider, Limits()), now)))
            else:
                found.append((provider, policy.grant_condition(grant, LastNotice.of(subject.record))))
        return found

    async def _grants(self, grant_ids: Sequence[str]) -> dict[str, Grant | None]:
        if not grant_ids:
            return {}
        grants = await self._store.grants.get_many(grant_ids)
        return dict(zip(grant_ids, grants, strict=True))

    async def _look(self, leased: Leased, provider: str, condition: Condition) -> bool:
        """Decision at one subject and tell of it what there is to tell; False when the receiver did not take it."""
        way, now = self.way.name, self._store.clock()
        settle = policy.SETTLED if leased.subject.startswith("provider/") else 0
        look = policy.decide(condition, LastNotice.of(leased.record), now, self.events, settle=settle)
        told = look.told
        if look.tell is None:
            await self._notices.note(way, leased, told.record(), look.look_at)
            return True
        if not told.id:
            told = replace(told, id=f"msg_{secrets.token_hex(12)}")
            ours = await self._notices.note(way, leased, told.record(), leased.ends)
            if ours is None:
                return True
            leased = ours
        news = notice(told.id, look.tell, told.since, leased.subject, provider=provider, condition=condition)
        line = log.bind(
            way=way,
            notice=news.id,
            about=look.tell,
            grant_id=news.grant_id,
            provider=news.provider,
            tries=told.tries + 1,
        )
        try:
            words = await self.way.tell(news)
        except NotDelivered as error:
            told, again = policy.failed(told, self._store.clock(), random.random())
            self._failures += 1
            self.heart.trouble = f"notices are not taken: {error}; they are sent again until they are"
            self._metrics.notices.labels(way, "failed").inc()
            line.warning("notice.failed", error=str(error), next_in=(again - self._store.clock()) / 1000)
            await self._notices.note(way, leased, told.record(), again)
            return False
        self._failures, self.heart.trouble = 0, ""
        self._metrics.notices.labels(way, "sent").inc()
        line.info("notice.sent", detail=words)
        told, look_at = policy.sent(condition, self._store.clock())
        await self._notices.note(way, leased, told.record(), look_at)
        return True
