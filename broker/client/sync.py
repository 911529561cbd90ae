"""The same for programs without an event loop, and for threads: it runs a loop in a background thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from broker.client.auth_httpx import bearer_auth
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
_CLOSED = "this SyncBroker is closed: make a new one"


class SyncBroker:
    """A running token-broker, called with one key, from any number of threads.

    `with SyncBroker.from_env() as broker:`, or `broker.close()` at the end. One that was made before a fork works in
    both processes.
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
        """Configure the client, as `Broker` does.

        Raises:
            InvalidConfiguration: an argument is missing or malformed.
        """
        where = url if isinstance(url, Place) else place(url, key, key_file)
        self._make = partial(Broker, where, tls=tls, redis_url=redis_url, namespace=namespace)
        self._broker = self._make()
        self._lock = threading.Lock()
        self._background: _LoopThread | None = None
        self._closed = False

    @classmethod
    def from_env(
        cls, *, tls: ssl.SSLContext | None = None, redis_url: str | None = None, namespace: str = "broker"
    ) -> Self:
        """Configure the client by the environment, as `Broker.from_env` does.

        Raises:
            InvalidConfiguration: a variable is missing or malformed; the message names it.
        """
        return cls(place_from(os.environ), tls=tls, redis_url=redis_url, namespace=namespace)

    def grant(self, grant_id: str) -> SyncGrant:
        """Return the grant of this id, which may or may not exist: nothing is sent.

        Raises:
            InvalidConfiguration: *grant_id* is not a grant id.
        """
        self._broker.grant(grant_id)
        return SyncGrant(self, grant_id)

    def close(self) -> None:
        """End the subscription, close every connection and end the thread."""
        with self._lock:
            self._closed = True
            background, self._background = self._background, None
        if background is not None and background.pid == os.getpid():
            background.end(self._broker.close())

    def run(self, grant_id: str, ask: Callable[[Grant], Coroutine[Any, Any, T]]) -> T:
        """Run *ask* of the grant in the background thread; return its result."""
        return self._thread().run(ask(self._broker.grant(grant_id)))

    def in_memory(self, grant_id: str) -> Grant | None:
        """Return the grant if its memory belongs to this process."""
        background = self._background
        return self._broker.grant(grant_id) if background is not None and background.pid == os.getpid() else None

    def _thread(self) -> _LoopThread:
        """Return the background thread, started when first needed, and again in the child of a fork."""
        with self._lock:
            if self._closed:
                raise InvalidConfiguration(_CLOSED)
            if self._background is not None and self._background.pid != os.getpid():
                # The parent's: its sockets are shared, so it is left as it is. The frames of a thread that does not
                # run in this process are never freed, so nothing of it is collected and closed either.
                self._broker, self._background = self._make(), None
            if self._background is None:
                self._background = _LoopThread()
            return self._background

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Sync{self._broker!r}"


class SyncGrant:
    """A grant by its id; `SyncBroker.grant` returns it."""

    def __init__(self, broker: SyncBroker, grant_id: str) -> None:
        self.id = grant_id
        self._broker = broker

    def __repr__(self) -> str:
        return f"SyncGrant({self.id!r})"

    def ready(self, *, timeout: float = 30.0) -> None:
        """Wait until there is a token, as `Grant.ready` does."""
        self._broker.run(self.id, lambda grant: grant.ready(timeout=timeout))

    def token(self, *, min_ttl: float = 0, timeout: float = 10.0) -> Token:
        """Return a valid token, as `Grant.token` does."""
        here = self._broker.in_memory(self.id)
        if here is not None and (token := here.at_hand(min_ttl)):
            return token
        return self._broker.run(self.id, lambda grant: grant.token(min_ttl=min_ttl, timeout=timeout))

    def report(self, token: Token, *, timeout: float = 10.0) -> Token | None:
        """Report a rejected token, as `Grant.report` does."""
        return self._broker.run(self.id, lambda grant: grant.report(token, timeout=timeout))

    def requests(self, origin: str | None = None) -> BearerAuth:
        """Return an `auth` for requests that adds the token for *origin* alone, or for that of the first request.

        A 401 is reported, and the request sent once more with the next token if its body can be. Defers the import of
        requests, which is optional.
        """
        from broker.client.auth_requests import BearerAuth

        return BearerAuth(self, origin)

    def httpx(self, origin: str | None = None) -> Any:
        """Return the same for `httpx.Client`, and httpx2's."""
        return bearer_auth(self, origin)


class _LoopThread:
    """A thread that runs an event loop."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="token-broker", daemon=True)
        self._thread.start()
        self._lock = threading.Lock()
        self._ending = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* and return its result; interrupting the wait cancels it.

        Raises:
            InvalidConfiguration: the broker is closed, or called from its own thread.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise InvalidConfiguration("SyncBroker is called from its own thread, which would wait for itself")
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
        """Run *work*, then end everything that others wait for, the loop and the thread."""
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
