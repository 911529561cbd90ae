"""The settings of one named channel for notices: which service, where it is, and when it may be disturbed."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, time, timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from broker.model import NoticeEvent
from broker.settings.values import (
    Duration,
    Section,
    matching,
    plain_beyond_loopback,
    require_web_url,
)

Kind = Literal["slack", "teams", "ntfy", "pagerduty", "alertmanager", "mail", "webhook", "command"]
T = TypeVar("T")
RESERVED_NAMES = frozenset({"webhook", "command", "subscribers", "sweep"})
"""Names that the broker itself keeps records under."""
KEYS = {
    "ntfy": "an access token",
    "pagerduty": "the integration key of the service",
    "alertmanager": "a bearer token",
    "mail": "USER:PASSWORD",
    "webhook": "the secret that signs each POST",
}
"""What `key_file` holds, by kind; the other kinds have none."""
_ADDRESS = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+"
Address = Annotated[str, matching(_ADDRESS, 'must be a mail address, such as "ops@example.com"')]
ChannelName = Annotated[
    str,
    matching(
        "(?!" + "|".join(f"{name}$" for name in sorted(RESERVED_NAMES)) + ")[a-z0-9][a-z0-9_-]{0,31}",
        "must begin with a small letter or digit; then small letters, digits, '_' or '-' may follow, at most 32 in "
        f"all; not {', '.join(sorted(RESERVED_NAMES))}",
    ),
]


class Quiet(tuple[time, time]):
    """The beginning and the end of quiet hours, in local time; an end before the beginning is on the next day."""

    __slots__ = ()


def _quiet(value: Any) -> Any:
    try:
        first, last = (time.fromisoformat(part.strip()) for part in value.split("-"))
        good = first != last and not (first.tzinfo or last.tzinfo)
    except (AttributeError, TypeError, ValueError):
        good = False
    if not good:
        raise ValueError('must be two different times of day, such as "22:00-07:00"')
    return value


def parse_quiet(text: str) -> Quiet:
    """Parse quiet hours that the settings have accepted."""
    return Quiet(time.fromisoformat(part.strip()) for part in text.split("-"))


def zone(name: str) -> tzinfo:
    """Return a time zone by its name; UTC needs no database.

    Raises:
        ZoneInfoNotFoundError, ValueError, OSError: this system does not know it.
    """
    return UTC if name == "UTC" else zoneinfo.ZoneInfo(name)


def _time_zone(name: str) -> str:
    try:
        zone(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            'must be a time zone that this system knows, such as "Europe/Berlin" or "UTC"; a system without the IANA '
            "database needs its package tzdata"
        ) from None
    return name


def _service_url(kind: str, url: str) -> None:
    """Require a URL that fits the *kind* of channel.

    Raises:
        ValueError: it does not fit. The message never quotes it.
    """
    if kind == "mail":
        if not _is_mail_server(url):
            raise ValueError(
                'must be "smtp://HOST:PORT" (STARTTLS) or "smtps://HOST:PORT" (TLS from the start), without user and '
                "password: key_file has them"
            )
        return
    require_web_url(url)
    if kind == "ntfy" and not urlsplit(url).path.strip("/"):
        raise ValueError('must end with the topic, such as "https://ntfy.sh/my-topic"')


def _is_mail_server(url: str) -> bool:
    """Return whether *url* names a mail server: scheme, host and perhaps a port, and nothing else."""
    try:
        parts = urlsplit(url)
        server = parts.scheme in {"smtp", "smtps"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return server and parts.path in {"", "/"} and not any(sign in url for sign in "@?# ") and url.isprintable()


def require_url(kind: str, url: str, *, allow_http: bool) -> str:
    """Return the *url* of a channel, from the settings or from a file, if a notice may be sent there.

    Raises:
        ValueError: it may not. The message never quotes it, since it may be a secret.
    """
    _service_url(kind, url)
    if not allow_http and plain_beyond_loopback(url):
        raise ValueError("uses plain HTTP beyond loopback: use https, or set allow_http = true for this channel")
    return url


class NoticeChannel(Section):
    """One service that gets notices."""

    kind: Kind = Field(examples=["slack"], description="the service, or the form of the notice")
    allow_http: bool = Field(
        default=False, description="confirm that this channel may use plain HTTP, or mail without TLS, beyond loopback"
    )
    url: str | None = Field(
        default=None,
        examples=["https://ntfy.sh/my-topic"],
        description="where the service is: the webhook's URL, ntfy's URL with its topic, Alertmanager's URL, or "
        "smtp:// or smtps:// with host and port",
    )
    url_file: Path | None = Field(
        default=None,
        examples=["slack_url"],
        description="file (mode 0600) with that URL, where the URL itself is a secret, as those of Slack and Teams are",
    )
    key_file: Path | None = Field(
        default=None,
        examples=["pagerduty_key"],
        description="file (mode 0600) with PagerDuty's integration key, a token of ntfy or Alertmanager, USER:PASSWORD "
        "for mail, or the whsec_ secret of a webhook",
    )
    command: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[], description="of a command: program and arguments; the notice is on its standard input"
    )
    format: Literal["json", "text"] = Field(
        default="json",
        description="of a command: what it reads; text is what people read, for programs such as apprise",
    )
    sender: Address | None = Field(
        default=None, examples=["token-broker@example.com"], description="of mail: the address in From"
    )
    to: list[Address] = Field(default=[], description="of mail: the addresses that get it")
    events: list[NoticeEvent] = Field(
        default=list(get_args(NoticeEvent)), description="events that cause a notice here"
    )
    group: Annotated[Duration, Field(le=timedelta(hours=1))] = Field(
        default=timedelta(seconds=30),
        description="how long to wait for more of the same at one provider, so that one notice names them all",
    )
    quiet: Annotated[str, BeforeValidator(_quiet)] | None = Field(
        default=None,
        examples=["22:00-07:00"],
        description="hours in which only what is urgent is sent; the rest waits for their end, unless it ends by then",
    )
    time_zone: Annotated[str, AfterValidator(_time_zone)] = Field(
        default="UTC", description="time zone of quiet, by its name in the IANA database"
    )

    @field_validator("url")
    @classmethod
    def _fits_its_kind(cls, url: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind")
        if url is None or kind is None:
            return url
        if kind == "command":
            raise ValueError("does not belong to a command: remove it")
        return require_url(kind, url, allow_http=info.data.get("allow_http", True))

    @field_validator("url_file")
    @classmethod
    def _one_url(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        kind, url = info.data.get("kind"), info.data.get("url")
        if kind is None or "url" not in info.data:
            return file
        if file is not None and (url is not None or kind == "command"):
            raise ValueError("does not belong beside url, or to a command: remove one of them")
        if file is None and url is None and kind not in {"command", "pagerduty"}:
            raise ValueError(f"is missing, and so is url: set one of them, {kind} needs to know where to send")
        return file

    @field_validator("key_file")
    @classmethod
    def _has_a_use(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        kind = info.data.get("kind")
        if file is None and kind == "pagerduty":
            raise ValueError(f"is missing: write {KEYS[kind]} (Events API v2) into a file and name it here")
        if file is not None and kind is not None and kind not in KEYS:
            raise ValueError(f"means nothing for {kind}: remove it")
        return file

    @field_validator("command")
    @classmethod
    def _of_a_command(cls, command: list[str], info: ValidationInfo) -> list[str]:
        return _belongs("command", command, info, 'command = ["/usr/local/bin/page-someone"]')

    @field_validator("sender")
    @classmethod
    def _from_somebody(cls, sender: str | None, info: ValidationInfo) -> str | None:
        return _belongs("mail", sender, info, 'sender = "token-broker@example.com"')

    @field_validator("to")
    @classmethod
    def _to_somebody(cls, to: list[str], info: ValidationInfo) -> list[str]:
        return _belongs("mail", to, info, 'to = ["ops@example.com"]')


def _belongs(kind: str, value: T, info: ValidationInfo, line: str) -> T:
    """Return *value* if a channel of this *kind* has one, and no other channel."""
    own = info.data.get("kind", kind)
    if own == kind and not value and "kind" in info.data:
        raise ValueError(f"is missing: write {line}")
    if own != kind and value:
        raise ValueError(f'means nothing for {own}: remove it, or set kind = "{kind}"')
    return value
