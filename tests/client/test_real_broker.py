"""The client against a real broker, a real store and a real authorization server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from broker.client import (
    Broker,
    InvalidRequest,
    NotAllowed,
    ReauthorizationRequired,
    TokenUnavailable,
    UnknownGrant,
    UnknownKey,
)
from broker.sandbox import Sandbox
from broker.secret import key_digest
from tests.client.conftest import start_api
from tests.conftest import RunningBroker, StartBroker
from tests.ports import free_port
from tests.steps import assert_sound, log_in, make_due
from tests.waiting import until

KEY = "tbk_service-key-0123456789-0123456789_abc"
CALLERS = {"svc": {"key_sha256": key_digest(KEY), "read": ["g*", "h*"], "refresh": ["g*"]}}


@pytest.fixture
async def broker(start_broker: StartBroker, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[RunningBroker]:
    """Start a broker with one valid grant; the caller `svc` may read it and have it refreshed."""
    data = tmp_path / "own"
    data.mkdir()
    (data / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
    async with start_broker(data_dir=data, callers=CALLERS, refresh={"min_interval": "1s"}) as running:
        running.secrets.add(KEY)
        await running.import_("g1", "acme", sandbox.rotating.issue(scope="a b").refresh_token or "")
        yield running


async def test_a_living_token(broker: RunningBroker, sandbox: Sandbox) -> None:
    """The client returns the provider's token, its lifetime and the members that the provider sent."""
    async with Broker(broker.url, KEY) as client:
        grant = client.grant("g1")
        await grant.ready(timeout=5)
        token = await grant.token(min_ttl=60)
        served = await broker.token("g1")
        assert token.value == served["access_token"]
        assert (token.generation, token.expires_at, token.scope) == (served["generation"], served["expires_at"], "a b")
        assert 3590 < token.remaining() <= 3600


async def test_the_next_token_within_a_moment(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A refresh reaches the client by its long poll, before anybody asks."""
    async with Broker(broker.url, KEY) as client:
        grant = client.grant("g1")
        first = await grant.token()
        await asyncio.sleep(0.1)
        await make_due(redis, "acme", "g1")

        async def newer() -> bool:
            return (await grant.token()).generation > first.generation

        await until(newer, 5)
        assert (await grant.token()).value == (await broker.token("g1"))["access_token"]
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_refusals_of_a_real_broker(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Every error arrives as the exception that names it, with what helps."""
    async with Broker(broker.url, KEY) as client:
        with pytest.raises(UnknownGrant):
            await client.grant("g9").token()
        with pytest.raises(NotAllowed, match="svc"):
            await client.grant("x1").token()
        with pytest.raises(InvalidRequest, match="ask for less"):
            await client.grant("g1").token(min_ttl=100_000)
    async with Broker(broker.url, "nobody's") as client:
        with pytest.raises(UnknownKey, match="caller new"):
            await client.grant("g1").token()


async def test_a_dead_grant_and_its_healing(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """The link leads to the status page at the grant; once a person has logged in, the same call succeeds."""
    sandbox.rotating.options.access_lifetime = 2
    async with Broker(broker.url, KEY) as client:
        await log_in(broker, "g2", "acme")
        await client.grant("g2").ready()
        sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant"})

        async def dead() -> ReauthorizationRequired | None:
            try:
                await client.grant("g2").token(timeout=1)
            except ReauthorizationRequired as error:
                return error
            except TokenUnavailable:  # its refresh is under way
                return None
            return None

        error = await until(dead, 10)
        assert error.login_url == f"{broker.url}/#search=g2"
        async with broker.session.get(error.login_url) as page:
            assert page.status == 200
            assert page.content_type == "text/html"
        sandbox.rotating.options.access_lifetime = 3600
        await log_in(broker, "g2", "acme")
        await client.grant("g2").ready(timeout=5)


async def test_no_page_where_only_logins_are_public(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Behind a public listener there is no status page: the client names the address that it uses itself."""
    port = free_port()
    http = {"public_listen": [f"127.0.0.1:{port}"], "public_url": f"http://127.0.0.1:{port}"}
    async with start_broker(http=http, refresh={"min_interval": "1s"}) as running:
        running_url = running.url
        await running.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        token = await running.token("g1")
        sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant"})
        await asyncio.sleep(1.1)
        status, body, _ = await running.ask(
            "POST", "/v1/grants/g1/refresh", headers={"If-Match": f'"{token["generation"]}"'}
        )
        assert (status, body["error"]) == (409, "reauthorization_required")
        assert "login_url" not in body
        async with Broker(running_url, running.admin_key) as client:
            grant = client.grant("g1")
            with pytest.raises(ReauthorizationRequired) as dead:
                await grant.report(await grant.token())
            assert dead.value.login_url == f"{running_url}/#search=g1"


async def test_a_401_through_a_real_broker(broker: RunningBroker, sandbox: Sandbox) -> None:
    """A hundred requests whose token the API rejects cause one refresh at the provider, and none of them notices."""
    refused: set[str] = set()
    async with (
        start_api(lambda token: sandbox.rotating.is_live_access(token) and token not in refused) as api,
        Broker(broker.url, KEY) as client,
        aiohttp.ClientSession(middlewares=[client.grant("g1").aiohttp(api.url)]) as session,
    ):
        refused.add((await client.grant("g1").token()).value)
        await asyncio.sleep(1.1)
        before = len(sandbox.rotating.token_requests)

        async def get() -> int:
            async with session.get(api.url) as answer:
                return answer.status

        assert set(await asyncio.gather(*(get() for _ in range(100)))) == {200}
        assert len(sandbox.rotating.token_requests) == before + 1
        assert len(api.came) == 200
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_a_restart_is_invisible(start_broker: StartBroker, sandbox: Sandbox, tmp_path: Path) -> None:
    """Another broker replaces the one that ended: a client with a token notices nothing, and follows the new one."""
    port = free_port()
    places: dict[str, Any] = {
        "data_dir": tmp_path / "own",
        "callers": CALLERS,
        "http": {"listen": [f"127.0.0.1:{port}"], "public_url": f"http://127.0.0.1:{port}"},
    }
    async with Broker(f"http://127.0.0.1:{port}", KEY) as client:
        grant = client.grant("g1")
        starting = asyncio.create_task(grant.ready(timeout=20))
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
        async with start_broker(**places) as first:
            await first.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
            with contextlib.suppress(UnknownGrant):
                await starting
            await grant.ready()
            token = await grant.token()
            await asyncio.sleep(0.1)
        for _ in range(20):
            assert await grant.token() is token
            await asyncio.sleep(0.01)
        async with start_broker(**places) as second:
            for _ in range(20):
                assert (await grant.token()).value == token.value
            await second.ask("POST", "/v1/grants/g1/retry")

            async def newer() -> bool:
                return (await grant.token()).generation > token.generation

            await until(newer, 10)
            await assert_sound(second, sandbox, ("g1", "acme"))
