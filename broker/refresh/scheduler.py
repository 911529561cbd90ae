"""Claim due grants of each provider, as many as its lane has free slots for, and refresh them.

There is one bounded lane for each provider: a provider that hangs fills its own lane only, and one that fails narrows
it. Knows of an outcome only whether the server did its part.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog

from broker.errors import DamagedSchedule, StoreUnavailable, WrongStore
from broker.model import Commit, Park, Postpone
from broker.process.tasks import begin, finish
from broker.refresh.concurrency import BatchSize, ConcurrencyLimit
from broker.refresh.idle import IdleLanes
from broker.store import MOST_TOGETHER
from broker.store.damaged import NO_HASH
from broker.token_answer import message

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.journal.journal import Journal
    from broker.journal.replay import Replay
    from broker.model import Claim
    from broker.process.heartbeat import Heartbeat
    from broker.providers import Endpoint
    from broker.read.activity import ReadActivity
    from broker.refresh.refresher import Refresher
    from broker.store import Claimed, Schedule, Store

log = structlog.get_logger()

IDLE_PAUSE = 2.0
"""Seconds between two claims when nothing is known to fall due: bounds how late another replica's loss is seen."""
SLOT_PAUSE = 0.002
"""Seconds that a busy lane waits for more of its slots to come free, so that one claim fills them together: saves 5 %
of the CPU of a refresh (`python -m tests.benchmarks.tricks gather gather-0ms`)."""
MOST_COMMITTING = MOST_TOGETHER
"""Answers of one lane that may wait to be recorded: as many as go to Redis together."""
STORE_PAUSE = 1.0
"""Seconds between two claims while Redis does not answer."""


def is_urgent(claim: Claim) -> bool:
    """Return whether a claim comes so late that callers are, or may soon be, without a token.

    That is so when half of the time between its due time and the end of its token is gone.
    """
    if claim.expires_at is None or claim.expires_at <= claim.claimed_at:
        return True
    return claim.claimed_at - claim.due_at > (claim.expires_at - claim.due_at) / 2


class Lane:
    """The refreshes of one provider, at most `concurrency` in flight, fewer while it cannot take so many."""

    def __init__(
        self,
        endpoint: Endpoint,
        store: Store,
        *,
        refresher: Refresher,
        replay: Replay,
        journal: Journal | None,
        heartbeat: Heartbeat,
        read_activity: ReadActivity,
        concurrency: int,
        lease_ms: int,
    ) -> None:
        self.provider = endpoint.dialect.name
        self.endpoint = endpoint
        """What the next request is sent by; one under way ends with the endpoint that it began with."""
        self._store = store
        self._schedule = store.schedule
        self._refresher = refresher
        self._replay = replay
        self._journal = journal
        self._heartbeat = heartbeat
        self._read_activity = read_activity
        self._limit = ConcurrencyLimit(concurrency)
        self._batch_size = BatchSize()
        self._lease_ms = lease_ms
        self._in_flight: set[str] = set()
        """Attempts whose token request has not been answered."""
        self._committing: set[str] = set()
        """Attempts that were answered and are being recorded."""
        self._passed_over = 0
        """How many grants with a living token the search for expired ones has passed over: it goes on behind them."""
        self._woken = asyncio.Event()
        self._ended = False
        self.may_rest = False
        """Whether somebody wakes this lane when it may have something to claim, so that it need not poll."""
        self.rests_since: float | None = None
        """Since when it waits to be woken, monotonic seconds."""
        self._urgent = False
        """What was claimed last was late, and so is what is due after it."""
        self._store_lost = False
        self._wrong_store = False
        """Redis answered without the data of this store: whoever puts it back may put back an old state of it."""

    def wake(self) -> None:
        """Claim again at once: something was made due."""
        self._woken.set()

    def signal(self) -> None:
        """Signal the heartbeat on behalf of this lane, which rests."""
        self._heartbeat.signal()

    def end(self) -> None:
        """Claim nothing any more: the provider is gone from the settings."""
        self._ended = True
        self._woken.set()

    async def run(self, stopping: asyncio.Event, refreshes: asyncio.TaskGroup) -> None:
        """Claim and refresh until *stopping*, or `end`; the group awaits the refreshes that are then under way."""
        while not (self._ended or stopping.is_set()):
            await self.step(refreshes)

    async def step(self, refreshes: asyncio.TaskGroup) -> None:
        """Claim once, and pause until the next claim."""
        self._woken.clear()
        batch_size = await self._next_batch_size()
        pause = IDLE_PAUSE
        if self._free > 0:
            pause = await self._claim(min(self._free, batch_size), refreshes)
        self._heartbeat.signal()
        if pause > 0:
            await self._pause(pause)

    async def _pause(self, pause: float) -> None:
        """Wait so many seconds, or until something is to do; without a timer where this lane may rest."""
        rests = self.may_rest and pause >= IDLE_PAUSE and not self._in_flight
        self.rests_since = time.monotonic() if rests else None
        try:
            async with asyncio.timeout(None if rests else pause):
                await self._woken.wait()
        except TimeoutError:
            pass
        finally:
            self.rests_since = None

    async def _next_batch_size(self) -> int:
        """Wait until it is time for a claim, and return its size: one while callers would notice more."""
        if self._read_activity.recent and not self._urgent:
            await self._read_activity.yield_to_reads()
            return 1
        if self._in_flight and self._free < self._batch_size.within(int(self._limit)):
            await asyncio.sleep(SLOT_PAUSE)
        return self._batch_size.within(int(self._limit))

    @property
    def _free(self) -> int:
        # No more is requested than can be recorded: an answer that waits too long is requested again by another.
        return int(self._limit) - len(self._in_flight) - max(0, len(self._committing) - MOST_COMMITTING)

    async def _claim(self, n: int, refreshes: asyncio.TaskGroup) -> float:
        """Claim up to *n* grants and begin their refreshes; return the seconds until the next claim."""
        try:
            # Without a disk for the answer only grants that have nothing valid left are refreshed.
            journaling = self._journal is None or await self._journal.probe()
            claimed = await self._schedule.claim(
                self.provider, n, self._lease_ms, expired_after=None if journaling else self._passed_over
            )
            self._passed_over = claimed.passed_over
            self._urgent = any(is_urgent(claim) for claim in claimed.claims)
            if claimed.claims:
                self._in_flight |= {claim.attempt for claim in claimed.claims}
                begun = [begin(self._refresh(claim)) for claim in claimed.claims]
                refreshes.create_task(finish(asyncio.gather(*begun)), name=f"refreshes of {self.provider}")
            await self._attend(claimed)
        except DamagedSchedule as error:  # of this provider alone: `journal.lost` logs it
            self._heartbeat.trouble = f"{error}; {error.cure}"
            return STORE_PAUSE
        except StoreUnavailable as error:
            if not self._store_lost:
                log.error("store.lost", provider=self.provider, error=str(error), hint=error.cure)
            self._store_lost = True
            self._wrong_store = self._wrong_store or isinstance(error, WrongStore)
            self._heartbeat.lose_store(error, f"{error}; {error.cure}")
            return STORE_PAUSE
        self._heartbeat.trouble = ""
        pause = IDLE_PAUSE if journaling else STORE_PAUSE
        more = journaling or claimed.claims or claimed.passed_over
        return min(pause, claimed.wait_ms / 1000) if more else pause

    async def _refresh(self, claim: Claim) -> None:
        began, step = time.monotonic(), None
        try:
            step = await self._refresher.refresh(claim, self.endpoint, partial(self._answered, claim.attempt, began))
        finally:
            self._in_flight.discard(claim.attempt)
            self._committing.discard(claim.attempt)
            if isinstance(step, Postpone) and step.lane == "ailing":
                self._limit.failed(began, time.monotonic())
            elif isinstance(step, Commit | Park):
                self._limit.succeeded(began)
            self._woken.set()

    def _answered(self, attempt: str, began: float) -> None:
        """Free the slot of a token request that was answered, while the answer is recorded."""
        self._batch_size.answered(began, time.monotonic())
        self._in_flight.discard(attempt)
        self._committing.add(attempt)
        self._woken.set()

    async def _attend(self, claimed: Claimed) -> None:
        """Deal with what a claim brought besides grants."""
        if claimed.fenced is not None:
            await self._replay.fence(claimed.fenced, self._heartbeat)
        if self._store_lost:
            replay = self._replay.everything if self._wrong_store else self._replay.unrecorded
            await replay(self._heartbeat)
            log.info("store.found", provider=self.provider)
            self._wrong_store = False
            self._store_lost = False
        if claimed.set_back:
            log.warning("clock.set_back", provider=self.provider)
            await self._store.clock_steps.rewind(self.provider, self._lease_ms)
        for claim in claimed.unreadable:
            await self._park_unreadable(claim)
        for grant_id in claimed.damaged:
            log.error("grant.tampered", grant_id=grant_id, detail=NO_HASH)

    async def _park_unreadable(self, claim: Claim) -> None:
        reason, detail = (
            "sealed_with_missing_key",
            "no key in sealing.keys_file opens it: put the old key back, then retry",
        )
        outcome = "unreadable"
        if claim.tampered is not None:  # nothing of it is sent anywhere
            outcome, reason = "tampered", "tampered"
            detail = f"{claim.tampered}: find out who writes Redis, then log in again"
        step = Park(claim, outcome, reason, detail, "refresh_failing")
        failing = message("refresh_failing", claim.grant_id, claim.provider, claim.generation, reason=step.reason)
        await self._schedule.park(step, failing, counts=False)
        log.error("grant.parked", grant_id=claim.grant_id, reason=step.reason, detail=detail)


class Scheduler:
    """The lanes of all providers, which may come and go while it runs."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._lanes: dict[str, Lane] = {}
        self._begin: Callable[[Lane], None] | None = None
        """Runs one more lane; None while none runs."""

    def add(self, lane: Lane) -> None:
        """Run *lane* too."""
        self._lanes[lane.provider] = lane
        if self._begin is not None:
            self._begin(lane)

    def change(self, endpoint: Endpoint) -> None:
        """Have the lane of its provider send the next requests by *endpoint*."""
        self._lanes[endpoint.dialect.name].endpoint = endpoint
        self._lanes[endpoint.dialect.name].wake()

    def remove(self, provider: str) -> None:
        """End the lane of *provider*, which refreshes to the end what it has claimed."""
        self._lanes.pop(provider).end()

    def wake(self, provider: str) -> None:
        """Have the lane of *provider* claim at once: something was made due here."""
        if lane := self._lanes.get(provider):
            lane.wake()

    async def run(self, stopping: asyncio.Event) -> None:
        """Run every lane until *stopping*, then wait for the refreshes that are under way."""
        async with asyncio.TaskGroup() as refreshes, asyncio.TaskGroup() as lanes:

            def begin_lane(lane: Lane) -> None:
                lanes.create_task(lane.run(stopping, refreshes), name=f"lane {lane.provider}")

            for lane in self._lanes.values():
                begin_lane(lane)
            self._begin = begin_lane
            lanes.create_task(IdleLanes(self._lanes, self._schedule, IDLE_PAUSE).run(stopping), name="idle lanes")
            await stopping.wait()
            self._begin = None  # the group takes no more
            for lane in self._lanes.values():
                lane.wake()
