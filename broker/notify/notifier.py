"""Everything that tells, wired: a teller for each way that the settings name, and the sweep that brings them news."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from broker.notify.channels.channel import NotDelivered
from broker.notify.channels.command import Command, runnable
from broker.notify.channels.webhook import Webhook, webhook_secret
from broker.notify.notice import Notice
from broker.notify.policy import Limits, Problem, ending, nearness
from broker.notify.scanner import Scanner
from broker.notify.sender import Sender
from broker.notify.subscribers import Subscribers
from broker.process.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from broker.model import Grant
    from broker.notify.channels.channel import Channel
    from broker.process.metrics import Metrics
    from broker.settings import Notify
    from broker.store import Store


@dataclass(frozen=True, slots=True)
class TestResult:
    """What came of a test notice by one way."""

    way: str
    told: bool
    detail: str


class Notifier:
    """All tellers. *people*: the ways by which people are told, as against subscribers."""

    def __init__(
        self,
        tellers: Sequence[Sender],
        sweep: Scanner,
        people: Sequence[Channel],
        limits: Mapping[str, Limits],
        clock: Callable[[], int],
    ) -> None:
        self._tellers = tellers
        self._sweep = sweep
        self._people = people
        self._limits = limits
        self._clock = clock
        self.hint = sweep.hint
        self.hearts = [sweep.heart, *(teller.heart for teller in tellers)]

    async def run(self, stopping: asyncio.Event) -> None:
        """Tell until *stopping*."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._sweep.run(stopping), name=self._sweep.heart.name)
            for teller in self._tellers:
                loops.create_task(teller.run(stopping), name=teller.heart.name)

    def ends_soon(self, grant: Grant) -> bool:
        """Whether a person must log in again soon: what `reauthorize_soon` tells."""
        limits = self._limits.get(grant.provider, Limits())
        return isinstance(ending(grant, limits, self._clock()), Problem)

    def nearness(self, provider: str, granted_at: int, by: int) -> int:
        """How near the end *by* (epoch ms) is, by the same rule: 0, 1 within two weeks, 2 within three days."""
        return nearness(granted_at, by, self._limits.get(provider, Limits()), self._clock())

    async def test(self) -> list[TestResult]:
        """Send a test notice by every way that tells people, all at once."""
        return list(await asyncio.gather(*(self._test(way) for way in self._people)))

    async def _test(self, way: Channel) -> TestResult:
        try:
            words = await way.tell(Notice(f"msg_{secrets.token_hex(12)}", "test", self._clock()))
        except NotDelivered as error:
            return TestResult(way.name, told=False, detail=str(error))
        return TestResult(way.name, told=True, detail=words)


@asynccontextmanager
async def open_desk(
    settings: Notify, store: Store, limits: Mapping[str, Limits], metrics: Metrics
) -> AsyncIterator[Notifier]:
    """The ways that *settings* name, and subscribers. Raises `InvalidSettings` where one of them cannot work."""
    timeout = settings.timeout.total_seconds()
    people: list[Channel] = []
    async with aiohttp.ClientSession() as session:
        if settings.webhook is not None:
            secret = webhook_secret(settings.secret_file) if settings.secret_file else None
            people.append(Webhook(session, settings.webhook, secret, store.clock, timeout))
        if settings.command:
            people.append(Command(runnable(settings.command), timeout))
        tellers = [
            Sender(way, store, limits, events, metrics, heart=Heartbeat(f"notices {way.name}"), timeout=timeout)
            for way, events in [(way, settings.events) for way in people] + [(Subscribers(store), ["reauthorize_soon"])]
        ]
        for way in people:
            for outcome in ("sent", "failed"):
                metrics.notices.labels(way.name, outcome)  # at zero, so that the first event shows
        yield Notifier(
            tellers, Scanner(store, limits, tellers, Heartbeat("notices sweep")), people, limits, store.clock
        )
