"""The metadata that an OpenID Connect issuer publishes (OIDC Discovery §4, RFC 8414 §3), fetched rarely, cached long.

Owns the discovery document: its validation, its cache, and the backoff after a failure. Knows nothing of tokens.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from broker.errors import BrokerError, InvalidSettings, ProviderUnavailable
from broker.providers import members
from broker.providers.dialects import Metadata
from broker.providers.http import Reply, Request
from broker.providers.issuers import is_document_of
from broker.settings.values import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.providers.dialects import Dialect
    from broker.providers.http import Http

FRESH = 3_600.0
"""Seconds for which a document is used without fetching it again."""
MAX_BACKOFF = 60.0
"""The longest pause before the next try, in seconds; it is one second after one failure, and doubles with each."""
STALE_TIMEOUT = 2.0
"""Seconds that fetching may take where an old document would do."""


def discovery_url(issuer: str) -> str:
    """Return where the document of *issuer* is (OIDC Discovery §4.1): without a trailing slash there is no `//`."""
    return issuer.rstrip("/") + "/.well-known/openid-configuration"


def backoff(failures: int) -> float:
    """Return the seconds from the last of so many *failures* in a row to the next try."""
    return float(min(MAX_BACKOFF, 2 ** min(failures - 1, 10)))


def check(document: Mapping[str, object], dialect: Dialect) -> Metadata:
    """Return the metadata in *document*.

    Raises:
        InvalidSettings: the document is another issuer's, or names no usable token endpoint.
    """
    issuer = document.get("issuer")
    if not isinstance(issuer, str) or not is_document_of(issuer, dialect.issuer or ""):
        named = repr(issuer[:200]) if isinstance(issuer, str) else "no issuer"
        raise InvalidSettings(
            f"providers.{dialect.name}: issuer is {dialect.issuer!r}, but its discovery document says {named}: "
            "they must be equal in every character, a trailing slash included"
        )
    token_endpoint = _endpoint(document.get("token_endpoint"), dialect)
    if token_endpoint is None and dialect.token_endpoint is None:
        raise InvalidSettings(
            f"providers.{dialect.name}: the discovery document of {dialect.issuer!r} has no token_endpoint on https: "
            "set token_endpoint"
        )
    methods = document.get("token_endpoint_auth_methods_supported")
    methods = methods if isinstance(methods, list) else []
    return Metadata(
        issuer=issuer,
        authorization_endpoint=_endpoint(document.get("authorization_endpoint"), dialect),
        token_endpoint=token_endpoint,
        revocation_endpoint=_endpoint(document.get("revocation_endpoint"), dialect),
        iss_parameter_supported=document.get("authorization_response_iss_parameter_supported") is True,
        body_credentials_only="client_secret_post" in methods and "client_secret_basic" not in methods,
    )


def _endpoint(value: object, dialect: Dialect) -> str | None:
    """Return *value* if it is an endpoint that may receive secrets, else None."""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        return None
    try:
        url = urlsplit(value)
        _port = url.port  # raises ValueError for a malformed one
    except ValueError:
        return None
    if not url.hostname or url.username or url.password or url.fragment:
        return None
    # Plain http to this host is for an issuer on this host: another one must not have requests sent to what runs here.
    local = urlsplit(dialect.issuer or "").hostname in LOOPBACK
    plain = url.scheme == "http" and (dialect.allow_http or (local and url.hostname in LOOPBACK))
    return value if url.scheme == "https" or plain else None


class Discovery:
    """The metadata of one provider of kind `oidc`."""

    def __init__(self, dialect: Dialect, http: Http, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._dialect = dialect
        self._http = http
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._metadata: Metadata | None = None
        self._fresh_until = 0.0
        self._failures = 0
        self._not_before = 0.0
        self._failure: BrokerError | None = None

    async def metadata(self, timeout: float) -> Metadata:
        """Return the metadata; a document older than an hour is fetched again, but kept if that fails.

        Args:
            timeout: for waiting and fetching, in seconds.

        Raises:
            InvalidSettings: the document is not this issuer's.
            ProviderUnavailable: the document cannot be fetched.
        """
        if self._metadata is not None and (self._lock.locked() or not self._is_due()):
            return self._metadata
        if self._metadata is not None:
            timeout = min(timeout / 2, STALE_TIMEOUT)
        deadline = time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                await self._lock.acquire()
        except TimeoutError:
            raise self._unavailable("another request for it has not returned in time") from None
        try:
            if self._is_due():
                await self._fetch(deadline - time.monotonic())
        finally:
            self._lock.release()
        if self._metadata is None:
            raise self._last_failure()
        return self._metadata

    def _is_due(self) -> bool:
        now = self._monotonic()
        return now >= self._not_before and (self._metadata is None or now >= self._fresh_until)

    async def _fetch(self, timeout: float) -> None:
        try:
            self._metadata = check(await self._document(timeout), self._dialect)
        except BrokerError as error:
            self._failures += 1
            self._not_before = self._monotonic() + backoff(self._failures)
            self._failure = error
        else:
            self._failures, self._failure = 0, None
            self._fresh_until = self._monotonic() + FRESH

    async def _document(self, timeout: float) -> Mapping[str, object]:
        url = discovery_url(self._dialect.issuer or "")
        reply = await self._http.send(Request(method="GET", url=url, headers={}), timeout=timeout)
        if not isinstance(reply, Reply):
            raise self._unavailable(f"{reply.code} {reply.detail}".strip())
        if reply.status != 200:
            raise self._unavailable(f"HTTP {reply.status}")
        if reply.body is None:
            raise self._unavailable(reply.fault or "unreadable")
        try:
            return members.parse(reply.body, whole=reply.fault is None).values
        except members.Unreadable as unreadable:
            raise self._unavailable(reply.fault or unreadable.code) from None

    def _unavailable(self, reason: str) -> ProviderUnavailable:
        issuer = self._dialect.issuer
        return ProviderUnavailable(f"providers.{self._dialect.name}: no discovery document from {issuer}: {reason}")

    def _last_failure(self) -> BrokerError:
        """Return the last failure as a new exception: one that is raised twice collects tracebacks."""
        if isinstance(self._failure, InvalidSettings):
            return InvalidSettings(*self._failure.findings)
        wait = max(0.0, self._not_before - self._monotonic())
        return ProviderUnavailable(str(self._failure), retry_after=wait)
