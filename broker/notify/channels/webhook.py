"""Deliver notices by HTTP: one signed POST each, as Standard Webhooks (standardwebhooks.com) defines it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import TYPE_CHECKING

import aiohttp

from broker import __version__
from broker.errors import InvalidSettings
from broker.notify.channels.channel import NotDelivered
from broker.process.data_dir import secret_file
from broker.providers.faults import not_sent, refused_by_proxy
from broker.providers.proxy import options

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.notify.notice import Notice
    from broker.providers.proxy import Proxy

_CONNECTING = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ClientHttpProxyError,
)
_PREFIX = "whsec_"
_MIN_BYTES, _MAX_BYTES = 24, 64
"""Length of a secret in bytes, from Standard Webhooks."""


class Webhook:
    """POST to one URL. Only the status of the response counts: any 2xx accepts the notice."""

    name = "webhook"

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        secret: bytes | None,
        clock: Callable[[], int],
        timeout: float,
        *,
        proxy: Proxy | None = None,
    ) -> None:
        """Prepare to POST to *url*.

        Args:
            session: the HTTP session to use.
            url: the receiver.
            secret: signs each POST; None: unsigned.
            clock: returns epoch ms.
            timeout: of one POST, in seconds.
            proxy: on the way to the receiver.
        """
        self._session = session
        self._url = url
        self._secret = secret
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._proxy = proxy

    async def send(self, notice: Notice) -> str:
        """Send the notice once.

        Returns:
            The HTTP status in words.

        Raises:
            NotDelivered: the receiver cannot be reached, did not respond in time or responded with another status.
        """
        try:
            hop = None if self._proxy is None else await self._proxy.hop(self._url)
        except InvalidSettings as error:
            raise NotDelivered(str(error)) from None
        body, at = notice.body(), self._clock() // 1000
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"token-broker/{__version__}",
            "webhook-id": notice.id,
            "webhook-timestamp": str(at),
        }
        if self._secret is not None:
            headers["webhook-signature"] = sign(self._secret, notice.id, at, body)
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


def sign(secret: bytes, id_: str, at: int, body: bytes) -> str:
    """Return the `webhook-signature` of a POST: HMAC-SHA256 over id, timestamp (epoch seconds) and body."""
    digest = hmac.new(secret, f"{id_}.{at}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def webhook_secret(path: Path) -> bytes:
    """Read the signing secret from a file.

    Raises:
        InvalidSettings: the file holds no such secret. The message never quotes its content.
    """
    cure = f"(printf {_PREFIX}; head -c 32 /dev/urandom | base64) > {path}"
    text = secret_file("notify.secret_file", path, cure).strip()
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.startswith(_PREFIX) or not _MIN_BYTES <= len(secret) <= _MAX_BYTES:
        raise InvalidSettings(
            f"notify.secret_file: {path} must hold {_PREFIX} and {_MIN_BYTES} to {_MAX_BYTES} bytes in base64: {cure}"
        )
    return secret
