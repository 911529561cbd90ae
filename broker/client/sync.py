"""The same for programs without an event loop, and for threads: a loop of its own in one thread behind it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from broker.client.broker import Broker
from broker.client.errors import InvalidConfiguration
from broker.client.follow import end
from broker.client.place import Place, place, place_from

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from broker.client.auth_requests import BearerAuth
    from broker.client.grant import Grant
    from broker.client.token import Token

T = TypeVar("T")
_CLOSED = "this SyncBroker is closed: make another one"


class SyncBroker:
    """A running token-broker, asked with one key, from any number of threads.

    `with SyncBroker.from_env() as broker:`, or `broker.close()` at the end. Made before a fork, it works on both sides
    of it.
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
        """As `Broker`. Raises `InvalidConfiguration`."""
        where = url if isinstance(url, Place) else place(url, key, key_file)
        self._make = partial(Broker, where, tls=tls, redis_url=redis_url, namespace=namespace)
        self._broker = self._make()
        self._lock = threading.Lock()
        self._side: _Side | None = None
        self._closed = False

    @classmethod
    def from_env(
        cls, *, tls: ssl.SSLContext | None = None, redis_url: str | None = None, namespace: str = "broker"
    ) -> Self:
        """As `Broker.from_env`. Raises `InvalidConfiguration`."""
        return cls(place_from(os.environ), tls=tls, redis_url=redis_url, namespace=namespace)

    def grant(self, grant_id: str) -> SyncGrant:
        """The grant of this id, which may or may not exist: nothing is asked. Raises `InvalidConfiguration`."""
        self._broker.grant(grant_id)
        return SyncGrant(self, grant_id)

    def close(self) -> None:
        """End the subscription, close every connection and end the thread."""
        with self._lock:
            self._closed = True
            side, self._side = self._side, None
        if side is not None and side.pid == os.getpid():
            side.end(self._broker.close())

    def asked(self, grant_id: str, ask: Callable[[Grant], Coroutine[Any, Any, T]]) -> T:
        """What *ask* of the grant comes to, run in the thread behind."""
        return self._here().run(ask(self._broker.grant(grant_id)))

    def in_memory(self, grant_id: str) -> Grant | None:
        """The grant, if its memory is this process's own."""
        side = self._side
        return self._broker.grant(grant_id) if side is not None and side.pid == os.getpid() else None

    def _here(self) -> _Side:
        """The thread behind, started when it is first needed, and anew in the child of a fork."""
        with self._lock:
            if self._closed:
                raise InvalidConfiguration(_CLOSED)
            if self._side is not None and self._side.pid != os.getpid():
                # The parent's: its sockets are shared, so it is left as it is. The frames of a thread that is not on
                # this side are never freed, so nothing of it is collected and closed either.
                self._broker, self._side = self._make(), None
            if self._side is None:
                self._side = _Side()
            return self._side

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Sync{self._broker!r}"


class SyncGrant:
    """A grant by its id; `SyncBroker.grant` gives it."""

    def __init__(self, broker: SyncBroker, grant_id: str) -> None:
        self.id = grant_id
        self._broker = broker

    def __repr__(self) -> str:
        return f"SyncGrant({self.id!r})"

    def ready(self, *, timeout: float = 30.0) -> None:
        """As `Grant.ready`."""
        self._broker.asked(self.id, lambda grant: grant.ready(timeout=timeout))

    def token(self, *, min_ttl: float = 0, timeout: float = 10.0) -> Token:
        """As `Grant.token`."""
        here = self._broker.in_memory(self.id)
        if here is not None and (token := here.at_hand(min_ttl)):
            return token
        return self._broker.asked(self.id, lambda grant: grant.token(min_ttl=min_ttl, timeout=timeout))

    def report(self, token: Token, *, timeout: float = 10.0) -> Token | None:
        """As `Grant.report`."""
        return self._broker.asked(self.id, lambda grant: grant.report(token, timeout=timeout))

    def requests(self, origin: str | None = None) -> BearerAuth:
        """An `auth` for requests that adds the token for *origin* alone, or for that of the first request.

        A 401 is reported, and the request sent once more with the next token if its body can be.
        """
        from broker.client.auth_requests import BearerAuth

        return BearerAuth(self, origin)

    def httpx(self, origin: str | None = None) -> Any:
        """The same for `httpx.Client`, and httpx2's."""
        from broker.client.auth_httpx import bearer_auth

        return bearer_auth(self, origin)


class _Side:
    """A thread with an event loop."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="token-broker", daemon=True)
        self._thread.start()
        self._lock = threading.Lock()
        self._ending = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What *work* comes to; whoever is interrupted while waiting ends it. Raises `InvalidConfiguration`."""
        if threading.current_thread() is self._thread:
            work.close()
            raise InvalidConfiguration("SyncBroker is asked from its own thread, which would wait for itself")
        with self._lock:
            if self._ending:
                work.close()
                raise InvalidConfiguration(_CLOSED)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise InvalidConfiguration(_CLOSED) from None
        except BaseException:
            future.cancel()
            raise

    def end(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work*, then end what others still wait for, the loop and the thread."""
        self.run(work)
        with self._lock:
            self._ending = True
        asyncio.run_coroutine_threadsafe(_end_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end_all() -> None:
    """Cancel every task but this one."""
    await end(asyncio.all_tasks() - {asyncio.current_task()})
