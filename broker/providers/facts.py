"""What a provider's servers are like: fetched for `check`. Sends no token, no secret and no client id.

Each server gets one GET of the endpoint, sent as the daemon sends its requests: same trusted certificates, same
addresses.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from broker.errors import BrokerError, InvalidSettings
from broker.model import Unknown
from broker.providers.http import Reply, Request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.providers.dialects import Dialect
    from broker.providers.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a GET of one endpoint shows of its server."""

    what: str
    """Which endpoint."""
    url: str
    status: int | None = None
    failure: str | None = None
    """Why it did not respond, in words."""
    sent: bool = False
    """It failed after the request was sent."""
    by_proxy: bool = False
    """It failed at the proxy."""
    through: str | None = None
    """The proxy that it responded through."""
    tls: str | None = None
    expires_at: float | None = None
    """When its certificate expires (epoch seconds)."""
    offset: float | None = None
    """Seconds by which this host's clock is ahead of its Date header."""


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """What one provider's servers and its discovery document show."""

    name: str
    servers: tuple[ServerFacts, ...] = ()
    wrong: str | None = None
    """What discovery found wrong in the settings."""
    undiscovered: str | None = None
    """Why discovery failed."""


async def fetch_facts(endpoint: Endpoint, timeout: float) -> ProviderFacts:
    """Query the servers of one provider, within *timeout* seconds each. Never raises for them."""
    dialect, wrong, undiscovered = endpoint.dialect, None, None
    try:
        dialect = await endpoint.resolve(timeout)
    except InvalidSettings as error:
        wrong = str(error)
    except BrokerError as error:
        undiscovered = str(error)
    servers = await asyncio.gather(
        *(_fetch_server_facts(endpoint, what, url, timeout) for what, url in _one_of_each_server(dialect))
    )
    return ProviderFacts(dialect.name, tuple(servers), wrong, undiscovered)


def _one_of_each_server(dialect: Dialect) -> Iterable[tuple[str, str]]:
    """Yield the endpoints that the daemon itself requests, but one of each server."""
    seen: set[tuple[str, str]] = set()
    for what in ("token_endpoint", "refresh_endpoint", "revocation_endpoint", "logout_endpoint"):
        url = getattr(dialect, what)
        if url is None:
            continue
        parts = urlsplit(url)
        if (parts.scheme, parts.netloc) not in seen:
            seen.add((parts.scheme, parts.netloc))
            yield what, url


async def _fetch_server_facts(endpoint: Endpoint, what: str, url: str, timeout: float) -> ServerFacts:
    began = time.time()
    reply = await endpoint.http.send(Request(method="GET", url=url, headers={}), timeout=timeout)
    if not isinstance(reply, Reply):
        words = f"{reply.detail or reply.code}"
        by_proxy = reply.code.startswith("proxy_")
        return ServerFacts(what, url, failure=words, sent=isinstance(reply, Unknown), by_proxy=by_proxy)
    return ServerFacts(
        what,
        url,
        status=reply.status,
        through=reply.through,
        tls=None if reply.tls is None else reply.tls.version(),
        expires_at=None if reply.tls is None else _ends(reply.tls),
        offset=_offset(reply.headers.get("date"), (began + time.time()) / 2),
    )


def _offset(date: str | None, now: float) -> float | None:
    """Return the seconds by which *now* is ahead of a Date header (RFC 9110 §6.6.1), which holds whole seconds."""
    if date is None:
        return None
    try:
        return now - parsedate_to_datetime(date).timestamp() - 0.5
    except ValueError:
        return None


def _ends(session: ssl.SSLObject) -> float | None:
    """Return when the certificate of the server expires (epoch seconds)."""
    ends = (session.getpeercert() or {}).get("notAfter")
    return ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None
