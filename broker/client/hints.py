"""News by Redis pub/sub in place of long polls: a hint that a grant changed. What is served is always read.

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
_LOOK = 0.5
"""Seconds between two looks at which grants are in use."""
_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "protocol": 2,
    "client_name": "token-broker-client",
    "driver_info": None,  # it would read package metadata from disk, once a connection
}


class RedisHints:
    """Listens to the channels of the grants in use, on one connection."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self._prefix = f"{namespace}:tokens:"
        self._grants: dict[str, Grant] = {}
        self._heard: set[str] = set()
        """Grants whose channel the server has confirmed."""
        self._task: asyncio.Task[None] | None = None
        self._reads: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def want(self, grant: Grant) -> None:
        """Listen for *grant*, if nobody does."""
        if self._closed:
            return
        self._grants.setdefault(grant.id, grant)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen(), name="token-broker: listen")

    def has(self, grant: Grant) -> bool:
        """Whether news of *grant* would be heard."""
        return grant.id in self._heard and self._task is not None and not self._task.done()

    async def close(self) -> None:
        """Listen no more, not even when somebody wants it."""
        self._closed = True
        await end([*self._reads.values(), *([] if self._task is None else [self._task])])
        self._heard.clear()

    async def _listen(self) -> None:
        failures = 0
        while self._grants:
            try:
                async with redis.from_url(self._url, **_OPTIONS) as client, client.pubsub() as pubsub:
                    while await self._subscribe(pubsub):
                        message = await pubsub.get_message(timeout=_LOOK)
                        failures = 0
                        if message is not None:
                            self._hear(message)
            except (RedisError, OSError) as error:
                if not failures:
                    log.warning("token-broker: no news from Redis (%s)", type(error).__name__)
            self._heard.clear()
            failures += 1
            await asyncio.sleep(pause(failures))

    async def _subscribe(self, pubsub: Any) -> bool:
        """Subscribe to what is used and to nothing else; False when nothing is."""
        now = clock()
        for grant in [grant for grant in self._grants.values() if grant.idle_for(now) >= IDLE]:
            del self._grants[grant.id]
        wanted = {self._prefix + grant_id for grant_id in self._grants}
        subscribed = {name.decode() if isinstance(name, bytes) else name for name in pubsub.channels}
        if more := wanted - subscribed:
            await pubsub.subscribe(*more)
        if less := subscribed - wanted:
            self._heard -= {name.removeprefix(self._prefix) for name in less}
            await pubsub.unsubscribe(*less)
        return bool(wanted)

    def _hear(self, message: dict[str, Any]) -> None:
        grant = self._grants.get(message["channel"].decode().removeprefix(self._prefix))
        if grant is None:
            return
        if message["type"] == "subscribe":
            self._heard.add(grant.id)
            self._read(grant)  # what was published before is not heard any more
        elif message["type"] == "message" and _is_news(grant, message["data"]):
            self._read(grant)

    def _read(self, grant: Grant) -> None:
        """Have it read: once, however many hints come, but again until the broker has answered."""
        running = self._reads.get(grant.id)
        if running is not None:
            running.cancel()
        self._reads[grant.id] = task = asyncio.create_task(_reading(grant), name=f"token-broker: read {grant.id}")
        task.add_done_callback(lambda done: self._forget(grant.id, done))

    def _forget(self, grant_id: str, task: asyncio.Task[None]) -> None:
        if self._reads.get(grant_id) is task:
            del self._reads[grant_id]


def _is_news(grant: Grant, data: bytes) -> bool:
    """Whether a message is of another token than the one in hand, or that there is none any more."""
    try:
        told = json.loads(data)
        return told.get("event") == "revoked" or grant.hears_of(int(told["generation"]))
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
