"""The types of values in the settings: how each is spelled, and the error message for another spelling.

A message completes the sentence "KEY: …" and never holds the value, which may be a secret. A type that JSON Schema
has no word for names itself by `format`; the reference of the settings shows it.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from broker.model import GRANT_ID, RESERVED
from broker.settings.redis_url import parse_redis_url

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_LONGEST = timedelta(days=36500)
_TCP = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", re.ASCII)
_SOCKET_PATH_MAX = 103  # the smallest sun_path of the supported systems (macOS), less its NUL


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        seconds = float(match[1]) * _UNITS[match[2]]
        if seconds <= _LONGEST.total_seconds():
            return timedelta(seconds=seconds)
        raise ValueError(f"must be at most {_LONGEST.days}d")
    raise ValueError('must be a duration with its unit, such as "90s", "5m", "12h" or "14d"')


def spelled(duration: timedelta) -> str:
    """Return *duration* as the settings spell it, in the largest unit that divides it: `90s`, `5m`, `14d`."""
    milliseconds = duration // timedelta(milliseconds=1)
    if not milliseconds:
        return "0s"
    sizes = ((unit, round(seconds * 1000)) for unit, seconds in reversed(_UNITS.items()))
    return next(f"{milliseconds // size}{unit}" for unit, size in sizes if milliseconds % size == 0)


def _grace(value: object) -> object:
    if value == "forever":
        return value
    try:
        return _duration(value)
    except ValueError as error:
        raise ValueError(f'{error}, or "forever"') from None


def _positive(value: timedelta) -> timedelta:
    if not value:
        raise ValueError("must be longer than 0s")
    return value


def matching(pattern: str, words: str) -> AfterValidator:
    """Return a check that the whole text matches *pattern*, whose error message is *words*."""
    match = re.compile(pattern).fullmatch

    def check(value: str) -> str:
        if not match(value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


def _listen(value: str) -> str:
    if value.startswith("unix:/"):
        if len(value.removeprefix("unix:").encode()) > _SOCKET_PATH_MAX:
            raise ValueError(f"must be a shorter path: the path of a socket has at most {_SOCKET_PATH_MAX} bytes")
        return value
    match = _TCP.fullmatch(value)
    if match is None or int(match[2]) > 65535:
        raise ValueError(
            'must be an address and a port, such as "127.0.0.1:8080" or "[::1]:8080", or '
            '"unix:/run/token-broker/http.sock"'
        )
    return value


def host_of(address: str) -> str | None:
    """Return the host of an address to listen on; None for a socket."""
    return None if address.startswith("unix:") else address.rpartition(":")[0].strip("[]")


def _keepable(name: str) -> str:
    if name in {"code", "state", "iss"} or name.startswith("error"):
        raise ValueError(f'must not name "{name}", which belongs to the login itself')
    if name in RESERVED:
        raise ValueError(f'must not name "{name}", a member that the broker sets itself or never sends')
    return name


def _redis_url(value: str) -> str:
    if value != "embedded:":
        parse_redis_url(value)
    return value


def require_web_url(value: str) -> str:
    """Return *value* if it is a URL of a web server.

    Raises:
        ValueError: it is none.
    """
    try:
        url = urlsplit(value)
        good = url.scheme in {"http", "https"} and url.hostname and not url.username and (url.port or 1)
    except ValueError:
        good = False
    if not good or "#" in value or not value.isprintable() or " " in value:
        raise ValueError("must be an http:// or https:// URL without user, password or fragment")
    return value


def _window(value: object) -> object:
    try:
        first, second = (float(part) for part in value)  # type: ignore[attr-defined]  # the file may hold anything
        good = 0 < first <= second < 1
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError("must be two fractions of a token's lifetime, 0 < first <= second < 1, such as [0.70, 0.85]")
    return value


def choices(annotation: Any) -> tuple[str, ...]:
    """Return the words that a setting of this type may hold; empty where it may hold others."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for part in get_args(annotation) if (found := choices(part))), ())


def plain_beyond_loopback(url: str) -> bool:
    """Return whether *url* is http to another host."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in LOOPBACK


def require_account_url(template: str, *, allow_http: bool) -> str:
    """Return a URL that may hold members of a token response in braces, `https://{a.b}/users/self`.

    Raises:
        ValueError: it is no such URL, or sends the token over plain HTTP beyond loopback.
    """
    if re.search(r"[{}]", re.sub(r"\{[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\}", "1", template)):
        raise ValueError("must hold members of the token response as {member} or {member.member}")
    url = require_web_url(re.sub(r"\{[^{}]*\}", "1", template))
    if plain_beyond_loopback(url) and not allow_http:
        raise ValueError("uses plain HTTP beyond loopback: use https, or set allow_http = true for this provider")
    return template


def _format(name: str) -> Any:
    return Field(json_schema_extra={"format": name})


Duration = Annotated[timedelta, BeforeValidator(_duration), _format("duration")]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Grace = Annotated[timedelta | Literal["forever"], BeforeValidator(_grace)]
Window = Annotated[tuple[float, float], BeforeValidator(_window)]
Pattern = Annotated[
    str,
    matching(
        r"[A-Za-z0-9._*?-]{1,128}",
        'must be a pattern of grant ids, such as "acme-*" ("*" matches any text, "?" any character)',
    ),
    _format("pattern"),
]
Name = Annotated[
    str,
    matching(
        GRANT_ID.pattern,
        "must begin with a letter or digit; then letters, digits, '.', '_' or '-' may follow, at most 128 in all",
    ),
]
ResponsePath = Annotated[
    str,
    matching(
        r"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}",
        'must be names of members joined by dots, such as "authed_user" or "data.token"',
    ),
]
CallbackParameter = Annotated[
    str,
    matching(
        r"[A-Za-z0-9._~-]{1,64}",
        'must be the name of a callback parameter, such as "realmId"',
    ),
    AfterValidator(_keepable),
]
RedisUrl = Annotated[str, AfterValidator(_redis_url), _format("URL")]
Listen = Annotated[str, AfterValidator(_listen), _format("address")]
WebUrl = Annotated[str, AfterValidator(require_web_url), _format("URL")]
AccountUrl = Annotated[str, _format("URL")]


class Section(BaseModel):
    """A table of the settings file. Unknown keys are errors; values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True)
