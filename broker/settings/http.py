"""The settings of `[http]`: where callers and browsers reach this broker, and what they may take of it."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from broker.settings.values import (
    LOOPBACK,
    Duration,
    Listen,
    PositiveDuration,
    Section,
    WebUrl,
    host_of,
    matching,
    plain_beyond_loopback,
)

UNIX = "unix"
"""In `trusted_proxies`: whoever connects to a Unix socket, which its file mode decides."""


def _proxy(value: str) -> str:
    if value == UNIX:
        return value
    try:
        network = ipaddress.ip_network(value)
    except ValueError as error:
        cure = " (the bits behind the prefix must be 0)" if "host bits" in str(error) else ""
        raise ValueError(
            f'must be an address or a network, such as "10.1.2.3" or "10.1.0.0/16", or "unix"{cure}'
        ) from None
    if not network.prefixlen:
        raise ValueError("must not be every address: whoever connects could name any address as theirs")
    return value


Proxy = Annotated[str, AfterValidator(_proxy)]


class Http(Section):
    """Where callers and browsers reach this broker."""

    allow_plain_http: bool = Field(
        default=False, description="confirm that listen and public_url may use plain HTTP beyond loopback"
    )
    listen: list[Listen] = Field(
        default=["127.0.0.1:8080"],
        min_length=1,
        description="addresses to listen on, HOST:PORT or unix:/PATH; [::] is IPv6 only: for both, add 0.0.0.0",
    )
    public_listen: list[Listen] = Field(
        default=[],
        description="further addresses, for the side that faces the internet: they serve /login and /callback only",
    )
    public_url: WebUrl = Field(
        default="http://127.0.0.1:8080",
        description="URL of this broker as browsers see it, with a path where its host serves more; register "
        "public_url + /callback as redirect_uri at the provider",
    )
    drain_delay: Duration = Field(
        default=timedelta(seconds=3), description="how long to keep serving after SIGTERM turned /readyz to 503"
    )
    max_connections: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="callers' connections at the same time; 0: the most that the limit of open files allows, to "
        "which a higher value is lowered",
    )
    keepalive_timeout: PositiveDuration = Field(
        default=timedelta(seconds=75),
        description="how long to keep an idle connection open; longer than load balancers do, so that they close first",
    )
    read_timeout: PositiveDuration = Field(
        default=timedelta(seconds=30),
        description="how long a caller may stall before its first request, within a request, or in reading a response",
    )
    body_timeout: PositiveDuration = Field(
        default=timedelta(seconds=10),
        description="how long the head of a request may take to arrive, and every 64 KiB of its body",
    )
    max_connections_per_peer: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="connections of one address (IPv6: of one /64) at the same time; 0: no limit but max_connections",
    )
    trusted_proxies: list[Proxy] = Field(
        default=[],
        examples=[["10.0.0.0/8"]],
        description='addresses and networks of the proxies in front, or "unix" for one at a unix: socket: their word '
        "counts for whose connection it is",
    )
    forwarded_header: Literal["X-Forwarded-For", "Forwarded"] = Field(
        default="X-Forwarded-For",
        description="the header to which each of trusted_proxies appends the address that it serves; the other is "
        "ignored",
    )
    reuse_port: bool = Field(
        default=False, description="let several brokers on one host share the port of http.listen (SO_REUSEPORT)"
    )
    socket_mode: Annotated[str, matching("0?[0-7]{3}", 'must be three octal digits in quotes, such as "0660"')] = Field(
        default="0660", description="file mode of a unix: socket"
    )

    @field_validator("listen", "public_listen")
    @classmethod
    def _plain_on_loopback(cls, addresses: list[str], info: ValidationInfo) -> list[str]:
        beyond = [a for a in addresses if (host := host_of(a)) is not None and host not in LOOPBACK]
        if beyond and info.data.get("allow_plain_http") is False:
            raise ValueError(
                f"{beyond[0]} uses plain HTTP beyond loopback: put TLS in front of it and set "
                "http.allow_plain_http = true"
            )
        return addresses

    @field_validator("public_url")
    @classmethod
    def _takes_a_path(cls, url: str, info: ValidationInfo) -> str:
        if "?" in url:
            raise ValueError('must have no query: the redirect_uri is public_url + "/callback"')
        if plain_beyond_loopback(url) and info.data.get("allow_plain_http") is False:
            raise ValueError("uses plain HTTP beyond loopback: use https, or set http.allow_plain_http = true")
        return url
