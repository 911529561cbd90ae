"""Check the `Host` of requests, against DNS rebinding.

There, a page in a browser uses a foreign name that resolves to 127.0.0.1 to reach a loopback listener. Listeners that
others can reach anyway are not checked.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import hdrs

if TYPE_CHECKING:
    from aiohttp import web

    from broker.settings import Http


class Hosts:
    """The hosts of `http.listen`, `public_listen` and `public_url`, and the names of loopback."""

    def __init__(self, http: Http) -> None:
        self._names = {"localhost", "127.0.0.1", "::1", urlsplit(http.public_url).hostname or ""}
        self._names |= {_name(address) for address in (*http.listen, *http.public_listen)}

    def is_served(self, request: web.BaseRequest) -> bool:
        """Return whether a request with this `Host` is served on the listener that it came to."""
        host = request.headers.get(hdrs.HOST)
        # A browser always sends its Host; probes that speak HTTP/1.0 send none.
        if host is None or _name(host) in self._names:
            return True
        transport = request.transport
        here = transport.get_extra_info("sockname") if transport else None
        return not (isinstance(here, tuple) and (here[0].startswith("127.") or here[0] == "::1"))


@lru_cache(64)
def _name(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()
