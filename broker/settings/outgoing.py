"""The settings of outgoing HTTP: the proxy on the way to providers and to the receiver of notices.

A proxy stands in `[outgoing]` for all of them, and in the table of a provider or of the notices for that one alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo

from broker.settings.values import Section

DIRECT = frozenset({"", "none"})
ENVIRONMENT = "environment"


def is_proxy_url(value: str, *, user: bool = False) -> bool:
    """Return whether *value* names an HTTP proxy: scheme, host, perhaps a port, and a *user* if that is allowed."""
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        return False
    good = url.scheme in {"http", "https"} and bool(url.hostname) and port != 0
    rest = (url.path not in {"", "/"}) or any(sign in value for sign in "?#\\ ") or not value.isprintable()
    return good and not rest and (user or "@" not in value)


def _proxy(value: str) -> str:
    if value in DIRECT or value == ENVIRONMENT or is_proxy_url(value):
        return value
    raise ValueError(
        'must be a URL such as "http://proxy.example.com:3128" without user and password (proxy_credentials_file has '
        'them), or "environment", or "none"'
    )


def _beside_a_proxy(file: Path | None, info: ValidationInfo) -> Path | None:
    if file is not None and "proxy" in info.data and (info.data["proxy"] or "none") in DIRECT:
        raise ValueError("needs a proxy beside it: set proxy in the same table, or remove this")
    return file


Proxy = Annotated[str, AfterValidator(_proxy), Field(json_schema_extra={"format": "URL or word"})]
OwnProxy = Annotated[
    Proxy | None,
    Field(
        examples=["http://proxy.example.com:3128"],
        description="as outgoing.proxy, and in its place; a URL here holds for loopback addresses too",
    ),
]
CredentialsFile = Annotated[
    Path | None,
    AfterValidator(_beside_a_proxy),
    Field(
        examples=["proxy_credentials"],
        description="file (mode 0600) with USER:PASSWORD for the proxy of this table; read again when it changes",
    ),
]


class Outgoing(Section):
    """How the broker reaches providers and the receiver of notices."""

    proxy: Proxy | None = Field(
        default=None,
        examples=["http://proxy.example.com:3128"],
        description='HTTP proxy to providers and to the webhook: its URL, or "environment" (HTTPS_PROXY, NO_PROXY), or '
        '"none"; loopback addresses are reached directly',
    )
    proxy_credentials_file: CredentialsFile = None
