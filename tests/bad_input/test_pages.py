"""The two routes a browser comes to: whatever goes wrong is a page with words."""

from __future__ import annotations

import html
from typing import Any

import pytest

from broker.sandbox import Sandbox
from tests.conftest import RunningBroker


async def _page(broker: RunningBroker, path: str, status: int, **options: Any) -> str:
    async with broker.session.get(broker.url + path, allow_redirects=False, **options) as answer:
        text = await answer.text()
        assert answer.status == status, (path, answer.status, text)
        assert answer.content_type == "text/html"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "<h1>" in text
    assert "Traceback" not in text
    return html.unescape(text)


async def test_login_links(broker: RunningBroker) -> None:
    """A login link that nobody made is a page that says to ask for a new one."""
    for ticket in ("x", "a" * 3000, "%3Cscript%3E", "%FF", "%00", "..", "a%2Fb"):
        if ticket == "..":
            continue  # a client resolves it
        page = await _page(broker, f"/login/{ticket}", 400)
        assert "ask for a new one" in page
        assert "<script>" not in page


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?",
        "?code=x",
        "?state=x",
        "?code=x&state=x",
        "?code=a&code=b&state=x",
        "?error=access_denied",
        "?state=%FF&code=%00",
        "?state=" + "a" * 5000,
        "?error=%3Cscript%3E&state=x",
        "?=&&=;",
        "?iss=x&code=y",
    ],
)
async def test_callbacks(broker: RunningBroker, query: str) -> None:
    """A redirect that belongs to no login is a page that says so, and echoes nothing."""
    page = await _page(broker, "/callback" + query, 400)
    assert "Not logged in" in page
    assert "<script>" not in page


async def test_foreign_cookies(broker: RunningBroker) -> None:
    """Cookies that others set for the host, or broken ones, are passed over."""
    for cookie in (
        "token_broker_login_x=y",
        "token_broker_login_x=",
        "token_broker_login_x=a.b",
        "=;=;",
        "\u00e4=\u00f6",
    ):
        await _page(broker, "/callback?code=x&state=x", 400, headers={"Cookie": cookie})


async def test_prefetch_does_nothing(broker: RunningBroker) -> None:
    """A browser that only looks ahead, and HEAD, use nothing up."""
    status, started, _ = await broker.ask("POST", "/v1/grants/page/login", json={"provider": "acme"})
    assert status == 200
    path = "/login/" + started["login_url"].rpartition("/")[2]
    async with broker.session.get(broker.url + path, headers={"Sec-Purpose": "prefetch"}) as answer:
        assert answer.status == 503
    async with broker.session.head(broker.url + path) as answer:
        assert answer.status == 200
    async with broker.session.get(broker.url + path, allow_redirects=False) as answer:
        assert answer.status == 302


async def test_provider_away(broker: RunningBroker, sandbox: Sandbox) -> None:
    """A provider that cannot be discovered while somebody logs in is a page, not JSON and no traceback."""
    status, started, _ = await broker.ask("POST", "/v1/grants/page/login", json={"provider": "acme"})
    assert status == 200
    path = "/login/" + started["login_url"].rpartition("/")[2]
    await _redirected_to_nobody(broker, sandbox, path)


async def _redirected_to_nobody(broker: RunningBroker, sandbox: Sandbox, path: str) -> None:
    async with broker.session.get(broker.url + path, allow_redirects=False) as answer:
        location, cookies = answer.headers["Location"], answer.cookies
    state = dict(part.split("=", 1) for part in location.partition("?")[2].split("&"))["state"]
    await sandbox.stop_listening()
    cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in cookies.items())
    page = await _page(
        broker, f"/callback?code=x&state={state}&iss={sandbox.rotating.issuer}", 502, headers={"Cookie": cookie}
    )
    assert "log in again" in page
    await sandbox.start_listening()


async def test_a_bug_is_a_page(broker: RunningBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the broker itself is a page without a traceback, and stands in the log."""

    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("broker.login.login.Login.open", broken)
    monkeypatch.setattr("broker.login.login.Login.callback", broken)
    for path in ("/login/x", "/callback?code=x&state=x"):
        page = await _page(broker, path, 500)
        assert "see its log" in page
        assert "ZeroDivision" not in page
    assert [event["route"] for event in broker.events("request.failed")] == ["open_link", "callback"]
    broker.log.truncate(0)
    broker.log.seek(0)
