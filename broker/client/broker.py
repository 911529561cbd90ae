"""A broker as services see it: one for each event loop, with its grants, one session and one subscription."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING, Self

from broker.client.api import HttpApi
from broker.client.errors import InvalidConfiguration
from broker.client.follow import Following, LongPolls
from broker.client.grant import Grant
from broker.client.place import Place, place, place_from

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

_GRANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Broker:
    """A running token-broker, called with one key.

    `async with Broker.from_env() as broker:`, or `await broker.close()` at the end. Nothing is sent before the first
    use. It belongs to the event loop that uses it first; for threads, or without a loop: `SyncBroker`.
    """

    def __init__(
        self,
        url: str | Place,
        key: str | None = None,
        *,
        key_file: str | os.PathLike[str] | None = None,
        tls: ssl.SSLContext | None = None,
        redis_url: str | None = None,
        namespace: str = "broker",
    ) -> None:
        """Configure the client; defers the import of redis, which is optional, to brokers with *redis_url*.

        Args:
            url: of the broker: `http://`, `https://` or `unix:/PATH`.
            key: the caller's key, or else
            key_file: the file that holds it.
            tls: verifies `https://` instead of the system's certificates.
            redis_url: receive changes by Redis pub/sub instead of long polls.
            namespace: of the broker's channels in that Redis.

        Raises:
            InvalidConfiguration: an argument is missing or malformed.
        """
        self._place = url if isinstance(url, Place) else place(url, key, key_file)
        self._tls = tls
        self._grants: dict[str, Grant] = {}
        self._api: HttpApi | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.following: Following = LongPolls()
        """How changes of its grants arrive."""
        if redis_url is not None:
            from broker.client.hints import RedisHints  # imports redis

            self.following = RedisHints(redis_url, namespace)

    @classmethod
    def from_env(
        cls, *, tls: ssl.SSLContext | None = None, redis_url: str | None = None, namespace: str = "broker"
    ) -> Self:
        """Configure the client by `TOKEN_BROKER_URL`, and `TOKEN_BROKER_KEY_FILE` or `TOKEN_BROKER_KEY`.

        Raises:
            InvalidConfiguration: a variable is missing or malformed; the message names it.
        """
        return cls(place_from(os.environ), tls=tls, redis_url=redis_url, namespace=namespace)

    def grant(self, grant_id: str) -> Grant:
        """Return the grant of this id, which may or may not exist: nothing is sent.

        Raises:
            InvalidConfiguration: *grant_id* is not a grant id.
        """
        if not _GRANT_ID.fullmatch(grant_id):
            raise InvalidConfiguration(
                f"{grant_id!r} is not a grant id: a letter or digit, then letters, digits, '.', '_' or '-', 128 at most"
            )
        return self._grants.setdefault(grant_id, Grant(self, grant_id))

    @property
    def api(self) -> HttpApi:
        """The routes of the broker, called within the running loop."""
        if self._closed:
            raise InvalidConfiguration("this Broker is closed: make a new one")
        loop = asyncio.get_running_loop()
        if self._api is None:
            self._api, self._loop = HttpApi(self._place, self._tls), loop
        elif self._loop is not loop:
            raise InvalidConfiguration(
                "this Broker belongs to another event loop: make one in each, or use SyncBroker, which has its own loop"
            )
        return self._api

    async def close(self) -> None:
        """End the subscription and close every connection; leave no task behind."""
        self._closed = True
        await self.following.close()
        for grant in self._grants.values():
            await grant.close()
        if self._api is not None:
            await self._api.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._place.name!r})"
