"""Where Redis is, as `redis.url` spells it. Parses and checks; asks nobody."""

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
"""What a URL may look like, for who spelled it otherwise."""

Channel = Literal["host", "socket", "sentinel", "cluster"]
_WAYS: Mapping[str, tuple[Channel, bool, int]] = {
    "redis": ("host", False, 6379),
    "rediss": ("host", True, 6379),
    "unix": ("socket", False, 0),
    "redis+sentinel": ("sentinel", False, 26379),
    "rediss+sentinel": ("sentinel", True, 26379),
    "redis+cluster": ("cluster", False, 6379),
    "rediss+cluster": ("cluster", True, 6379),
}
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
class RedisPlace:
    """A Redis and how its primary is found: named itself, behind Sentinels, or in a Cluster."""

    way: Channel
    hosts: tuple[tuple[str, int], ...] = ()
    """The host itself, the Sentinels, or some nodes of the Cluster."""
    path: str = ""
    """Of the socket."""
    service: str = ""
    """What the Sentinels call it."""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By their names in redis-py, without `ssl_`; `server_name` is ours: whom the certificate must name."""

    def with_password(self, password: str | None) -> RedisPlace:
        """The same with the password that a file held."""
        return self if password is None else replace(self, password=password)


def parse_redis_url(text: str) -> RedisPlace:
    """Read a URL. Raises `ValueError` with words that complete "redis.url …", never with what the URL holds."""
    wrong = ValueError(f"must be {FORMS}")
    try:
        url = urlsplit(text if text.isprintable() else "")
        way, tls, default_port = _WAYS[url.scheme]
        options = dict(parse_qsl(url.query, keep_blank_values=True))
    except (ValueError, KeyError):
        raise wrong from None
    _check_options(options, tls=tls)
    userinfo, _, hosts = url.netloc.rpartition("@")
    username, _, password = userinfo.partition(":")
    place = RedisPlace(
        way,
        username=unquote(username) or options.get("username") or None,
        password=unquote(password) or options.get("password") or None,
        tls=tls,
        tls_options={name.removeprefix("ssl_"): value for name, value in options.items() if name in _TLS_OPTIONS},
    )
    if way == "socket":
        if hosts or not url.path.startswith("/") or not url.path.strip("/"):
            raise wrong
        return replace(place, path=unquote(url.path), db=_number(options.get("db"), wrong))
    parts = [unquote(part) for part in url.path.strip("/").split("/")]
    if way == "sentinel":
        place = replace(place, service=parts.pop(0))
        if not place.service:
            raise wrong
    if len(parts) > 1:
        raise wrong
    db = _number((parts[0] if parts else "") or options.get("db"), wrong)
    found = tuple(_host(part, default_port, wrong) for part in hosts.split(","))
    if way == "cluster" and db:
        raise ValueError("must not name a database: a Cluster has one")
    if way == "host" and len(found) > 1:
        raise ValueError("names several hosts: say redis+sentinel:// or redis+cluster://")
    return replace(place, hosts=found, db=db)


def _check_options(options: Mapping[str, str], *, tls: bool) -> None:
    for name in options:
        if name not in _OPTIONS | _TLS_OPTIONS:
            raise ValueError(f"has an option that is not known here ({name[:32]}): allowed are db and ssl_…")
        if name in _TLS_OPTIONS and not tls:
            raise ValueError(f"has {name} but no TLS: say rediss:// (rediss+sentinel://, rediss+cluster://)")
    if options.get("ssl_cert_reqs", "required") not in {"required", "optional", "none"}:
        raise ValueError("has an ssl_cert_reqs that is neither required, optional nor none")


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
