"""The broker below a path of another host: the recipes of deploy/proxies/path, with the path passed on and stripped."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest
import yaml  # type: ignore[import-untyped]

from broker.check.public import check_public, fetch_facts
from broker.sandbox import Sandbox, walk_login
from broker.secret import key_digest
from tests.conftest import RunningBroker, StartBroker
from tests.deploy.deployment import DEPLOY
from tests.ports import free_port
from tests.proxies.programs import KEY, program, proxying

GRANT = "acme-cameras"
RECIPES = DEPLOY / "proxies" / "path"
TEMP = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def changed(recipe: str, *changes: tuple[str, str]) -> str:
    """Return a recipe with a test's addresses."""
    text = (RECIPES / recipe).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def nginx(prefix: str, strip: bool, folder: Path, listen: int, broker: str, _: str) -> list[str]:
    """Return the command of an nginx by the recipe."""
    passed = ("proxy_pass http://127.0.0.1:8080;", f"proxy_pass {broker}{'/' if strip else ''};")
    recipe = changed("nginx.conf", passed, ("location /broker/", f"location {prefix}/"))
    temp = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in TEMP)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temp}server {{ listen 127.0.0.1:{listen};\n{recipe}\n}} }}\n"
    )
    return [program("nginx"), "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]


def caddy(prefix: str, strip: bool, folder: Path, listen: int, broker: str, _: str) -> list[str]:
    """Return the command of a Caddy by the recipe."""
    recipe = changed(
        "Caddyfile",
        ("redir /broker /broker/", f"redir {prefix} {prefix}/"),
        ("handle /broker/*", f"{'handle_path' if strip else 'handle'} {prefix}/*"),
        ("tools.example.org {", f"http://127.0.0.1:{listen} {{"),
        ("127.0.0.1:8080", broker.removeprefix("http://")),
    )
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + recipe)
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@dataclass(frozen=True, slots=True)
class Below:
    """A broker below a path, and its address for callers and browsers."""

    broker: RunningBroker
    prefix: str
    url: str


@pytest.fixture(
    params=[
        (make, prefix, strip)
        for make in (nginx, caddy)
        for prefix in ("/broker", "/tools/token.broker")
        for strip in (False, True)
    ]
    + [(nginx, prefix, strip) for prefix in ("/login", "/v1", "/session") for strip in (False, True)],
    ids=lambda param: f"{param[0].__name__}-{param[1]}-{'stripped' if param[2] else 'passed on'}",
)
async def below(
    request: pytest.FixtureRequest, start_broker: StartBroker, sandbox: Sandbox, tmp_path: Path
) -> AsyncIterator[Below]:
    """Yield a broker below a path; the path may begin as the broker's own paths do."""
    make, prefix, strip = request.param
    data, port = tmp_path / "own", free_port()
    data.mkdir()
    (data / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
    callers = {"svc": {"key_sha256": key_digest(KEY), "read": ["*"]}}
    listen = f"127.0.0.1:{port}"
    async with proxying(partial(make, prefix, strip), tmp_path / "proxy", f"http://{listen}", "") as root:
        http = {"listen": [listen], "public_url": f"{root}{prefix}/"}
        async with start_broker(http=http, data_dir=data, callers=callers) as broker:
            await broker.import_(GRANT, "acme", sandbox.rotating.issue().refresh_token or "")
            yield Below(broker, prefix, root + prefix)


async def ask(url: str, method: str = "GET", **options: Any) -> tuple[int, Any]:
    """Status and JSON of one request."""
    async with aiohttp.ClientSession() as session, session.request(method, url, **options) as answer:
        return answer.status, await answer.json()


async def test_logins(below: Below, sandbox: Sandbox) -> None:
    """A login link leads to the provider and back, with a cookie that only the callback is sent."""
    key = {"X-Broker-Key": below.broker.admin_key}
    _, started = await ask(f"{below.url}/v1/grants/new/login", "POST", json={"provider": "acme"}, headers=key)
    assert started["login_url"].startswith(f"{below.url}/login/")
    async with (
        aiohttp.ClientSession() as session,
        session.get(started["login_url"], allow_redirects=False) as answer,
    ):
        (cookie,) = answer.cookies.values()
        assert cookie["path"] == f"{below.prefix}/callback"
    assert "Logged in" in await walk_login(started["login_url"])
    assert (await ask(f"{below.url}/v1/grants/new/token", headers={"X-Broker-Key": KEY}))[0] == 200
    async with (
        aiohttp.ClientSession(max_line_size=65536) as session,
        session.get(f"{below.url}/callback?state=x&code={'c' * 20_000}") as answer,
    ):
        assert (answer.status, answer.content_type) == (400, "text/html")


async def hear_a_change(below: Below, browser: aiohttp.ClientSession, page: dict[str, str]) -> None:
    """Read the stream of the page until the end of a grant is an event: a proxy that buffers would keep it."""
    async with browser.get(f"{below.url}/v1/events", headers={**page, "Accept": "text/event-stream"}) as stream:
        assert stream.status == 200
        assert await stream.content.readline() == b"retry: 5000\n"
        assert (await below.broker.ask("DELETE", f"/v1/grants/{GRANT}"))[0] == 200
        async with asyncio.timeout(10):
            while await stream.content.readline() != b"event: changed\n":
                pass


async def test_the_status_page(below: Below) -> None:
    """The page's files, requests and stream stay below the path, and so does the cookie of a session."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(below.url) as answer:
            assert str(answer.url) == f"{below.url}/"
            text = await answer.text()
        files = re.findall(r'(?:href|src)="(page/[^"]+)"', text)
        assert len(files) >= 3
        for file in files:
            async with browser.get(urljoin(f"{below.url}/", file)) as answer:
                assert answer.status == 200, file
        page = {"X-Broker-Page": "1", "Sec-Fetch-Site": "same-origin"}
        signing = {"key": below.broker.admin_key}
        async with browser.post(f"{below.url}/session", json=signing, headers=page) as answer:
            (cookie,) = answer.cookies.values()
            assert (answer.status, cookie["path"]) == (200, below.prefix)
        async with browser.get(f"{below.url}/v1/grants", headers=page) as answer:
            assert [grant["grant_id"] for grant in (await answer.json())["grants"]] == [GRANT]
        await hear_a_change(below, browser, page)
        async with browser.post(f"{below.url}/session/end", headers=page) as answer:
            assert answer.status == 200
        async with browser.get(f"{below.url}/v1/grants", headers=page) as answer:
            assert answer.status == 401


async def test_what_programs_are_given(below: Below, sandbox: Sandbox) -> None:
    """The OpenAPI document names the path, and an error's link for people leads to the page."""
    _, document = await ask(f"{below.url}/openapi.json")
    (server,) = document["servers"]
    for path in ("/healthz", "/readyz", f"/v1/grants/{GRANT}/token"):
        assert path in document["paths"] or "{id}" in "".join(document["paths"])
        status, _ = await ask(urljoin(below.url, server["url"]) + path, headers={"X-Broker-Key": KEY})
        assert status == 200
    dead = {"provider": "acme", "refresh_token": "never-issued-xxxxxxxx"}
    await below.broker.ask("PUT", "/v1/grants/dead", json=dead)
    status, body = await ask(f"{below.url}/v1/grants/dead/token", headers={"X-Broker-Key": KEY})
    assert (status, body["login_url"]) == (409, f"{below.url}/#search=dead")
    status, _ = await ask(f"{below.broker.url}/v1/grants/{GRANT}/token", headers={"X-Broker-Key": KEY})
    assert status == 200, "callers that come past the proxy use no path"


async def test_check(below: Below) -> None:
    """`check --online` tries the address: it leads here, to something else, or nowhere yet."""
    for url, level in (
        (f"{below.url}/", "ok"),
        (f"{below.url}/elsewhere", "warning"),
        (below.broker.url, "ok"),
        (f"http://127.0.0.1:{free_port()}{below.prefix}", "unknown"),
    ):
        (finding,) = check_public(await fetch_facts(url, 5), url)
        assert finding.level == level, (url, finding)


def test_traefik() -> None:
    """The path and nothing longer is matched, and nothing is stripped."""
    recipe = yaml.safe_load((RECIPES / "traefik.yml").read_text())["http"]
    router = recipe["routers"]["token-broker"]
    assert "Path(`/broker`) || PathPrefix(`/broker/`)" in router["rule"]
    assert "middlewares" not in router
    assert router["service"] in recipe["services"]
