"""A proxy between callers and the broker, as it comes: nginx with its own time-outs, and one that takes keys away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.sandbox import Sandbox, walk_login
from broker.secret import key_digest
from tests.conftest import RunningBroker, StartBroker
from tests.ports import free_port
from tests.proxies.programs import KEY, program, proxying

GRANT = "acme-cameras"


def nginx(lines: str, folder: Path, listen: int, broker: str, _: str) -> list[str]:
    """One that passes everything on, with these *lines* besides."""
    temp = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temp}"
        f"server {{ listen 127.0.0.1:{listen}; underscores_in_headers on;\n"
        f"location / {{ proxy_pass {broker}; {lines} }} }} }}\n"
    )
    return [program("nginx"), "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]


@pytest.fixture
async def behind(
    start_broker: StartBroker, sandbox: Sandbox, tmp_path: Path
) -> AsyncIterator[tuple[RunningBroker, str]]:
    """Yield a broker behind an nginx that takes Authorization away; its address for callers and browsers."""
    data, port = tmp_path / "own", free_port()
    data.mkdir()
    (data / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
    make = partial(nginx, 'proxy_set_header Authorization "";')
    callers = {"svc": {"key_sha256": key_digest(KEY), "read": [GRANT]}}
    listen = f"127.0.0.1:{port}"
    async with proxying(make, tmp_path / "proxy", f"http://{listen}", "") as url:
        http = {"listen": [listen], "public_url": url}
        async with start_broker(http=http, data_dir=data, callers=callers) as broker:
            await broker.import_(GRANT, "acme", sandbox.rotating.issue().refresh_token or "")
            yield broker, url


async def ask(url: str, method: str = "GET", **options: Any) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one request."""
    async with aiohttp.ClientSession() as session, session.request(method, url, **options) as answer:
        return answer.status, await answer.json() if answer.status != 304 else {}


async def test_a_proxy_that_takes_authorization_away(behind: tuple[RunningBroker, str]) -> None:
    """X-Broker-Key and a client in the body come through, login links too; a 401 says which header to use."""
    broker, url = behind
    token = f"{url}/v1/grants/{GRANT}/token"
    status, body = await ask(token, headers={"Authorization": f"Bearer {KEY}"})
    assert status == 401
    assert "X-Broker-Key" in body["error_description"]
    assert (await ask(token, headers={"X-Broker-Key": KEY}))[0] == 200
    assert (await ask(token, headers={"X_Broker_Key": KEY}))[0] == 401, "another name, whoever let it through"
    form = {"grant_type": "client_credentials", "scope": f"grant:{GRANT}", "client_id": "svc", "client_secret": KEY}
    status, body = await ask(f"{url}/oauth2/token", "POST", data=form)
    assert (status, body["access_token"]) == (200, (await broker.token(GRANT))["access_token"])
    _, started = await ask(
        f"{url}/v1/grants/{GRANT}/login", "POST", json={"provider": "acme"}, headers={"X-Broker-Key": broker.admin_key}
    )
    assert started["login_url"].startswith(url)
    assert "Logged in" in await walk_login(started["login_url"])


async def test_a_long_poll_through_a_proxy(behind: tuple[RunningBroker, str]) -> None:
    """A wait that is asked for ends before nginx gives up; news comes through, and so does leaving."""
    broker, url = behind
    before = await broker.token(GRANT)
    waits = {"If-None-Match": f'"{before["generation"]}"', "Prefer": "wait=300", "X-Broker-Key": KEY}
    token = f"{url}/v1/grants/{GRANT}/token"

    async def waiting(many: int) -> None:
        async with asyncio.timeout(5):
            while f"\ntoken_broker_subscribers {many}.0\n" not in (await broker.ask("GET", "/metrics"))[1]["text"]:
                await asyncio.sleep(0.02)

    gone = [asyncio.create_task(ask(token, headers=waits)) for _ in range(20)]
    await waiting(20)
    for caller in gone:
        caller.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    await waiting(0)
    poll = asyncio.create_task(ask(token, headers=waits))
    await waiting(1)
    _, started, _ = await broker.ask("POST", f"/v1/grants/{GRANT}/login", json={"provider": "acme"})
    assert "Logged in" in await walk_login(started["login_url"])
    status, body = await asyncio.wait_for(poll, 5)
    assert status == 200
    assert body["generation"] > before["generation"]
