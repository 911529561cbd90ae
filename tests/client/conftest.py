"""A fake broker, a real one, and an API that accepts tokens: everything that the client talks to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
import uvloop
from aiohttp import web

from broker.client import Broker
from broker.testing import FakeBroker
from broker.testing.fixtures import fake_broker
from tests.ports import free_port

__all__ = ["fake_broker"]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test of the client on both loops: an application has either."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    """No task of the client outlives a test."""
    before = asyncio.all_tasks()
    yield
    left = {task.get_name() for task in asyncio.all_tasks() - before if not task.done()}
    assert not {name for name in left if name.startswith("token-broker")}, left


@dataclass(slots=True)
class Came:
    """A request that reached an API."""

    method: str
    path: str
    authorization: str | None
    body: bytes


@dataclass(slots=True)
class Api:
    """An API on its own port: it responds with 401 to every token that it does not accept."""

    url: str
    takes: Callable[[str], bool]
    came: list[Came] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    """Where a path redirects with 307, which keeps the method; with 303 after `see_other`."""
    see_other: set[str] = field(default_factory=set)
    hesitation: float = 0
    """Seconds before a 401."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        authorization = request.headers.get("Authorization")
        self.came.append(Came(request.method, request.path, authorization, await request.read()))
        if request.path in self.redirects:
            status = 303 if request.path in self.see_other else 307
            return web.Response(status=status, headers={"Location": self.redirects[request.path]})
        scheme, _, token = (authorization or "").partition(" ")
        if scheme != "Bearer" or not self.takes(token):
            await asyncio.sleep(self.hesitation)
            return web.json_response({"error": "invalid_token"}, status=401)
        return web.json_response({"length": len(self.came[-1].body)})

    @property
    def tokens(self) -> list[str]:
        """Return the tokens that arrived, in order."""
        return [(each.authorization or "").removeprefix("Bearer ") for each in self.came]


@contextlib.asynccontextmanager
async def start_api(takes: Callable[[str], bool]) -> AsyncIterator[Api]:
    """Start an API that accepts the tokens for which *takes* returns True."""
    port = free_port()
    api = Api(f"http://127.0.0.1:{port}", takes)
    server = web.Server(api.answer)  # type: ignore[arg-type]
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield api
    finally:
        await runner.cleanup()


@pytest.fixture
def fake(fake_broker: FakeBroker) -> FakeBroker:
    """Start a fake broker with one grant, g1."""
    fake_broker.add("g1", httpsBaseUrl={"hostname": "api.example.com"})
    return fake_broker


@pytest.fixture
async def client(fake: FakeBroker) -> AsyncIterator[Broker]:
    """Open a client of the fake broker."""
    async with Broker.from_env() as broker:
        yield broker


@pytest.fixture
async def api(fake: FakeBroker) -> AsyncIterator[Api]:
    """Start an API that accepts only the fake's current token."""
    async with start_api(lambda token: token == fake.grants["g1"].token) as api:
        yield api


@pytest.fixture
async def elsewhere() -> AsyncIterator[Api]:
    """Start another API, which accepts no token."""
    async with start_api(lambda _: False) as api:
        yield api
