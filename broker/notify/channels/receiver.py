"""The HTTP server that gets notices: one POST each. Its URL may be a secret, so no message shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

from broker import __version__
from broker.errors import InvalidSettings
from broker.notify.channels.channel import NotDelivered
from broker.providers.faults import not_sent, refused_by_proxy
from broker.providers.proxy import options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.providers.proxy import Proxy

_CONNECTING = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ClientHttpProxyError,
)


class Receiver:
    """One URL. Any 2xx response accepts a POST."""

    def __init__(self, session: aiohttp.ClientSession, url: str, timeout: float, *, proxy: Proxy | None = None) -> None:
        """Prepare to POST to *url*, each time for *timeout* seconds at most, through *proxy* where there is one."""
        self._session = session
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._proxy = proxy

    async def post(self, body: bytes, headers: Mapping[str, str]) -> str:
        """POST a JSON *body* with further *headers*, once.

        Returns:
            The HTTP status in words.

        Raises:
            NotDelivered: the receiver cannot be reached, did not respond in time or responded with another status.
        """
        try:
            hop = None if self._proxy is None else await self._proxy.hop(self._url)
        except InvalidSettings as error:
            raise NotDelivered(str(error)) from None
        headers = {"Content-Type": "application/json", "User-Agent": f"token-broker/{__version__}", **headers}
        try:  # a redirect would send the notice and its signature to another address
            async with self._session.post(
                self._url, data=body, allow_redirects=False, timeout=self._timeout, **options(hop, headers)
            ) as response:
                status = response.status
        except TimeoutError:
            raise NotDelivered("no response in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if hop is not None and isinstance(error, _CONNECTING):
                raise NotDelivered(not_sent(error, hop).detail) from None
            raise NotDelivered(f"the receiver cannot be reached ({type(error).__name__})") from None
        if hop is not None and (refused := refused_by_proxy(status, hop)):
            raise NotDelivered(refused.detail)
        if not 200 <= status < 300:
            raise NotDelivered(f"the receiver responded with HTTP {status}")
        return f"HTTP {status}"
