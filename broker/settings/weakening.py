"""The settings that weaken what protects tokens: each is a word of its own, and this is the list of them.

`SECURITY.md` shows it. A setting that lets something weaker through belongs here, and in `check`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from broker.settings.redis_url import parse_redis_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.settings.redis_url import RedisLocation

_NO = frozenset({"0", "f", "false", "n", "no"})


@dataclass(frozen=True, slots=True)
class Word:
    """One word, and what it lets through."""

    setting: str
    """Its place, `NAME` standing for any; or an option of `redis.url`, behind a blank."""
    value: str
    """As it stands in the settings file."""
    costs: str
    instead: str


WORDS = (
    Word("http.allow_plain_http", "true", "keys and tokens cross a network in clear", "TLS in front"),
    Word("redis.allow_plain", "true", "`check` accepts a Redis beyond this host without TLS", "`rediss://`"),
    Word(
        "redis.url ssl_cert_reqs",
        "none",
        "whoever stands between takes Redis's place, and gets its password",
        "`ssl_ca_certs=FILE`",
    ),
    Word(
        "redis.url ssl_check_hostname",
        "false",
        "any certificate of the same authority is taken for Redis's",
        "`ssl_server_name=NAME`",
    ),
    Word(
        "providers.NAME.allow_http",
        "true",
        "refresh tokens and the client secret cross a network in clear",
        "https endpoints",
    ),
    Word(
        "providers.NAME.state",
        '"optional"',
        "a callback may lack `state`: the cookie and a confirmation bind it to a login",
        'state = "required"',
    ),
    Word("providers.NAME.pkce", "false", "a code that was intercepted can be redeemed", "pkce = true"),
    Word(
        "providers.NAME.parameters",
        '"query"',
        "refresh tokens stand in URLs, which servers and proxies log",
        'parameters = "body"',
    ),
    Word(
        "providers.NAME.client_secret",
        '"…"',
        "whoever reads or copies the settings has the client secret",
        "`client_secret_file`",
    ),
    Word("notify.allow_http", "true", "notices cross a network in clear", "an https webhook"),
    Word("notify.channels.NAME.allow_http", "true", "notices cross a network in clear", "an https URL"),
    Word(
        "refresh.journal",
        "false",
        "a token response that Redis loses is lost, with its refresh token",
        "journal = true",
    ),
)
"""In the order of the settings."""


def is_beyond_host(location: RedisLocation) -> bool:
    """Return whether connections to Redis may leave this host.

    A name counts as beyond, also one without a dot: on Kubernetes it may be on another node. Where it is on this host,
    as in a network of Compose, `redis.allow_plain` says so.
    """
    return any(not _is_loopback(host) for host, _ in location.hosts)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def weak_options(url: str) -> Iterator[str]:
    """Yield what in `redis.url` weakens: plain, ssl_cert_reqs, ssl_check_hostname, password."""
    if url.startswith("embedded:"):
        return
    location = parse_redis_url(url)
    if not location.tls and is_beyond_host(location):
        yield "plain"
    if location.tls_options.get("cert_reqs", "required") != "required":
        yield "ssl_cert_reqs"
    if location.tls_options.get("check_hostname", "true").lower() in _NO:
        yield "ssl_check_hostname"
    if location.password is not None or urlsplit(url).password:
        yield "password"
