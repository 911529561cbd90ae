"""Where Redis is, as `redis.url` spells it: parses and checks the URL, and opens no connection."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMS = (
    "redis://HOST:6379/0, rediss://HOST:6379/0, unix:///PATH, redis+sentinel://HOST,HOST/SERVICE, "
    'redis+cluster://HOST,HOST or "embedded:"'
)
"""The forms that a URL may have, for the error message about any other."""

UNENCODED = (
    "has an `@` behind its host: in a user name or password write `/` as %2F, `?` as %3F, `#` as %23, `@` as %40 and "
    "`%` as %25, or put the password into redis.password_file"
)
"""The message about a password with characters that end the host; it repeats nothing of the URL."""

Topology = Literal["host", "socket", "sentinel", "cluster"]
_SCHEMES: Mapping[str, tuple[Topology, bool, int]] = {
    "redis": ("host", False, 6379),
    "rediss": ("host", True, 6379),
    "unix": ("socket", False, 0),
    "redis+sentinel": ("sentinel", False, 26379),
    "rediss+sentinel": ("sentinel", True, 26379),
    "redis+cluster": ("cluster", False, 6379),
    "rediss+cluster": ("cluster", True, 6379),
}
"""Topology, TLS and default port of each scheme."""
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?", re.ASCII)
_OPTIONS = frozenset({"db", "username", "password"})
_TLS_OPTIONS = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password",
        "ssl_cert_reqs",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_server_name",
    }
)


@dataclass(frozen=True, slots=True)
class RedisLocation:
    """A Redis, and how to find its primary: by its own address, by Sentinels, or as a node of a Cluster."""

    topology: Topology
    hosts: tuple[tuple[str, int], ...] = ()
    """The host itself, the Sentinels, or some nodes of the Cluster."""
    path: str = ""
    """Path of the socket."""
    service: str = ""
    """Name of the service that the Sentinels monitor."""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By their names in redis-py, without `ssl_`; and `server_name`, which redis-py lacks: the certificate's name."""

    def with_password(self, password: str | None) -> RedisLocation:
        """Return the same location with the password that a file holds; None changes nothing."""
        return self if password is None else replace(self, password=password)


def shown_url(text: str) -> str:
    """Return a URL without user, password and options, for people: `redis://HOST:6379/0`."""
    url = urlsplit(text)
    return f"{url.scheme}:" if url.scheme == "embedded" else f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def parse_redis_url(text: str) -> RedisLocation:
    """Parse a URL.

    Raises:
        ValueError: the URL is wrong; the message completes "redis.url …", and never repeats the URL, which may hold a
            password.
    """
    wrong = ValueError(f"must be {FORMS}")
    try:
        url = urlsplit(text if text.isprintable() else "")
        topology, tls, default_port = _SCHEMES[url.scheme]
        options = dict(parse_qsl(url.query, keep_blank_values=True))
    except (ValueError, KeyError):
        raise wrong from None
    if "@" in url.path + url.query + url.fragment:
        raise ValueError(UNENCODED)
    _check_options(options, tls=tls)
    userinfo, _, hosts = url.netloc.rpartition("@")
    username, _, password = userinfo.partition(":")
    location = RedisLocation(
        topology,
        username=unquote(username) or options.get("username") or None,
        password=unquote(password) or options.get("password") or None,
        tls=tls,
        tls_options={name.removeprefix("ssl_"): value for name, value in options.items() if name in _TLS_OPTIONS},
    )
    if topology == "socket":
        if hosts or not url.path.startswith("/") or not url.path.strip("/"):
            raise wrong
        return replace(location, path=unquote(url.path), db=_number(options.get("db"), wrong))
    parts = [unquote(part) for part in url.path.strip("/").split("/")]
    if topology == "sentinel":
        location = replace(location, service=parts.pop(0))
        if not location.service:
            raise wrong
    if len(parts) > 1:
        raise wrong
    db = _number((parts[0] if parts else "") or options.get("db"), wrong)
    found = tuple(_host(part, default_port, wrong) for part in hosts.split(","))
    if topology == "cluster" and db:
        raise ValueError("must not name a database: a Cluster has only one")
    if topology == "host" and len(found) > 1:
        raise ValueError("names several hosts: use redis+sentinel:// or redis+cluster://")
    return replace(location, hosts=found, db=db)


def _check_options(options: Mapping[str, str], *, tls: bool) -> None:
    for name in options:
        if name not in _OPTIONS | _TLS_OPTIONS:  # not repeated: it may be a part of a password
            raise ValueError(
                "has an unknown option behind its `?`: db, username, password and ssl_… are allowed; a `?` in a "
                "password is written %3F"
            )
        if name in _TLS_OPTIONS and not tls:
            raise ValueError(f"has {name} but no TLS: use rediss:// (rediss+sentinel://, rediss+cluster://)")
    if options.get("ssl_cert_reqs", "required") not in {"required", "optional", "none"}:
        raise ValueError("has an unknown ssl_cert_reqs: use required, optional or none")


def _number(text: str | None, wrong: ValueError) -> int:
    if text is None or text == "":
        return 0
    if not (text.isascii() and text.isdigit()):
        raise wrong
    return int(text)


def _host(text: str, default_port: int, wrong: ValueError) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None:
        raise wrong
    port = int(match[2]) if match[2] else default_port
    if not 0 < port < 65536:
        raise wrong
    return match[1].strip("[]"), port
