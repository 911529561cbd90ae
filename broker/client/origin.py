"""For which origin a token is meant: it goes nowhere else, whatever an API redirects to."""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from broker.client.errors import InvalidConfiguration

log = logging.getLogger("broker.client")
_PORTS = {"http": 80, "https": 443}


def origin_of(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of *url* (RFC 6454 §4); None where it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if parts.hostname is None or port is None or parts.scheme not in _PORTS:
        return None
    return parts.scheme, parts.hostname, port


class Pin:
    """One origin: the given one, or that of the first request it is asked about."""

    def __init__(self, origin: str | None, grant_id: str) -> None:
        """Raises `InvalidConfiguration` where *origin* is none."""
        self._grant_id = grant_id
        self._pinned = None if origin is None else origin_of(origin)
        self._told: set[object] = set()
        if origin is not None and self._pinned is None:
            raise InvalidConfiguration(f"origin is {origin!r}: give the API's, such as https://api.example.com")

    def holds(self, url: str) -> bool:
        """Whether a request to *url* may carry the token."""
        origin = origin_of(url)
        if self._pinned is None:
            self._pinned = origin
        if origin == self._pinned and origin is not None:
            return True
        if origin not in self._told and len(self._told) < 100:
            self._told.add(origin)
            log.warning("token-broker: no token of %s goes to %s, only to %s", self._grant_id, origin, self._pinned)
        return False
