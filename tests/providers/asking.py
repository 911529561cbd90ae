"""Asking a scripted server for a refresh, and raw answers for it to give."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from broker.secret import Secret

if TYPE_CHECKING:
    from broker.model import Outcome
    from broker.providers import Endpoint

TOKENS = {"access_token": "a2", "refresh_token": "r2", "expires_in": 3600}
BODY = json.dumps(TOKENS).encode()
TOKEN = Secret("r1/+ä:10003")


async def refresh(endpoint: Endpoint, limit: float = 1.0, scope: str | None = None) -> Outcome:
    """Refresh with the token of these tests."""
    return await endpoint.refresh(TOKEN, scope=scope, timeout=limit)


def raw(head: str, body: bytes = b"") -> bytes:
    """Return an answer from its head, lines parted by `|`."""
    return head.replace("|", "\r\n").encode() + b"\r\n\r\n" + body
