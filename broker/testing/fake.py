"""A broker for tests: the wire of a real one, on loopback, in threads of its own.

It holds no refresh token and asks no provider: a test says what happens to each grant. What it answers is held to the
real broker's answers by this package's own tests.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from broker.testing.grants import FakeGrant
from broker.testing.handler import Asked, Handler

if TYPE_CHECKING:
    import os
    from types import TracebackType


class FakeBroker:
    """A broker that does as it is told: `with FakeBroker() as fake: fake.add("acme-cameras")`."""

    def __init__(self, *, key: str = "fake-broker-key", socket_path: str | os.PathLike[str] | None = None) -> None:
        """Known to it is *key* alone; on a loopback port, or on a Unix socket at *socket_path*."""
        self.key = key
        self.grants: dict[str, FakeGrant] = {}
        self.asked: list[Asked] = []
        """Every request that came, in order."""
        self.changed = threading.Condition()
        self.hanging = False
        """True: connections are taken, and nothing is answered."""
        self._path = None if socket_path is None else str(socket_path)
        self._address: Any = ("127.0.0.1", 0) if self._path is None else self._path
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Its address, the same for as long as it exists."""
        return f"unix:{self._path}" if self._path else "http://{}:{}".format(*self._address)

    @property
    def env(self) -> dict[str, str]:
        """The variables by which `Broker.from_env` finds it."""
        return {"TOKEN_BROKER_URL": self.url, "TOKEN_BROKER_KEY": self.key}

    def add(self, grant_id: str, *, lifetime: float = 3600, **extra: Any) -> FakeGrant:
        """A new grant with a token of *lifetime* seconds; *extra* are further members of its answers."""
        grant = self.grants[grant_id] = FakeGrant(grant_id, self.changed, lifetime, extra)
        return grant

    def forget(self, grant_id: str) -> None:
        """There is no such grant any more."""
        with self.changed:
            del self.grants[grant_id]
            self.changed.notify_all()

    def reads(self, grant_id: str) -> int:
        """How many requests for the token of this grant came."""
        return sum(asked.path.partition("?")[0] == f"/v1/grants/{grant_id}/token" for asked in self.asked)

    def up(self) -> None:
        """Answer from now on, where it answered before."""
        if self._server is not None:
            return
        self._server = server = (_UnixServer if self._path else _Server)(self._address, Handler)
        server.fake = self
        if self._path is None:
            self._address = server.server_address[:2]
        self._thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="fake-broker", daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Be gone, as a broker that is restarting: connections break, new ones are refused."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        server.shutdown()
        server.server_close()
        self._thread.join()
        with self.changed:
            self.changed.notify_all()
        server.break_off()
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                Path(self._path).unlink()

    def is_up(self, server: object) -> bool:
        """Whether *server* is the one that answers now."""
        return self._server is server

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def __repr__(self) -> str:
        return f"FakeBroker({self.url!r})"


class _Server(ThreadingHTTPServer):
    """One thread a connection; all of them can be broken off."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024
    fake: FakeBroker

    def server_bind(self) -> None:
        """Without asking DNS for our own name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget it."""
        self._open.discard(request)
        super().shutdown_request(request)

    def break_off(self) -> None:
        """End every connection."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever went away in the middle is no matter of the test's."""


class _UnixServer(_Server):
    address_family = socket.AF_UNIX
