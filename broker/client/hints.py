"""Changes by Redis pub/sub instead of long polls: a message is a hint that a grant changed; the token is always read.

Subscribe first, then read, then compare generations; after every gap, read again. Needs redis-py.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import redis.asyncio as redis
from redis.exceptions import RedisError

from broker.client.errors import BrokerError, TokenUnavailable
from broker.client.follow import IDLE, end, pause
from broker.client.token import clock

if TYPE_CHECKING:
    from broker.client.grant import Grant

log = logging.getLogger("broker.client")
_CHECK = 0.5
"""Seconds between two checks of which grants are in use."""
_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "protocol": 2,
    "client_name": "token-broker-client",
    "driver_info": None,  # else each connection reads package metadata from disk
}


class RedisHints:
    """Listen to the channels of the grants in use, on one connection."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self._prefix = f"{namespace}:tokens:"
        self._grants: dict[str, Grant] = {}
        self._subscribed: set[str] = set()
        """Grants whose channel the server has confirmed."""
        self._task: asyncio.Task[None] | None = None
        self._reads: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def want(self, grant: Grant) -> None:
        """Listen for *grant*, unless it is listened for already."""
        if self._closed:
            return
        self._grants.setdefault(grant.id, grant)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen(), name="token-broker: listen")

    def has(self, grant: Grant) -> bool:
        """Return whether a message about *grant* would arrive."""
        return grant.id in self._subscribed and self._task is not None and not self._task.done()

    async def close(self) -> None:
        """Stop listening, for good."""
        self._closed = True
        await end([*self._reads.values(), *([] if self._task is None else [self._task])])
        self._subscribed.clear()

    async def _listen(self) -> None:
        failures = 0
        while self._grants:
            try:
                async with redis.from_url(self._url, **_OPTIONS) as client, client.pubsub() as pubsub:
                    while await self._subscribe(pubsub):
                        message = await pubsub.get_message(timeout=_CHECK)
                        failures = 0
                        if message is not None:
                            self._handle(message)
            except (RedisError, OSError) as error:
                if not failures:
                    log.warning("token-broker: no connection to Redis (%s)", type(error).__name__)
            self._subscribed.clear()
            failures += 1
            await asyncio.sleep(pause(failures))

    async def _subscribe(self, pubsub: Any) -> bool:
        """Subscribe to the grants in use and to nothing else; return whether there is any."""
        now = clock()
        for grant in [grant for grant in self._grants.values() if grant.idle_for(now) >= IDLE]:
            del self._grants[grant.id]
        wanted = {self._prefix + grant_id for grant_id in self._grants}
        subscribed = {name.decode() if isinstance(name, bytes) else name for name in pubsub.channels}
        if more := wanted - subscribed:
            await pubsub.subscribe(*more)
        if less := subscribed - wanted:
            self._subscribed -= {name.removeprefix(self._prefix) for name in less}
            await pubsub.unsubscribe(*less)
        return bool(wanted)

    def _handle(self, message: dict[str, Any]) -> None:
        grant = self._grants.get(message["channel"].decode().removeprefix(self._prefix))
        if grant is None:
            return
        if message["type"] == "subscribe":
            self._subscribed.add(grant.id)
            self._read(grant)  # earlier messages are lost
        elif message["type"] == "message" and _is_news(grant, message["data"]):
            self._read(grant)

    def _read(self, grant: Grant) -> None:
        """Read the grant: once, however many hints arrive, but again until the broker responds."""
        running = self._reads.get(grant.id)
        if running is not None:
            running.cancel()
        self._reads[grant.id] = task = asyncio.create_task(_reading(grant), name=f"token-broker: read {grant.id}")
        task.add_done_callback(lambda done: self._forget(grant.id, done))

    def _forget(self, grant_id: str, task: asyncio.Task[None]) -> None:
        if self._reads.get(grant_id) is task:
            del self._reads[grant_id]


def _is_news(grant: Grant, data: bytes) -> bool:
    """Return whether a message is about another token than the held one, or says that there is none any more."""
    try:
        message = json.loads(data)
        return message.get("event") == "revoked" or grant.is_news(int(message["generation"]))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return False


async def _reading(grant: Grant) -> None:
    failures = 0
    while True:
        try:
            await grant.poll(0)
        except TokenUnavailable:
            failures += 1
            await asyncio.sleep(pause(failures))
        except BrokerError:
            return
        else:
            return
