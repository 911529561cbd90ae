"""Telling by HTTP: one signed POST a notice, as in Standard Webhooks (standardwebhooks.com)."""

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

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.notify.notice import Notice

_PREFIX = "whsec_"
_LEAST, _MOST = 24, 64
"""Bytes of a secret, as Standard Webhooks has them."""


class Webhook:
    """POSTs to one URL. What it answers counts by its status alone: any 2xx has taken the notice."""

    name = "webhook"

    def __init__(
        self, session: aiohttp.ClientSession, url: str, secret: bytes | None, clock: Callable[[], int], timeout: float
    ) -> None:
        """*secret* None: unsigned. *clock* gives epoch ms, *timeout* is in seconds."""
        self._session = session
        self._url = url
        self._secret = secret
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def tell(self, notice: Notice) -> str:
        """Send it once; the status in words. Raises `NotDelivered`."""
        body, at = notice.body(), self._clock() // 1000
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"token-broker/{__version__}",
            "webhook-id": notice.id,
            "webhook-timestamp": str(at),
        }
        if self._secret is not None:
            headers["webhook-signature"] = signature(self._secret, notice.id, at, body)
        try:  # a redirect would take the notice, and the signature, to wherever it leads
            async with self._session.post(
                self._url, data=body, headers=headers, allow_redirects=False, timeout=self._timeout
            ) as answer:
                status = answer.status
        except TimeoutError:
            raise NotDelivered("no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotDelivered(f"it cannot be reached ({type(error).__name__})") from None
        if not 200 <= status < 300:
            raise NotDelivered(f"it answered HTTP {status}")
        return f"HTTP {status}"


def signature(secret: bytes, id_: str, at: int, body: bytes) -> str:
    """`webhook-signature` of a POST: HMAC-SHA256 over id, timestamp (epoch seconds) and body."""
    digest = hmac.new(secret, f"{id_}.{at}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def webhook_secret(path: Path) -> bytes:
    """The secret in a file. Raises `InvalidSettings`, never with anything of it."""
    way_out = f"(printf {_PREFIX}; head -c 32 /dev/urandom | base64) > {path}"
    text = secret_file("notify.secret_file", path, way_out).strip()
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.startswith(_PREFIX) or not _LEAST <= len(secret) <= _MOST:
        raise InvalidSettings(
            f"notify.secret_file: {path} must hold {_PREFIX} and {_LEAST} to {_MOST} bytes in base64: {way_out}"
        )
    return secret
