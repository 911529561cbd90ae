"""A broker that both listeners attack, with few connections and short time limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from broker.api import server
from broker.api.server import Protocol
from broker.sandbox import Sandbox
from tests.conftest import RunningBroker, StartBroker
from tests.ports import free_port


@dataclass(frozen=True, slots=True)
class Ground:
    """A broker with the grant `g0`, and where it listens."""

    broker: RunningBroker
    port: int
    public_port: int

    @property
    def key(self) -> str:
        """The admin's key."""
        return self.broker.admin_key

    async def closed(self, reason: str) -> float:
        """Return how many connections the broker closed for this reason."""
        text = (await self.broker.ask("GET", "/metrics"))[1]["text"]
        line = f'token_broker_connections_closed_total{{reason="{reason}"}} '
        return float(text.partition(line)[2].partition("\n")[0])


StartGround = Callable[..., Awaitable[Ground]]


@pytest.fixture(autouse=True)
def lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have connections linger for less than a second: the client of these tests is near."""
    monkeypatch.setattr(server, "LINGER", 0.3)


@pytest.fixture
async def start(start_broker: StartBroker, sandbox: Sandbox) -> AsyncIterator[StartGround]:
    """Start a broker with these settings of `[http]`."""
    async with AsyncExitStack() as stack:

        async def started(**http: Any) -> Ground:
            public_port = free_port()
            public = {"public_listen": [f"127.0.0.1:{public_port}"], **http}
            broker = await stack.enter_async_context(start_broker(http=public))
            await broker.import_("g0", "acme", sandbox.rotating.issue().refresh_token or "")
            return Ground(broker, int(broker.url.rpartition(":")[2]), public_port)

        yield started


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of all that the broker takes from sockets of callers."""
    sizes: list[int] = []
    genuine = Protocol.data_received

    def counting(protocol: Protocol, data: bytes) -> None:
        sizes.append(len(data))
        genuine(protocol, data)

    monkeypatch.setattr(Protocol, "data_received", counting)
    return sizes
