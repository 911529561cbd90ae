"""The common ground: one broker, a provider at a scripted authorization server with one grant, and another provider.

When a test's body ends, what always holds is looked at: the process lives, nothing was reused, the stored refresh
tokens are the server's live ones, living tokens are served, the other provider's grant goes on being refreshed, and no
secret stands in an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.conftest import RunningBroker, StartBroker
from tests.regressions.process import stored_is_live
from tests.scripted_server import CLIENT_SECRET, AuthorizationServer, authorization_server
from tests.waiting import until

REFRESH = {"request_timeout": "5s", "lease": "11s", "min_interval": "0s", "report_budget": 3600}
"""Short, but no shorter than this very process may be kept from answering on a busy machine."""


def provider_at(auth_server: AuthorizationServer, **more: Any) -> dict[str, Any]:
    """Return settings of a provider at *auth_server*."""
    given = {
        "kind": "oauth2",
        "client_id": "cases",
        "client_secret": CLIENT_SECRET,
        "token_endpoint": f"{auth_server.url}/token",
    }
    return {name: value for name, value in {**given, **more}.items() if value is not None}


@dataclass(slots=True)
class Ground:
    """A broker with the providers `as` (at `auth_server`) and `other`, and what a test does with them."""

    broker: RunningBroker
    auth_server: AuthorizationServer
    other: AuthorizationServer
    redis: Redis
    errors: list[str] = field(default_factory=list)

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any], Any]:
        """As the broker's own `ask`; an error must be JSON with `error`, and is kept to be looked through."""
        status, body, headers = await self.broker.ask(method, path, **options)
        if status >= 400:
            assert isinstance(body.get("error"), str), body
            self.errors.append(json.dumps(body))
        return status, body, headers

    async def held(self, *grants: str) -> None:
        """Import grants, each with a first refresh token of the server, and wait for their first token."""
        for grant in grants:
            body = {"provider": "as", "refresh_token": self.auth_server.issue(grant)}
            status, answer, _ = await self.ask("PUT", f"/v1/grants/{grant}", json=body)
            assert status == 201, answer
        for grant in grants:
            await until(lambda: self.has_token(grant))

    async def has_token(self, grant: str) -> bool:
        """Whether the grant is at rest with a token."""
        state = await self.state_of(grant)
        return state["expires_at"] is not None and state["state"] == "due"

    async def state_of(self, grant: str) -> dict[str, Any]:
        """Return what the broker says of a grant."""
        return await self.broker.get(f"/v1/grants/{grant}")

    async def due(self, *grants: str, provider: str = "as") -> None:
        """Have grants that wait fall due now, by their score."""
        await self.redis.zadd(f"broker:{{0}}:due:{provider}", dict.fromkeys(grants, 0.0), xx=True)

    async def falls_due(self, grant: str = "g1", timeout: float = 10.0) -> dict[str, Any]:
        """Have a grant fall due; what the broker says of it once that was settled, whatever came of it."""
        return await self.recorded(grant, self.due(grant), timeout)

    async def retried(self, grant: str = "g1") -> dict[str, Any]:
        """Have an operator take a grant up once more; what the broker says of it then."""
        return await self.recorded(grant, self.ask("POST", f"/v1/grants/{grant}/retry"))

    async def recorded(self, grant: str, cause: Awaitable[Any], timeout: float = 10.0) -> dict[str, Any]:
        """Return what the broker says of a grant once *cause* led to something that was written down."""
        key = f"broker:{{0}}:grant:{grant}"
        before = await self.redis.hget(key, "last_at")
        await cause

        async def after_cause() -> dict[str, Any] | None:
            if await self.redis.hget(key, "last_at") == before:
                return None
            state = await self.state_of(grant)
            return None if state["state"] == "leased" else state

        found: dict[str, Any] = await until(after_cause, timeout)
        return found

    async def provider(self, name: str = "as") -> dict[str, Any]:
        """Return what the broker says of a provider."""
        listed = (await self.broker.get("/v1/providers"))["providers"]
        return next(dict(provider) for provider in listed if provider["provider"] == name)

    async def resume(self, name: str = "as") -> None:
        """Have an operator take a provider up again."""
        status, answer, _ = await self.ask("POST", f"/v1/providers/{name}/retry")
        assert status == 202, answer

    @contextlib.asynccontextmanager
    async def subscribed(self) -> AsyncIterator[list[dict[str, Any]]]:
        """All messages published while the body lasts, as a strict parser reads them."""
        heard: list[dict[str, Any]] = []
        async with self.redis.pubsub() as pubsub:
            await pubsub.psubscribe("broker:tokens:*")
            assert await pubsub.get_message(timeout=5)

            async def listen() -> None:
                while True:
                    said = await pubsub.get_message(timeout=10)
                    if said is not None and said["type"] == "pmessage":
                        heard.append(strict(said["data"].decode()))

            task = asyncio.create_task(listen())
            try:
                yield heard
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def secrets(self) -> set[str]:
        """Everything that either server issued."""
        return self.auth_server.secrets() | self.other.secrets()

    async def always(self) -> None:
        """Check what holds whatever happened."""
        assert (await self.broker.ask("GET", "/healthz"))[0] == 200
        assert not self.broker.task.done()
        await until(lambda: stored_is_live(self.broker.settings, self.auth_server, self.other))
        await self._living_is_served()
        before = len(self.other.requests_of("o1"))
        await self.due("o1", provider="other")
        await until(lambda: len(self.other.requests_of("o1")) > before)
        await until(lambda: self.has_token("o1"))
        assert (self.auth_server.reuse, self.other.reuse) == (0, 0)
        leaked = [text for text in self.errors if any(secret in text for secret in self.secrets())]
        assert not leaked
        self.broker.secrets |= self.secrets()  # the guard of tests/conftest.py looks through logs and metrics

    async def _living_is_served(self) -> None:
        for grant in self.auth_server.live:
            if ((await self.state_of(grant))["expires_at"] or 0) > time.time() + 1:
                token = await self.broker.token(grant)
                assert grant in self.auth_server.unheard or token["access_token"] == self.auth_server.access[grant]


MakeGround = Callable[..., contextlib.AbstractAsyncContextManager[Ground]]


@pytest.fixture(autouse=True)
def _prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have lanes see at once, not within two seconds, a due time that was moved behind their back."""
    monkeypatch.setattr("broker.refresh.scheduler.IDLE_PAUSE", 0.05)


@pytest.fixture
async def auth_server() -> AsyncIterator[AuthorizationServer]:
    """Yield the provider's scripted authorization server."""
    async with authorization_server() as server:
        yield server


@pytest.fixture
async def other() -> AsyncIterator[AuthorizationServer]:
    """Yield the second provider's server."""
    async with authorization_server() as server:
        yield server


@pytest.fixture
def make_ground(
    start_broker: StartBroker, redis: Redis, auth_server: AuthorizationServer, other: AuthorizationServer
) -> MakeGround:
    """Return the common ground with settings of the test's own: of the provider, of `refresh`, or whole tables."""

    @contextlib.asynccontextmanager
    async def make(
        *grants: str,
        at: AuthorizationServer | None = None,
        refresh: dict[str, Any] | None = None,
        provider: dict[str, Any] | None = None,
        **tables: Any,
    ) -> AsyncIterator[Ground]:
        server = at or auth_server
        providers = {"as": provider_at(server, **(provider or {})), "other": provider_at(other)}
        async with start_broker(providers=providers, refresh={**REFRESH, **(refresh or {})}, **tables) as broker:
            ground = Ground(broker, server, other, redis)
            if "o1" not in other.live:
                await broker.import_("o1", "other", other.issue("o1"))
            await ground.held(*grants)
            yield ground
            await ground.always()

    return make


@pytest.fixture
async def ground(make_ground: MakeGround) -> AsyncIterator[Ground]:
    """Yield the common ground as it is, with the grant `g1`."""
    async with make_ground("g1") as made:
        yield made


def strict(text: str) -> dict[str, Any]:
    """JSON as a browser reads it: no NaN, no Infinity."""

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    parsed: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return parsed
