"""Wire the notices: one sender for each channel that the settings name, and the scanner that finds problems."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from broker.notify.channels.channel import NotDelivered
from broker.notify.channels.command import Command, require_program
from broker.notify.channels.webhook import Webhook, webhook_secret
from broker.notify.notice import Notice
from broker.notify.policy import Limits, Problem, ending_condition, warning_level
from broker.notify.scanner import Scanner
from broker.notify.sender import Sender
from broker.notify.subscribers import Subscribers
from broker.process.heartbeat import Heartbeat
from broker.providers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from broker.model import Grant
    from broker.notify.channels.channel import Channel
    from broker.process.metrics import Metrics
    from broker.settings import Notify, Outgoing
    from broker.store import Store


@dataclass(frozen=True, slots=True)
class TestResult:
    """The result of a test notice through one channel."""

    channel: str
    delivered: bool
    detail: str


class Notifier:
    """All senders and the scanner that feeds them."""

    def __init__(
        self,
        senders: Sequence[Sender],
        scanner: Scanner,
        channels: Sequence[Channel],
        limits: Mapping[str, Limits],
        clock: Callable[[], int],
    ) -> None:
        """Wire them.

        Args:
            senders: one for each channel, and one for subscribers.
            scanner: finds what the senders notify of.
            channels: those that reach people; subscribers are not among them.
            limits: how long the grants of each provider live.
            clock: returns epoch ms.
        """
        self._senders = senders
        self._scanner = scanner
        self._channels = channels
        self._limits = limits
        self._clock = clock
        self.check_soon = scanner.check_soon
        self.heartbeats = [scanner.heartbeat, *(sender.heartbeat for sender in senders)]

    async def run(self, stopping: asyncio.Event) -> None:
        """Notify until *stopping* is set."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._scanner.run(stopping), name=self._scanner.heartbeat.name)
            for sender in self._senders:
                loops.create_task(sender.run(stopping), name=sender.heartbeat.name)

    def ends_soon(self, grant: Grant) -> bool:
        """Return whether a person must log in again soon: the condition of `reauthorize_soon`."""
        limits = self._limits.get(grant.provider, Limits())
        return isinstance(ending_condition(grant, limits, self._clock()), Problem)

    def warning_level(self, provider: str, granted_at: int, by: int, limit: int | None) -> int:
        """Return how near the end *by* (epoch ms) is: 0, 1 within two weeks, 2 within three days."""
        return warning_level(granted_at, by, limit, self._limits.get(provider, Limits()), self._clock())

    async def test(self) -> list[TestResult]:
        """Send a test notice through every channel that reaches people, all at once."""
        return list(await asyncio.gather(*(self._test(channel) for channel in self._channels)))

    async def _test(self, channel: Channel) -> TestResult:
        try:
            response = await channel.send(Notice(f"msg_{secrets.token_hex(12)}", "test", self._clock()))
        except NotDelivered as error:
            return TestResult(channel.name, delivered=False, detail=str(error))
        return TestResult(channel.name, delivered=True, detail=response)


@asynccontextmanager
async def open_notifier(
    settings: Notify, outgoing: Outgoing, store: Store, limits: Mapping[str, Limits], metrics: Metrics
) -> AsyncIterator[Notifier]:
    """Open the channels that *settings* name, and the one to subscribers. *outgoing* has a proxy for the webhook.

    Raises:
        InvalidSettings: one of the channels cannot work.
    """
    timeout = settings.timeout.total_seconds()
    channels: list[Channel] = []
    async with aiohttp.ClientSession() as session:
        if settings.webhook is not None:
            secret = webhook_secret(settings.secret_file) if settings.secret_file else None
            proxy = Proxy.from_settings("notify", settings, outgoing)
            channels.append(Webhook(session, settings.webhook, secret, store.clock, timeout, proxy=proxy))
        if settings.command:
            channels.append(Command(require_program(settings.command), timeout))
        wanted = [(channel, settings.events) for channel in channels] + [(Subscribers(store), ["reauthorize_soon"])]
        senders = [
            Sender(
                channel,
                store,
                limits,
                events=events,
                metrics=metrics,
                heartbeat=Heartbeat(f"notices {channel.name}"),
                timeout=timeout,
            )
            for channel, events in wanted
        ]
        for channel in channels:
            for outcome in ("sent", "failed"):
                metrics.notices.labels(channel.name, outcome)  # at zero, so that the first event shows
        scanner = Scanner(store, limits, senders, Heartbeat("notices sweep"))
        yield Notifier(senders, scanner, channels, limits, store.clock)
