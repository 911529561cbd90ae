"""A broker as services see it: one per event loop, with its grants, one session and one subscription."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING, Self

from broker.client.api import Wire
from broker.client.errors import InvalidConfiguration
from broker.client.follow import Following, LongPolls
from broker.client.grant import Grant
from broker.client.place import Place, place, place_from

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

_GRANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Broker:
    """A running token-broker, asked with one key.

    `async with Broker.from_env() as broker:`, or `await broker.close()` at the end. Nothing is asked before the first
    use. It belongs to the event loop that uses it first; from threads and without a loop: `SyncBroker`.
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
        """The broker at *url* (`http://`, `https://` or `unix:/PATH`), asked with *key* or what *key_file* holds.

        *tls* verifies `https://` in place of the system's certificates. With *redis_url* news comes by Redis pub/sub
        in the broker's *namespace* instead of long polls. Raises `InvalidConfiguration`.
        """
        self._place = url if isinstance(url, Place) else place(url, key, key_file)
        self._tls = tls
        self._grants: dict[str, Grant] = {}
        self._wire: Wire | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.following: Following = LongPolls()
        """How news of its grants comes."""
        if redis_url is not None:
            from broker.client.hints import RedisHints

            self.following = RedisHints(redis_url, namespace)

    @classmethod
    def from_env(
        cls, *, tls: ssl.SSLContext | None = None, redis_url: str | None = None, namespace: str = "broker"
    ) -> Self:
        """The broker at `TOKEN_BROKER_URL`, asked with `TOKEN_BROKER_KEY_FILE`'s key or `TOKEN_BROKER_KEY`.

        Raises `InvalidConfiguration` that names the variable.
        """
        return cls(place_from(os.environ), tls=tls, redis_url=redis_url, namespace=namespace)

    def grant(self, grant_id: str) -> Grant:
        """The grant of this id, which may or may not exist: nothing is asked. Raises `InvalidConfiguration`."""
        if not _GRANT_ID.fullmatch(grant_id):
            raise InvalidConfiguration(
                f"{grant_id!r} is no grant id: a letter or digit, then letters, digits, '.', '_' or '-', 128 at most"
            )
        return self._grants.setdefault(grant_id, Grant(self, grant_id))

    @property
    def wire(self) -> Wire:
        """What asks the broker, within the running loop."""
        if self._closed:
            raise InvalidConfiguration("this Broker is closed: make another one")
        loop = asyncio.get_running_loop()
        if self._wire is None:
            self._wire, self._loop = Wire(self._place, self._tls), loop
        elif self._loop is not loop:
            raise InvalidConfiguration(
                "this Broker belongs to another event loop: make one in each, or use SyncBroker, which has its own"
            )
        return self._wire

    async def close(self) -> None:
        """End the subscription and close every connection; no task is left."""
        self._closed = True
        await self.following.close()
        for grant in self._grants.values():
            await grant.close()
        if self._wire is not None:
            await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._place.name!r})"
