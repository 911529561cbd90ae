"""A broker that reaches its provider through an HTTP proxy: a proxy that fails costs time, and no refresh token."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.connect_proxy import Fault, connect_proxy
from tests.regressions.certificates import server_context
from tests.regressions.conftest import provider_at
from tests.regressions.process import stored_is_live
from tests.scripted_server import AuthorizationServer, authorization_server
from tests.steps import make_due
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from redis.asyncio import Redis

    from tests.conftest import RunningBroker, StartBroker

NAME = "as.test"
PAIR = "broker-of-tests:a-pass:word"
FAULTS: list[Fault] = ["refuse", "close", "reset", "garbage", "hang", "close tunnel", "reset tunnel"]


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AuthorizationServer]:
    """Start an authorization server behind https://as.test, which only the proxy can find."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "bundle.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "bundle.pem"))
    async with authorization_server(tls=server_context(authority, NAME), name=NAME) as started:
        yield started


async def refreshed(broker: RunningBroker, generation: Any) -> bool:
    """Return whether the grant has another token than that of *generation*."""
    return bool((await broker.token("g1"))["generation"] != generation)


@pytest.mark.parametrize("fault", [*FAULTS, "credentials"])
async def test_failing_proxy(
    start_broker: StartBroker, redis: Redis, server: AuthorizationServer, tmp_path: Path, fault: Any
) -> None:
    """While the proxy fails nothing is sent and the token is served; then the refresh passes, once."""
    file = tmp_path / "proxy_credentials"
    file.write_text(f"{PAIR}\n")
    async with connect_proxy(PAIR, names={NAME: server.port}) as proxy:
        tables = {
            "providers": {"as": provider_at(server)},
            "outgoing": {"proxy": proxy.url, "proxy_credentials_file": file},
            "refresh": {"request_timeout": "1s", "lease": "7s"},
        }
        async with start_broker(**tables) as broker:
            broker.secrets.update(PAIR.split(":", 1))
            await broker.import_("g1", "as", server.issue("g1"))
            generation = (await broker.token("g1"))["generation"]
            await proxy.cut()
            await asyncio.sleep(0.1)  # until the broker has seen the end of its idle tunnel
            if fault == "credentials":
                file.write_text("broker-of-tests:another\n")
            else:
                proxy.fault = fault
            await make_due(redis, "as", "g1")
            await until(lambda: broker.events("grant.postponed"))
            event = broker.events("grant.postponed")[0]
            assert (event["outcome"], proxy.url in str(event)) == ("not_sent", True), event
            assert (len(server.requests), (await broker.token("g1"))["generation"]) == (1, generation)

            proxy.fault = None
            file.write_text(f"{PAIR}\n")
            await make_due(redis, "as", "g1")
            await until(partial(refreshed, broker, generation))
            await until(partial(stored_is_live, broker.settings, server))
    assert (len(server.requests), server.reuse) == (2, 0)


async def test_ignored_variable(start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the environment that is not used is named at start, without its value."""
    monkeypatch.setenv("https_proxy", "http://user:a-pass-word@127.0.0.1:9")
    async with start_broker() as broker:
        (event,) = broker.events("proxy.ignored")
        assert event["variables"] == ["HTTPS_PROXY"]
        assert "a-pass-word" not in broker.log.getvalue()
    async with start_broker(outgoing={"proxy": "none"}) as broker:
        assert not broker.events("proxy.ignored")
