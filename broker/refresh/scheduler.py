"""One bounded lane per provider: claims what is due, no more than it has free, and refreshes it.

A provider that hangs fills its own lane and nobody else's, and one that fails narrows it. Knows of an outcome only
whether the server did its part.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog

from broker.errors import StoreUnavailable, WrongStore
from broker.model import Commit, Park, Postpone
from broker.process.tasks import begin, finish
from broker.refresh.concurrency import Width
from broker.store import MOST_TOGETHER
from broker.token_answer import message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.journal.journal import Journal
    from broker.journal.replay import Replay
    from broker.model import Claim
    from broker.process.heartbeat import Heartbeat
    from broker.read.activity import ReadActivity
    from broker.refresh.refresher import Refresher
    from broker.store import Claimed, Store

log = structlog.get_logger()

IDLE_PAUSE = 2.0
"""Seconds between two claims when nothing is known to fall due: bounds how late another replica's loss is seen."""
GATHER = 0.002
"""Seconds that a busy lane waits for more of its slots to come free: one claim fills them together."""
MOST_TELLING = MOST_TOGETHER
"""Answers of one lane that may wait to be written down: as many as go to Redis together."""
STORE_PAUSE = 1.0
"""Seconds between two claims while Redis does not answer."""


def urgent(claim: Claim) -> bool:
    """Whether a claim comes so late that callers may be without a token soon, or are: half of its margin is gone."""
    if claim.expires_at is None or claim.expires_at <= claim.claimed_at:
        return True
    return claim.claimed_at - claim.due_at > (claim.expires_at - claim.due_at) / 2


class Lane:
    """The refreshes of one provider, at most `concurrency` in flight, fewer where it cannot take so many."""

    def __init__(
        self,
        provider: str,
        store: Store,
        refresher: Refresher,
        replay: Replay,
        journal: Journal | None,
        heartbeat: Heartbeat,
        reads: ReadActivity,
        *,
        concurrency: int,
        lease_ms: int,
    ) -> None:
        self.provider = provider
        self._store = store
        self._schedule = store.schedule
        self._refresher = refresher
        self._replay = replay
        self._journal = journal
        self._heartbeat = heartbeat
        self._reads = reads
        self._width = Width(concurrency)
        self._lease_ms = lease_ms
        self._asking: set[str] = set()
        self._telling: set[str] = set()
        """Attempts that were answered and are being written down."""
        self._passed_over = 0
        """Grants with a living token that were passed over in looking for others: where to look on."""
        self._woken = asyncio.Event()
        self._urgent = False
        """What was claimed last was late, and so is what is due after it."""
        self._store_lost = False
        self._not_ours = False
        """It answered, but with nothing of ours: whoever brings our data back may bring an old state of it."""

    def wake(self) -> None:
        """Look again at once: something was made due."""
        self._woken.set()

    async def run(self, stopping: asyncio.Event, refreshes: asyncio.TaskGroup) -> None:
        """Claim and refresh until *stopping*; the refreshes then under way are the task group's to await."""
        stop = asyncio.ensure_future(stopping.wait())
        stop.add_done_callback(lambda _: self.wake())
        try:
            while not stopping.is_set():
                await self.step(refreshes)
        finally:
            stop.cancel()

    async def step(self, refreshes: asyncio.TaskGroup) -> None:
        """One claim, and the pause until the next."""
        self._woken.clear()
        portion = await self._portion()
        pause = IDLE_PAUSE
        if self._free > 0:
            pause = await self._claim(min(self._free, portion), refreshes)
        self._heartbeat.signal()
        if pause > 0:
            try:
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _portion(self) -> int:
        """How many to claim at once, when it is time to: one by one while callers would feel more."""
        if self._reads.recent and not self._urgent:
            await self._reads.yield_to_reads()
            return 1
        if self._asking and self._free < self._width.portion:
            await asyncio.sleep(GATHER)
        return self._width.portion

    @property
    def _free(self) -> int:
        # No more is asked for than can be written down: what waits for that too long is asked for again by another.
        return int(self._width) - len(self._asking) - max(0, len(self._telling) - MOST_TELLING)

    async def _claim(self, n: int, refreshes: asyncio.TaskGroup) -> float:
        try:
            # Without a disk for the answer we do not ask, but for grants that have nothing valid left.
            journaling = self._journal is None or await self._journal.probe()
            claimed = await self._schedule.claim(
                self.provider, n, self._lease_ms, expired_after=None if journaling else self._passed_over
            )
            self._passed_over = claimed.passed_over
            self._urgent = any(urgent(claim) for claim in claimed.claims)
            if claimed.claims:
                self._asking |= {claim.attempt for claim in claimed.claims}
                begun = [begin(self._refresh(claim)) for claim in claimed.claims]
                refreshes.create_task(finish(asyncio.gather(*begun)), name=f"refreshes of {self.provider}")
            await self._attend(claimed)
        except StoreUnavailable as error:
            if not self._store_lost:
                log.error("store.lost", provider=self.provider, error=str(error))
            self._store_lost = True
            self._not_ours = self._not_ours or isinstance(error, WrongStore)
            self._heartbeat.trouble = str(error)
            return STORE_PAUSE
        self._heartbeat.trouble = ""
        pause = IDLE_PAUSE if journaling else STORE_PAUSE
        more = journaling or claimed.claims or claimed.passed_over
        return min(pause, claimed.wait_ms / 1000) if more else pause

    async def _refresh(self, claim: Claim) -> None:
        began, step = time.monotonic(), None
        try:
            step = await self._refresher.refresh(claim, partial(self._answered, claim.attempt, began))
        finally:
            self._asking.discard(claim.attempt)
            self._telling.discard(claim.attempt)
            if isinstance(step, Postpone) and step.lane == "ailing":
                self._width.failed(began, time.monotonic())
            elif isinstance(step, Commit | Park):
                self._width.succeeded(began)
            self._woken.set()

    async def _attend(self, claimed: Claimed) -> None:
        """What a claim brought besides grants."""
        if claimed.fenced is not None:
            await self._replay.fence(claimed.fenced, self._heartbeat)
        if self._store_lost:
            tell = self._replay.everything if self._not_ours else self._replay.unrecorded
            await tell(self._heartbeat)
            log.info("store.found", provider=self.provider)
            self._not_ours = False
            self._store_lost = False
        if claimed.set_back:
            log.warning("clock.set_back", provider=self.provider)
            await self._schedule.rewind(self.provider, self._lease_ms)
        for claim in claimed.unreadable:
            await self._park_unreadable(claim)

    def _answered(self, attempt: str, began: float) -> None:
        """A token request was answered: its slot is free while the answer is written down."""
        self._width.answered(began, time.monotonic())
        self._asking.discard(attempt)
        self._telling.add(attempt)
        self._woken.set()

    async def _park_unreadable(self, claim: Claim) -> None:
        detail = "no key in sealing.keys_file opens it: put the old key back, then retry"
        step = Park(claim, "unreadable", "sealed_with_missing_key", detail, "refresh_failing")
        failing = message("refresh_failing", claim.grant_id, claim.provider, claim.generation, reason=step.reason)
        await self._schedule.park(step, failing, counts=False)
        log.error("grant.parked", grant_id=claim.grant_id, reason=step.reason, detail=detail)


class Scheduler:
    """All lanes."""

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self._lanes = {lane.provider: lane for lane in lanes}

    def wake(self, provider: str) -> None:
        """Something of *provider* was made due here."""
        if lane := self._lanes.get(provider):
            lane.wake()

    async def run(self, stopping: asyncio.Event) -> None:
        """Run every lane until *stopping*, then see the refreshes under way to their end."""
        async with asyncio.TaskGroup() as refreshes, asyncio.TaskGroup() as lanes:
            for lane in self._lanes.values():
                lanes.create_task(lane.run(stopping, refreshes), name=f"lane {lane.provider}")
            lanes.create_task(stopping.wait())  # with no provider there is nothing else to wait for
