"""Deliver notices by HTTP: one signed POST each, as Standard Webhooks (standardwebhooks.com) defines it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import TYPE_CHECKING

from broker.errors import InvalidSettings
from broker.process.data_dir import secret_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.notify.channels.receiver import Receiver
    from broker.notify.notice import Notice

_PREFIX = "whsec_"
_MIN_BYTES, _MAX_BYTES = 24, 64
"""Length of a secret in bytes, from Standard Webhooks."""


class Webhook:
    """POST to one URL. Only the status of the response counts: any 2xx accepts the notice."""

    def __init__(
        self, receiver: Receiver, secret: bytes | None, clock: Callable[[], int], *, name: str = "webhook"
    ) -> None:
        """Prepare to POST to *receiver*.

        Args:
            receiver: gets the notices.
            secret: signs each POST; None: unsigned.
            clock: returns epoch ms.
            name: of the channel.
        """
        self.name = name
        self._receiver = receiver
        self._secret = secret
        self._clock = clock

    async def send(self, notice: Notice) -> str:
        """Send the notice once.

        Returns:
            The HTTP status in words.

        Raises:
            NotDelivered: the receiver cannot be reached, did not respond in time or responded with another status.
        """
        body, at = notice.body(), self._clock() // 1000
        headers = {"webhook-id": notice.id, "webhook-timestamp": str(at)}
        if self._secret is not None:
            headers["webhook-signature"] = sign(self._secret, notice.id, at, body)
        return await self._receiver.post(body, headers)


def sign(secret: bytes, id_: str, at: int, body: bytes) -> str:
    """Return the `webhook-signature` of a POST: HMAC-SHA256 over id, timestamp (epoch seconds) and body."""
    digest = hmac.new(secret, f"{id_}.{at}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def webhook_secret(path: Path, key: str = "notify.secret_file") -> bytes:
    """Read the signing secret from the file that the settings' *key* names.

    Raises:
        InvalidSettings: the file holds no such secret. The message never quotes its content.
    """
    cure = f"(printf {_PREFIX}; head -c 32 /dev/urandom | base64) > {path}"
    text = secret_file(key, path, cure).strip()
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.startswith(_PREFIX) or not _MIN_BYTES <= len(secret) <= _MAX_BYTES:
        raise InvalidSettings(
            f"{key}: {path} must hold {_PREFIX} and {_MIN_BYTES} to {_MAX_BYTES} bytes in base64: {cure}"
        )
    return secret
