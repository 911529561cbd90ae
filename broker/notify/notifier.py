"""Wire the notices: one sender for each channel that the settings name, and the scanner that finds problems."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import aiohttp

from broker.notify.channels.channel import NotDelivered, deliver
from broker.notify.channels.command import Command, require_program
from broker.notify.channels.mail import Mail
from broker.notify.channels.opening import Opener
from broker.notify.channels.opening import timing as timing_of
from broker.notify.channels.webhook import webhook_secret
from broker.notify.grouped import GroupedSender
from broker.notify.notice import Notice, page_url
from broker.notify.policy import Limits, Problem, ending_condition, warning_level
from broker.notify.scanner import Scanner
from broker.notify.sender import Sender
from broker.notify.subscribers import Subscribers
from broker.process.heartbeat import Heartbeat
from broker.providers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from broker.model import Grant
    from broker.notify.channels.channel import Channel
    from broker.notify.timing import Timing
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
        *,
        page: str | None = None,
    ) -> None:
        """Wire them.

        Args:
            senders: one for each channel, and one for subscribers.
            scanner: finds what the senders notify of.
            channels: those that reach people; subscribers are not among them.
            limits: how long the grants of each provider live.
            clock: returns epoch ms.
            page: URL of the status page; None: it has none.
        """
        self._senders = senders
        self._scanner = scanner
        self._channels = channels
        self._limits = limits
        self._clock = clock
        self._page = page
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
            notice = Notice(f"msg_{secrets.token_hex(12)}", "test", self._clock(), url=page_url(self._page, None, None))
            response = await deliver(channel, notice)
        except NotDelivered as error:
            return TestResult(channel.name, delivered=False, detail=str(error))
        return TestResult(channel.name, delivered=True, detail=response)


@asynccontextmanager
async def open_notifier(
    settings: Notify,
    outgoing: Outgoing,
    store: Store,
    limits: Mapping[str, Limits],
    metrics: Metrics,
    *,
    page: str | None = None,
) -> AsyncIterator[Notifier]:
    """Open the channels that *settings* name, and the one to subscribers.

    Args:
        settings: of the notices.
        outgoing: has a proxy on the way to receivers.
        store: what the notices are about, and what was sent.
        limits: how long the grants of each provider live.
        metrics: count the notices.
        page: URL of the status page; None: it has none.

    Raises:
        InvalidSettings: one of the channels cannot work.
    """
    timeout = settings.timeout.total_seconds()
    async with aiohttp.ClientSession() as session, AsyncExitStack() as closing:
        opener = Opener(
            session,
            store.clock,
            timeout,
            proxy=Proxy.from_settings("notify", settings, outgoing),
            page=page,
        )
        senders, subscribers = [], Subscribers(store)
        for channel, events, timing in [*_channels(settings, opener), (subscribers, ["reauthorize_soon"], None)]:
            make = Sender if timing is None else partial(GroupedSender, timing=timing)
            heartbeat = Heartbeat(f"notices {channel.name}")
            senders.append(
                make(
                    channel,
                    store,
                    limits,
                    events=events,
                    metrics=metrics,
                    heartbeat=heartbeat,
                    timeout=timeout,
                    page=page,
                )
            )
            if isinstance(channel, Mail):
                closing.callback(channel.close)
        channels = [sender.channel for sender in senders if sender.channel is not subscribers]
        for channel in channels:
            for outcome in ("sent", "failed"):
                metrics.notices.labels(channel.name, outcome)  # at zero, so that the first event shows
        scanner = Scanner(store, limits, senders, Heartbeat("notices sweep"))
        yield Notifier(senders, scanner, channels, limits, store.clock, page=page)


def _channels(settings: Notify, opener: Opener) -> Iterator[tuple[Channel, Sequence[str], Timing | None]]:
    """Yield each channel that reaches people, its events, and when it is disturbed; None: at once, without groups."""
    if settings.webhook is not None:
        secret = webhook_secret(settings.secret_file) if settings.secret_file else None
        yield opener.webhook(settings.webhook, secret), settings.events, None
    if settings.command:
        yield Command(require_program(settings.command), opener.timeout), settings.events, None
    for name, channel in settings.channels.items():
        yield opener.open(name, channel), channel.events, timing_of(channel)
