"""Check what the settings weaken on the way to Redis and to callers. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.check.finding import Finding
from broker.settings.weakening import weak_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.check.settings import Where
    from broker.settings import Settings

_OF_REDIS = {
    "plain": (
        "redis.url uses plain TCP beyond this host",
        "its password and published tokens cross a network in clear, and whoever stands between takes its place",
        (
            "use rediss:// with ?ssl_ca_certs=FILE (deploy/README.md), or, where the network ends at this host, as one "
            "of Compose does, redis.allow_plain = true"
        ),
    ),
    "ssl_cert_reqs": (
        "redis.url accepts any certificate (ssl_cert_reqs)",
        "whoever stands between takes the place of Redis, and gets its password",
        "name the CA that signed its certificate (?ssl_ca_certs=FILE), and remove ssl_cert_reqs",
    ),
    "ssl_check_hostname": (
        "redis.url accepts a certificate of any name (ssl_check_hostname)",
        "whoever has a certificate of the same authority takes the place of Redis",
        "name what its certificate names (?ssl_server_name=NAME), and remove ssl_check_hostname",
    ),
    "password": (
        "redis.url holds a password",
        "everybody who reads or copies the settings, or the environment of the process, has it",
        "write it to a file (umask 077) and set redis.password_file",
    ),
}


def check_weakening(settings: Settings, where: Where) -> Iterator[Finding]:
    """Yield a finding for each setting that weakens; *where* returns where a key was set."""
    if settings.http.allow_plain_http:
        yield Finding(
            "warning",
            where("http", "allow_plain_http"),
            "http.allow_plain_http = true",
            "callers' keys and tokens may cross a network in clear",
            "have TLS end on this host, in front of the broker, and remove the key; or keep what listens to one host "
            "or to a network that you trust",
        )
    of_notices: list[tuple[str, ...]] = [("notify",)] if settings.notify.allow_http else []
    of_notices += [
        ("notify", "channels", name) for name, channel in settings.notify.channels.items() if channel.allow_http
    ]
    for table in of_notices:
        yield Finding(
            "warning",
            where(*table, "allow_http"),
            f"{'.'.join(table)}.allow_http = true",
            "notices, which name grants and providers, may cross a network in clear",
            "use an https URL, and remove the key",
        )
    for weak in weak_options(settings.redis.url):
        if weak == "plain" and settings.redis.allow_plain:
            yield Finding(
                "ok", where("redis", "allow_plain"), "redis.url uses plain TCP, as redis.allow_plain confirms"
            )
        else:
            yield Finding("warning", where("redis", "url"), *_OF_REDIS[weak])
