"""Names and addresses of an authorization server: families that lead nowhere, literals, and its own discovery."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.redis_server import RedisServer
from tests.regressions.black_hole import black_hole
from tests.regressions.certificates import server_context
from tests.regressions.conftest import MakeGround, provider_at
from tests.regressions.process import Process, broker_process, missing
from tests.scripted_server import AuthorizationServer, Exchange, authorization_server, http, says
from tests.waiting import until


@contextlib.asynccontextmanager
async def broker_with_hosts(
    folder: Path, redis: RedisServer, auth_server: AuthorizationServer, hosts: str, authority: trustme.CA
) -> AsyncIterator[Process]:
    """Yield a broker that sees these names in /etc/hosts, in a mount namespace of its own."""
    unshare = await asyncio.create_subprocess_exec("unshare", "-m", "true", stderr=subprocess.DEVNULL)
    if await unshare.wait():
        missing("right to make a mount namespace")
    authority.cert_pem.write_to_path(str(folder / "bundle.pem"))
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
    through = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(folder / "hosts")]
    env = {"SSL_CERT_FILE": str(folder / "bundle.pem")}
    async with broker_process(
        folder / "b", redis.url, {"as": provider_at(auth_server)}, env=env, through=through
    ) as process:
        yield process


@pytest.mark.parametrize(
    ("host", "name", "hosts", "holed"),
    [
        pytest.param("127.0.0.1", "as.test", "::1 as.test\n127.0.0.1 as.test\n", True, id="AAAA-black-holed"),
        pytest.param("::1", "as.test", "::1 as.test\n", False, id="AAAA-only"),
        pytest.param("::1", "[::1]", "", False, id="literal"),
    ],
)
async def test_ipv6(
    shared_redis: RedisServer, redis: Any, tmp_path: Path, host: str, name: str, hosts: str, holed: bool
) -> None:
    """IPv6 that leads nowhere costs a moment, and one that is the only way is taken, by name and by address."""
    authority = trustme.CA()
    context = server_context(authority, name.strip("[]"))
    async with authorization_server(host=host, name=name, tls=context) as auth_server:
        with black_hole(auth_server.port) if holed else contextlib.nullcontext():
            async with broker_with_hosts(tmp_path, shared_redis, auth_server, hosts, authority) as broker:
                await broker.put("g1", auth_server.issue("g1"))
                await until(lambda: broker.has_token("g1"))
                token = await broker.get("/v1/grants/g1/token")
                assert token["access_token"] == auth_server.access["g1"]
                took = (await broker.metrics())["token_broker_refresh_duration_seconds_sum", "as"]
                assert took > 0.2 if holed else took < 10, "the way that leads nowhere is tried first"
                await redis.zadd("broker:{0}:due:as", {"g1": 0}, xx=True)
                await until(lambda: len(auth_server.requests_of("g1")) == 2)
                await broker.keeps(auth_server)


def document(auth_server: AuthorizationServer, issuer: str) -> bytes:
    """Return a discovery document."""
    return json.dumps(
        {
            "issuer": issuer,
            "token_endpoint": f"{auth_server.url}/token",
            "authorization_endpoint": f"{auth_server.url}/authorize",
        }
    ).encode()


def oidc(issuer: str) -> dict[str, Any]:
    """Return settings that leave the endpoints to discovery."""
    return {"kind": "oidc", "issuer": issuer, "token_endpoint": None}


async def test_issuer_that_lacks_a_slash(make_ground: MakeGround, auth_server: AuthorizationServer) -> None:
    """An issuer that differs by a slash is refused in words that name both, and asks no `//`; nobody is parked."""
    ours, theirs = f"{auth_server.url}/r/", f"{auth_server.url}/r"
    auth_server.page = says(document(auth_server, theirs))
    async with make_ground(provider=oidc(ours)) as ground:
        await ground.ask("PUT", "/v1/grants/g1", json={"provider": "as", "refresh_token": auth_server.issue("g1")})

        async def names_both() -> dict[str, Any] | None:
            state = await ground.state_of("g1")
            return state if state["last"] else None

        state = await until(names_both)
        assert (state["state"], state["last"]["outcome"]) == ("due", "not_sent")
        status, error, _ = await ground.ask("POST", "/v1/grants/g2/login", json={"provider": "as"})
        assert status >= 400
        for words in (state["last"]["detail"], error["error_description"], (await ground.provider())["detail"]):
            assert f"'{ours}'" in words
            assert f"'{theirs}'" in words
        assert {page.target for page in auth_server.pages} == {"/r/.well-known/openid-configuration"}
        assert auth_server.requests == []


async def test_issuer_with_a_slash(make_ground: MakeGround, auth_server: AuthorizationServer) -> None:
    """An issuer with a slash on both sides works: due, and login."""
    issuer = f"{auth_server.url}/r/"
    auth_server.page = says(document(auth_server, issuer))
    async with make_ground("g1", provider=oidc(issuer)) as ground:
        assert (await ground.falls_due())["last"]["outcome"] == "refreshed"
        status, started, _ = await ground.ask("POST", "/v1/grants/g2/login", json={"provider": "as"})
        assert status == 200
        assert started["authorization_url"].startswith(f"{auth_server.url}/authorize?")
        assert {page.target for page in auth_server.pages} == {"/r/.well-known/openid-configuration"}


async def test_discovery_down_at_start(make_ground: MakeGround, auth_server: AuthorizationServer) -> None:
    """A broker that starts while discovery is down serves what it holds, asks with patience, and then refreshes."""
    healthy, down = True, 0

    async def page(exchange: Exchange) -> bool:
        nonlocal down
        down += not healthy
        await exchange.send(http(document(auth_server, auth_server.url)) if healthy else http(b"", 503))
        return True

    auth_server.page = page
    async with make_ground("g1", provider=oidc(auth_server.url)):
        pass
    healthy = False
    async with make_ground(provider=oidc(auth_server.url)) as ground:
        assert (await ground.broker.token("g1"))["access_token"] == auth_server.access["g1"]
        state = await ground.falls_due()
        assert (state["state"], state["last"]["outcome"]) == ("due", "not_sent")
        assert "503" in state["last"]["detail"]
        began, first = auth_server.pages[-1].at, down
        await until(lambda: down > first, 15)
        assert auth_server.pages[-1].at - began > 0.95
        healthy = True
        await until(lambda: len(auth_server.requests_of("g1")) == 2, 20)
        await until(lambda: ground.has_token("g1"))
        assert (await ground.state_of("g1"))["last"]["outcome"] == "refreshed"
