"""A broker for tests: the routes of a real one, on loopback, in its own threads.

It holds no refresh token and calls no provider: a test says what happens to each grant. This package's own tests
compare its responses with the real broker's.
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
from broker.testing.handler import Handler, ReceivedRequest

if TYPE_CHECKING:
    import os
    from types import TracebackType


class FakeBroker:
    """A broker under a test's control: `with FakeBroker() as fake: fake.add("acme-cameras")`."""

    def __init__(self, *, key: str = "fake-broker-key", socket_path: str | os.PathLike[str] | None = None) -> None:
        """Make a broker that knows *key* alone; on a loopback port, or on a Unix socket at *socket_path*."""
        self.key = key
        self.grants: dict[str, FakeGrant] = {}
        self.requests: list[ReceivedRequest] = []
        """Every request that arrived, in order."""
        self.changed = threading.Condition()
        self.hanging = False
        """True: connections are accepted, and no request gets a response."""
        self._path = None if socket_path is None else str(socket_path)
        self._address: Any = ("127.0.0.1", 0) if self._path is None else self._path
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Its address, the same while it exists."""
        return f"unix:{self._path}" if self._path else "http://{}:{}".format(*self._address)

    @property
    def env(self) -> dict[str, str]:
        """The environment variables with which `Broker.from_env` finds it."""
        return {"TOKEN_BROKER_URL": self.url, "TOKEN_BROKER_KEY": self.key}

    def add(self, grant_id: str, *, lifetime: float = 3600, **extra: Any) -> FakeGrant:
        """Add a grant with a token of *lifetime* seconds; *extra* are further members of its token responses."""
        grant = self.grants[grant_id] = FakeGrant(grant_id, self.changed, lifetime, extra)
        return grant

    def forget(self, grant_id: str) -> None:
        """Remove a grant."""
        with self.changed:
            del self.grants[grant_id]
            self.changed.notify_all()

    def count_reads(self, grant_id: str) -> int:
        """Return how many requests for the token of this grant arrived."""
        return sum(each.path.partition("?")[0] == f"/v1/grants/{grant_id}/token" for each in self.requests)

    def up(self) -> None:
        """Serve from now on, at the same address as before."""
        if self._server is not None:
            return
        self._server = server = (_UnixServer if self._path else _Server)(self._address, Handler)
        server.fake = self
        if self._path is None:
            self._address = server.server_address[:2]
        self._thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="fake-broker", daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Stop serving, like a broker that restarts: connections break, new ones are refused."""
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
        """Return whether *server* is the one that serves now."""
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
    """One thread for each connection; all of them can be broken off."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024
    fake: FakeBroker

    def server_bind(self) -> None:
        """Bind without asking DNS for this host's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def break_off(self) -> None:
        """End every connection."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that left in the middle: the test knows."""


class _UnixServer(_Server):
    address_family = socket.AF_UNIX
