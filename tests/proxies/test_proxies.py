"""The recipes of deploy/proxies: nginx's and Caddy's against the real servers, the others by what they must hold."""

from __future__ import annotations

import contextlib
import gzip
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml  # type: ignore[import-untyped]
from aiohttp import web

from broker.sandbox import Sandbox
from broker.secret import key_digest
from tests.conftest import StartBroker
from tests.deploy.deployment import DEPLOY
from tests.ports import free_port
from tests.proxies.programs import KEY, program, proxying
from tests.waiting import until

GRANT = "acme-cameras"


@dataclass(slots=True)
class Service:
    """What stands behind the proxy; it keeps what it was asked."""

    url: str = ""
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """Say what was asked, and 401 where the path wants it."""
        self.asked.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        return web.Response(text="served", status=401 if request.path.endswith("/401") else 200)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """Yield an API on loopback."""
    here = Service()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", here.answer)
    runner = web.AppRunner(application, access_log=None, max_field_size=65_536)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    here.url = f"http://127.0.0.1:{port}"
    yield here
    await runner.cleanup()


def nginx(folder: Path, listen: int, broker: str, service: str) -> list[str]:
    """Return the recipe with this test's addresses, included from a plain nginx.conf."""
    key = folder / "key.conf"
    key.write_text(f'proxy_set_header X-Broker-Key "{KEY}";\n')
    recipe = (DEPLOY / "proxies" / "nginx.conf").read_text()
    for old, new in (
        ("127.0.0.1:8000", f"127.0.0.1:{listen}"),
        ("http://127.0.0.1:8080", broker),
        ("https://rest.cameramanager.com", service),
        ("/etc/nginx/token-broker-key.conf", str(key)),
    ):
        assert old in recipe
        recipe = recipe.replace(old, new)
    (folder / "recipe.conf").write_text(recipe)
    temp = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log {folder}/access.log;\n{temp}include {folder}/recipe.conf; }}\n"
    )
    return [program("nginx"), "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]


def caddy(folder: Path, listen: int, broker: str, service: str) -> list[str]:
    """Return the recipe with this test's addresses."""
    recipe = (DEPLOY / "proxies" / "Caddyfile").read_text()
    for old, new in (
        ("127.0.0.1:8000", f"127.0.0.1:{listen}"),
        ("http://127.0.0.1:8080", broker),
        ("https://rest.cameramanager.com", service),
    ):
        assert old in recipe
        recipe = recipe.replace(old, new)
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + recipe)
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


CALLERS = {"callers": {"proxy": {"key_sha256": key_digest(KEY), "read": [GRANT]}}}
PROXIES = pytest.mark.parametrize("make", [nginx, caddy])


@PROXIES
@pytest.mark.parametrize("size", [40, 8000])
async def test_the_service_gets_the_token_and_nothing_else(
    start_broker: StartBroker, sandbox: Sandbox, service: Service, tmp_path: Path, make: Any, size: int
) -> None:
    """Every method and body goes on with the current token, a large one too; the end user's own goes nowhere."""
    families = sandbox.rotating._families
    mint = families._mint
    families._mint = lambda: mint().ljust(size, "x")
    data = tmp_path / "own"
    data.mkdir()
    (data / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
    async with start_broker(data_dir=data, **CALLERS) as broker:
        pair = sandbox.rotating.issue()
        await broker.import_(GRANT, "acme", pair.refresh_token or "")
        async with proxying(make, tmp_path / "proxy", broker.url, service.url) as url, aiohttp.ClientSession() as user:
            own = {"Authorization": "Bearer of-the-end-user", "X-Broker-Key": "of-the-end-user"}
            for method, body in (("GET", b""), ("POST", b"x" * 100_000), ("PUT", b"y"), ("DELETE", b"")):
                async with user.request(method, f"{url}/cameras/7?a=b", data=body or None, headers=own) as answer:
                    assert (answer.status, await answer.text()) == (200, "served")
                    assert "Authorization" not in answer.headers
            async with user.head(f"{url}/cameras/7") as answer:
                assert answer.status == 200
            compressed = {**own, "Content-Encoding": "gzip"}
            async with user.post(f"{url}/cameras/7", data=gzip.compress(b"z"), headers=compressed) as answer:
                assert answer.status == 200, "the broker sees the upload's headers without its body"
            async with user.get(f"{url}/cameras/401") as answer:
                assert answer.status == 401, "the API's own 401 is passed on"
        token = (await broker.token(GRANT))["access_token"]
        assert len(token) >= size
        assert len(service.asked) == 7
        for _, path, headers, _ in service.asked:
            assert path.startswith(("/7", "/401"))
            assert headers["Authorization"] == f"Bearer {token}"
            assert "X-Broker-Key" not in headers
        assert [(method, len(body)) for method, _, _, body in service.asked[:4]] == [
            ("GET", 0),
            ("POST", 100_000),
            ("PUT", 1),
            ("DELETE", 0),
        ]


@PROXIES
async def test_long_headers_of_the_end_user(
    start_broker: StartBroker, sandbox: Sandbox, service: Service, tmp_path: Path, make: Any
) -> None:
    """Lines of up to 60 kB go to the service, whether the broker is sent them or not."""
    data = tmp_path / "own"
    data.mkdir()
    (data / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
    async with start_broker(data_dir=data, **CALLERS) as broker:
        await broker.import_(GRANT, "acme", sandbox.rotating.issue().refresh_token or "")
        async with proxying(make, tmp_path / "proxy", broker.url, service.url) as url, aiohttp.ClientSession() as user:
            for name in ("Cookie", "X-Own", "Referer", "Accept", "If-None-Match", "Origin"):
                for size in (9_000, 32_000, 60_000):
                    own = {name: "a=" + "x" * size}
                    async with user.post(f"{url}/cameras/7", data=b"y" * 70_000, headers=own) as answer:
                        assert (answer.status, await answer.text()) == (200, "served"), (name, size)
                    assert service.asked[-1][2][name] == own[name]


@PROXIES
async def test_no_token_is_a_503_with_retry_after(
    start_broker: StartBroker, sandbox: Sandbox, service: Service, tmp_path: Path, make: Any
) -> None:
    """With the broker down, or our key unknown to it, the end user gets 503 and when to come back; then it recovers."""
    port = free_port()
    address = {"listen": [f"127.0.0.1:{port}"], "public_url": f"http://127.0.0.1:{port}"}
    data = tmp_path / "own"
    data.mkdir()
    (data / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
    async with contextlib.AsyncExitStack() as stack:
        broker_url = f"http://127.0.0.1:{port}"
        url = await stack.enter_async_context(proxying(make, tmp_path / "proxy", broker_url, service.url))
        user = await stack.enter_async_context(aiohttp.ClientSession())

        async def status() -> tuple[int, bool]:
            async with user.get(f"{url}/cameras/7") as answer:
                assert KEY not in await answer.text()
                return answer.status, "Retry-After" in answer.headers

        began = time.monotonic()
        assert await status() == (503, True), "the broker is down"
        assert time.monotonic() - began < 5
        async with start_broker(http=address, data_dir=data):
            assert await status() == (503, True), "our key is unknown there"
        assert service.asked == []
        async with start_broker(http=address, data_dir=data, **CALLERS) as broker:
            await broker.import_(GRANT, "acme", sandbox.rotating.issue().refresh_token or "")
            assert await status() == (200, False)
            await broker.ask("DELETE", f"/v1/grants/{GRANT}")
            sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant"})
            dead = {"provider": "acme", "refresh_token": sandbox.rotating.issue().refresh_token}
            await broker.ask("PUT", f"/v1/grants/{GRANT}", json=dead)

            async def parked() -> bool:
                return bool((await broker.get(f"/v1/grants/{GRANT}"))["state"] == "parked")

            await until(parked)
            assert await status() == (503, True), "a person must log in"
        assert await status() == (503, True), "it is down again"


def test_traefik() -> None:
    """The key goes before ForwardAuth, only it is sent, and it is deleted again before the service."""
    recipe = yaml.safe_load((DEPLOY / "proxies" / "traefik.yml").read_text())["http"]
    before, broker = recipe["routers"]["cameras"]["middlewares"]
    assert "X-Broker-Key" in recipe["middlewares"][before]["headers"]["customRequestHeaders"]
    forward = recipe["middlewares"][broker]["forwardAuth"]
    assert forward["address"].endswith("/authorization")
    assert forward["authRequestHeaders"] == ["X-Broker-Key"]
    assert forward["authResponseHeaders"] == ["Authorization", "X-Broker-Key"]


def test_envoy() -> None:
    """ext_authz asks below our path with our key, waits longer than 200 ms, and passes only the token on."""
    recipe = yaml.safe_load((DEPLOY / "proxies" / "envoy.yaml").read_text())["static_resources"]
    manager = recipe["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    authz, router = manager["http_filters"]
    assert router["name"].endswith(".router")
    assert authz["typed_config"]["failure_mode_allow"] is False
    ask = authz["typed_config"]["http_service"]
    assert ask["path_prefix"].endswith("/authorization")
    assert ask["server_uri"]["timeout"] == "6s"
    assert ask["authorization_request"]["headers_to_add"][0]["key"] == "x-broker-key"
    allowed = ask["authorization_response"]["allowed_upstream_headers"]["patterns"]
    assert allowed == [{"exact": "authorization"}]
    clusters = {cluster["name"] for cluster in recipe["clusters"]}
    route = manager["route_config"]["virtual_hosts"][0]["routes"][0]
    assert {ask["server_uri"]["cluster"], route["route"]["cluster"]} == clusters
