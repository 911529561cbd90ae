"""The one origin that a token is for: it goes nowhere else, whatever an API redirects to."""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from broker.client.errors import InvalidConfiguration

log = logging.getLogger("broker.client")
_PORTS = {"http": 80, "https": 443}


def parse_origin(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of *url* (RFC 6454 §4); None if it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if parts.hostname is None or port is None or parts.scheme not in _PORTS:
        return None
    return parts.scheme, parts.hostname, port


class Pin:
    """One origin: the given one, or that of the first request."""

    def __init__(self, origin: str | None, grant_id: str) -> None:
        """Pin *origin*, or the first request's if it is None.

        Raises:
            InvalidConfiguration: *origin* is not an origin.
        """
        self._grant_id = grant_id
        self._pinned = None if origin is None else parse_origin(origin)
        self._warned: set[object] = set()
        if origin is not None and self._pinned is None:
            raise InvalidConfiguration(f"origin is {origin!r}: give the API's, such as https://api.example.com")

    def allows(self, url: str) -> bool:
        """Return whether a request to *url* may carry the token."""
        origin = parse_origin(url)
        if self._pinned is None:
            self._pinned = origin
        if origin == self._pinned and origin is not None:
            return True
        if origin not in self._warned and len(self._warned) < 100:
            self._warned.add(origin)
            log.warning(
                "token-broker: a token of %s is not sent to %s, only to %s", self._grant_id, origin, self._pinned
            )
        return False
