"""Open the channels that the settings name, with the secrets that their files hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import InvalidSettings
from broker.notify.channels import chat
from broker.notify.channels.command import Command, require_program
from broker.notify.channels.incidents import REPEAT_MS, Source, alertmanager, pagerduty
from broker.notify.channels.mail import Mail, Server
from broker.notify.channels.receiver import Receiver
from broker.notify.channels.services import Service
from broker.notify.channels.webhook import Webhook, webhook_secret
from broker.notify.timing import Quiet, Timing
from broker.process.data_dir import secret_line
from broker.secret import Secret
from broker.settings.channels import KEYS, parse_quiet, require_url, zone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    import aiohttp

    from broker.notify.channels.channel import Channel
    from broker.notify.notice import Notice
    from broker.providers.proxy import Proxy
    from broker.settings import NoticeChannel

_PAGERDUTY = "https://events.pagerduty.com"


class Opener:
    """Make channels that share a session, a clock, a time limit and a proxy."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        clock: Callable[[], int],
        timeout: float,
        *,
        proxy: Proxy | None,
        page: str | None,
    ) -> None:
        """Prepare to make them.

        Args:
            session: the HTTP session to use.
            clock: returns epoch ms.
            timeout: of one delivery, in seconds.
            proxy: on the way to services.
            page: URL of the status page; None: it has none.
        """
        self._session = session
        self._clock = clock
        self.timeout = timeout
        self._proxy = proxy
        self._source = Source(page)

    def webhook(self, url: str, secret: bytes | None, name: str = "webhook") -> Webhook:
        """Make a webhook, which signs what it sends if it has a *secret*."""
        return Webhook(self._receiver(url), secret, self._clock, name=name)

    def open(self, name: str, channel: NoticeChannel) -> Channel:
        """Make the *channel* of the settings with this *name*.

        Raises:
            InvalidSettings: a file cannot be used, or a program cannot be run.
        """
        key = f"notify.channels.{name}"
        if channel.kind == "command":
            require_program(channel.command, f"{key}.command")
            return Command(channel.command, self.timeout, name=name, text=channel.format == "text")
        url = _url(key, channel)
        if channel.kind == "webhook":
            secret = webhook_secret(channel.key_file, f"{key}.key_file") if channel.key_file else None
            return self.webhook(url, secret, name)
        own = _own_key(key, channel)
        if channel.kind == "mail":
            user, _, password = own.reveal().partition(":") if own else ("", "", "")
            server = Server(
                url,
                channel.sender or "",
                channel.to,
                login=(user, password) if own else None,
                plain=channel.allow_http,
            )
            return Mail(name, server, self.timeout)
        address, form = self._form(channel.kind, url, own)
        token = own if channel.kind in {"ntfy", "alertmanager"} else None
        return Service(name, self._receiver(address), form, token=token)

    def _receiver(self, url: str) -> Receiver:
        return Receiver(self._session, url, self.timeout, proxy=self._proxy)

    def _form(self, kind: str, url: str, own: Secret | None) -> tuple[str, Callable[[Notice], Iterable[Any]]]:
        """Return where a service gets its POSTs, and what makes their bodies."""
        base, source = url.rstrip("/"), self._source
        match kind:
            case "slack":
                return url, lambda notice: [chat.slack(notice)]
            case "teams":
                return url, lambda notice: [chat.teams(notice)]
            case "ntfy":
                above, _, topic = base.rpartition("/")
                return above, lambda notice: [chat.ntfy(notice, topic)]
            case "pagerduty":
                routing_key = own.reveal() if own else ""
                return f"{base}/v2/enqueue", lambda notice: pagerduty(notice, routing_key, source)
            case _:
                return f"{base}/api/v2/alerts", lambda notice: alertmanager(notice, source, self._clock())


def timing(channel: NoticeChannel) -> Timing:
    """Return when the notices of a channel are sent."""
    quiet = None
    if channel.quiet is not None:
        quiet = Quiet(*parse_quiet(channel.quiet), zone(channel.time_zone))
    return Timing(int(channel.group.total_seconds() * 1000), quiet, REPEAT_MS.get(channel.kind))


def require_channel(name: str, channel: NoticeChannel) -> None:
    """Check that the files and the program of a channel can be used.

    Raises:
        InvalidSettings: one cannot. The message quotes no secret.
    """
    key = f"notify.channels.{name}"
    if channel.kind == "command":
        require_program(channel.command, f"{key}.command")
        return
    _url(key, channel)
    if channel.kind == "webhook" and channel.key_file is not None:
        webhook_secret(channel.key_file, f"{key}.key_file")
    else:
        _own_key(key, channel)


def _url(key: str, channel: NoticeChannel) -> str:
    if channel.url_file is None:
        return channel.url or _PAGERDUTY
    url = secret_line(f"{key}.url_file", channel.url_file, "write the URL into it, and nothing else", "other").strip()
    try:
        return require_url(channel.kind, url, allow_http=channel.allow_http)
    except ValueError as error:
        raise InvalidSettings(f"{key}.url_file: {channel.url_file}: the URL {error}") from None


def _own_key(key: str, channel: NoticeChannel) -> Secret | None:
    """Return what `key_file` holds; None without one."""
    if channel.key_file is None:
        return None
    cure = f"write {KEYS[channel.kind]} into it, and nothing else"
    secret = secret_line(f"{key}.key_file", channel.key_file, cure, "other").strip()
    if channel.kind == "mail" and ":" not in secret:
        raise InvalidSettings(f"{key}.key_file: {channel.key_file} has no colon: {cure}")
    if not secret.isascii() or not secret.isprintable():
        raise InvalidSettings(f"{key}.key_file: {channel.key_file} holds other characters than a key has: {cure}")
    return Secret(secret)
