"""What a browser gets at `public_url`: fetched as any of them would, and judged. Nothing is changed by it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from broker.check.finding import Finding
from broker.providers import open_http
from broker.providers.http import Reply, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from broker.providers.http import Http

_ANSWERS_FOR_ANOTHER = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})


@dataclass(frozen=True, slots=True)
class PublicFacts:
    """What one request below `public_url` shows."""

    url: str
    status: int | None = None
    failure: str | None = None
    """Why there was no response, in words."""
    is_broker: bool = False


async def fetch_facts(public_url: str, timeout: float, redirect_uris: Iterable[str] = ()) -> list[PublicFacts]:
    """Open a login link that nobody made, and ask for the callbacks without effect.

    Args:
        public_url: as the settings have it.
        timeout: seconds for each request.
        redirect_uris: where providers redirect to, beside the shared callback.
    """
    base = public_url.rstrip("/")
    async with open_http(timeout) as http:
        callbacks = [_fetch(http, "HEAD", url, timeout) for url in sorted({f"{base}/callback", *redirect_uris})]
        return list(await asyncio.gather(_fetch(http, "GET", f"{base}/login/check", timeout), *callbacks))


async def _fetch(http: Http, method: str, url: str, timeout: float) -> PublicFacts:
    reply = await http.send(Request(method=method, url=url, headers={}), timeout=timeout)
    if not isinstance(reply, Reply):
        return PublicFacts(url, failure=str(reply.detail or reply.code))
    # A proxy may replace `Server`, not the policy of a page.
    policy = reply.headers.get("Content-Security-Policy", "")
    is_page = b"token-broker</title>" in (reply.body or b"") if method == "GET" else reply.status == HTTPStatus.OK
    return PublicFacts(url, reply.status, is_broker=is_page and "frame-ancestors 'none'" in policy)


def check_public(facts: Sequence[PublicFacts], public_url: str) -> Iterator[Finding]:
    """Yield the finding of *public_url*: the first request that did not reach the broker decides."""
    where, path = "http.public_url", urlsplit(public_url).path.rstrip("/")
    missed = next((fact for fact in facts if not fact.is_broker), None)
    if missed is None:
        yield Finding("ok", where, f"{public_url} leads to the broker")
    elif missed.failure is not None or missed.status in _ANSWERS_FOR_ANOTHER:
        yield Finding(
            "unknown",
            where,
            f"no broker responds at {missed.url} ({missed.failure or f'HTTP {missed.status}'})",
            "without it no login can be completed",
            "start the broker, and its proxy if there is one, then check again",
        )
    else:
        yield Finding(
            "warning",
            where,
            f"what responds at {missed.url} is not the broker (HTTP {missed.status})",
            "no login can be completed",
            f"pass {path}/login/ and {path}/callback on to http.listen or http.public_listen, or correct public_url",
        )
