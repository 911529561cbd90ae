"""A subscription to the primary: messages, until its connection breaks or the primary has moved."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import TYPE_CHECKING, Any

from redis import exceptions

from broker.errors import StoreUnavailable
from broker.store.redis.connections import CALL_TIMEOUT
from broker.store.redis.cures import HANGS, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

_TICK = 1.0
_MAX_MESSAGES = 64
"""Messages that are received together."""
_QUIET = 3.0
"""Seconds without a message after which a PING checks the subscription."""


class Subscription:
    """Messages, until the connection breaks or the primary has moved."""

    def __init__(self, connection: Any, moved: Callable[[], bool]) -> None:
        self._connection = connection
        self._moved = moved
        self._received_at = time.monotonic()
        self._pinged = False

    async def receive(self) -> list[tuple[bytes, bytes]]:
        """Wait up to a second for messages, and return all that have arrived, each as channel and data.

        Raises:
            StoreUnavailable: the subscription has ended; everything before that was returned, and what is published
                later is lost for it.
        """
        if self._moved():
            raise StoreUnavailable("Redis: the primary has moved")
        received: list[Any] = []
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._read(received)
            if not received:
                await self._check()
        except (exceptions.RedisError, OSError) as error:
            if not received:  # else the next call meets it again
                raise unavailable(error) from None
        return [(reply[2], reply[3]) for reply in received if reply[0] == b"pmessage"]

    async def _read(self, received: list[Any]) -> None:
        """Add the next message to *received*, and those that arrived with it."""
        while not received or (len(received) < _MAX_MESSAGES and await self._connection.can_read()):
            reply = await self._connection.read_response(timeout=math.inf, disconnect_on_error=False)
            if reply is None:  # the socket's own time-out
                raise exceptions.ConnectionError("the connection timed out")
            received.append(reply)
            self._received_at, self._pinged = time.monotonic(), False

    async def _check(self) -> None:
        silent = time.monotonic() - self._received_at
        if self._pinged and silent > _QUIET + CALL_TIMEOUT:
            raise StoreUnavailable("Redis no longer replies on the subscription", cure=HANGS)
        if not self._pinged and silent > _QUIET:
            await self._connection.send_command("PING", check_health=False)
            self._pinged = True
