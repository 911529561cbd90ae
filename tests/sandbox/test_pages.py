"""The pages, and what must never be redirected."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from broker.sandbox import BrowserError, walk_login, walk_to_redirect
from broker.sandbox.browser import parse_forms

if TYPE_CHECKING:
    from broker.sandbox import Sandbox

    from .relying import RelyingParty


async def test_wrong_password(sandbox: Sandbox, client: RelyingParty) -> None:
    """A wrong password shows the form again with a 403; any user name with the right one is let in."""
    url = client.authorization_url(sandbox.v3)
    with pytest.raises(BrowserError) as caught:
        await walk_login(url, password="wrong")
    assert caught.value.status == 403
    assert "Wrong user name or password" in caught.value.text
    assert "?" not in str(caught.value)
    await walk_login(url, user="ada <3")
    await client.exchange(sandbox.v3, client.callbacks[-1]["code"])
    assert sandbox.v3.families[0].user == "ada <3"


async def test_walk_to_redirect(sandbox: Sandbox, client: RelyingParty) -> None:
    """The URL that leads back can be read without opening it, for hosts without a browser."""
    url = client.authorization_url(sandbox.rotating)
    back = await walk_to_redirect(url, client.redirect_uri)
    assert back.startswith(f"{client.redirect_uri}?code=")
    assert parse_qs(urlsplit(back).query)["state"] == ["st+a te"]
    assert client.callbacks == []


async def test_walk_to_redirect_reports_a_dead_end(sandbox: Sandbox) -> None:
    """A walk that ends on a page before the client is an error, not a URL."""
    with pytest.raises(BrowserError, match="no redirect to the client"):
        await walk_to_redirect(f"{sandbox.url}/sandbox/state", "http://127.0.0.1/callback")


async def test_pages_are_self_contained(sandbox: Sandbox, client: RelyingParty) -> None:
    """The login page labels its fields, loads nothing, and is neither stored nor framed."""
    answer = await client.call("GET", client.authorization_url(sandbox.cameramanager))
    for expected in ('lang="en"', "<title>", '<label for="user">', '<label for="password">', "<h1>"):
        assert expected in answer.text
    for forbidden in ("src=", "href=", "<script"):
        assert forbidden not in answer.text
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"


async def test_no_redirect_for_an_unknown_client(sandbox: Sandbox, client: RelyingParty) -> None:
    """With an unknown client nothing is redirected (RFC 6749 §4.1.2.1)."""
    url = client.authorization_url(sandbox.rotating, client_id="stranger")
    assert (await client.call("GET", url)).status == 400
    doubled = client.authorization_url(sandbox.rotating) + "&state=again"
    assert (await client.call("GET", doubled)).status == 400


@pytest.mark.parametrize("uri", ["", "javascript:alert(1)", "http://[::1", "http://127.0.0.1/#x", "http://a b/"])
async def test_no_redirect_to_strange_places(sandbox: Sandbox, client: RelyingParty, uri: str) -> None:
    """Neither other schemes nor fragments nor malformed URIs are redirected to."""
    url = client.authorization_url(sandbox.rotating, redirect_uri=uri)
    assert (await client.call("GET", url)).status == 400


async def test_errors_go_back_to_the_client(sandbox: Sandbox, client: RelyingParty) -> None:
    """A known client gets its errors by redirect, state included."""
    came_back = await client.login(sandbox.rotating, response_type="token")
    assert (came_back["error"], came_back["state"]) == ("unsupported_response_type", "st+a te")
    assert (await client.login(sandbox.v3, scope="other"))["error"] == "invalid_scope"
    challenge = {"code_challenge": "short", "code_challenge_method": "S256"}
    assert (await client.login(sandbox.v3, **challenge))["error"] == "invalid_request"


async def test_consent_needs_its_own_page(sandbox: Sandbox, client: RelyingParty) -> None:
    """A consent posted by another site is rejected: it does not know the hidden value."""
    url = client.authorization_url(sandbox.rotating)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        login = {"step": "login", "user": "demo", "password": "demo"}
        async with http.post(url, data=login) as response:
            (form,) = parse_forms(await response.text())
        assert form.buttons == [("decision", "allow"), ("decision", "deny")]
        async with http.post(url, data={"decision": "allow"}) as response:
            assert response.status == 403
    assert client.callbacks == []


async def test_endless_redirects_end(sandbox: Sandbox) -> None:
    """The browser gives up on a loop."""
    loop = f"{sandbox.url}/rotating/authorize"
    sandbox.rotating.faults.order("status", None, endpoint="authorize", status=307, headers={"Location": loop})
    with pytest.raises(BrowserError, match="too many steps"):
        await walk_login(loop)
