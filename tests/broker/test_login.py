"""Logging in: the browser's way, the pasted way, and everything that must not complete a login."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from broker.sandbox import BrowserError, walk_login, walk_to_redirect
from tests.broker.logins import browser, come_back, exchanges, opened, start
from tests.steps import PROVIDERS, assert_sound, authority_of, log_in, make_due
from tests.waiting import until

if TYPE_CHECKING:
    import aiohttp
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_pasted_redirect(broker: RunningBroker, sandbox: Sandbox, provider: str) -> None:
    """Without a browser here, the pasted redirect completes the login, white space and escapes notwithstanding."""
    started = await start(broker, "g1", provider)
    redirect_uri = broker.settings.redirect_uri
    redirected = await walk_to_redirect(started["authorization_url"], redirect_uri)
    middle = len(redirected) // 2
    pasted = f"  {redirected[:middle]}\n{redirected[middle:].replace('&', '&amp;')}#_=_ \n"
    body = {"redirected_to": pasted, "state": started["state"]}
    status, answer, _ = await broker.ask("POST", "/v1/grants/g1/login/complete", json=body)
    assert status == 200, answer
    assert answer["grant_id"] == "g1"
    assert (await broker.token("g1"))["access_token"]
    await assert_sound(broker, sandbox, ("g1", provider))
    status, answer, _ = await broker.ask("POST", "/v1/grants/g1/login/complete", json=body)
    assert (status, answer["error"]) == (400, "already_used")
    assert await exchanges(sandbox, provider) == 1


async def test_authorization_url_of_cameramanager_is_the_guides(broker: RunningBroker) -> None:
    """The URL has what the vendor's guide names, and no PKCE, which it does not know."""
    started = await start(broker, "g1", "cameramanager")
    query = parse_qs(urlsplit(started["authorization_url"]).query)
    assert query["scope"] == ["write"]
    assert query["response_type"] == ["code"]
    assert query["client_id"] == ["cameramanager-client"]
    assert query["redirect_uri"] == [broker.settings.redirect_uri]
    assert "code_challenge" not in query


async def test_redirect_uri_of_v3_is_not_percent_encoded(broker: RunningBroker) -> None:
    """Eagle Eye V3 refuses an encoded redirect_uri; it is sent as it is."""
    started = await start(broker, "g1", "een")
    assert f"redirect_uri={broker.settings.redirect_uri}&" in started["authorization_url"]
    assert "code_challenge_method=S256" in started["authorization_url"]


async def test_cookie_is_bound_and_hidden(broker: RunningBroker) -> None:
    """The cookie that binds a login is HttpOnly and SameSite=Lax, for the callback alone."""
    started = await start(broker, "g1", "acme")
    async with broker.session.get(started["login_url"], allow_redirects=False) as answer:
        cookie = answer.headers["Set-Cookie"]
    for attribute in ("HttpOnly", "SameSite=Lax", "Path=/callback", "Max-Age=600"):
        assert attribute in cookie
    async with broker.session.get(started["login_url"], allow_redirects=False) as answer:
        assert answer.headers["Set-Cookie"] != cookie, "each opening has a fresh state and cookie"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_another_browser_completes_nothing(broker: RunningBroker, sandbox: Sandbox, provider: str) -> None:
    """A callback in a browser that did not open the link is refused; the flow stays open for the one that did."""
    started = await start(broker, "g1", provider)
    async with browser() as mine, browser() as stranger:
        where = await opened(mine, started["login_url"])
        redirected = await walk_to_redirect(where, broker.settings.redirect_uri)
        async with stranger.get(redirected) as answer:
            page = await answer.text()
            assert answer.status == 400
            assert "Not logged in" in page
        assert await exchanges(sandbox, provider) == 0
        assert (await come_back(mine, redirected))[0] == 200
    assert (await broker.token("g1"))["provider"] == provider


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_reload_spends_nothing_twice(broker: RunningBroker, sandbox: Sandbox, provider: str) -> None:
    """The callback reloaded, or opened twice at once, exchanges the code once and says what is the case."""
    authority_of(sandbox, provider).options.latency = 0.3
    started = await start(broker, "g1", provider)
    async with browser() as mine:
        where = await opened(mine, started["login_url"])
        redirected = await walk_to_redirect(where, broker.settings.redirect_uri)

        async def call() -> tuple[int, str]:
            return await come_back(mine, redirected)

        answers = await asyncio.gather(call(), call())
        assert sorted(status for status, _ in answers) == [200, 400]
        status, page = await call()
        assert (status, "already" in page) == (200, True)
    assert await exchanges(sandbox, provider) == 1
    await assert_sound(broker, sandbox, ("g1", provider))


async def test_two_logins_without_state_are_not_mixed_up(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Where no state comes back and two logins wait in one browser, neither grant gets the other's tokens."""
    one, two = await start(broker, "g1", "cameramanager"), await start(broker, "g2", "cameramanager")
    async with browser() as mine:
        where = await opened(mine, one["login_url"])
        await opened(mine, two["login_url"])
        redirected = await walk_to_redirect(where, broker.settings.redirect_uri)
        async with mine.get(redirected) as answer:
            assert answer.status == 400
            assert "Several logins are under way" in await answer.text()
    assert await exchanges(sandbox, "cameramanager") == 0


@pytest.mark.parametrize("provider", ["een", "acme"])
async def test_missing_state_is_refused_elsewhere(broker: RunningBroker, sandbox: Sandbox, provider: str) -> None:
    """That the cookie alone binds a login is for the dialect without state; others must return it."""
    authority_of(sandbox, provider).options.return_state = False
    with pytest.raises(BrowserError) as failed:
        await log_in(broker, "g1", provider)
    assert failed.value.status == 400
    assert await exchanges(sandbox, provider) == 0


async def test_foreign_issuer_is_refused(broker: RunningBroker, sandbox: Sandbox) -> None:
    """An `iss` that is not the provider's stops the login before the code is spent (RFC 9207)."""
    started = await start(broker, "g1", "acme")
    async with browser() as mine:
        where = await opened(mine, started["login_url"])
        redirected = await walk_to_redirect(where, broker.settings.redirect_uri)
        assert "iss=" in redirected
        forged = redirected.split("iss=")[0] + "iss=https%3A%2F%2Fevil.example"
        async with mine.get(forged) as answer:
            assert answer.status == 400
            assert "issuer" in await answer.text()
    assert await exchanges(sandbox, "acme") == 0


async def test_denied_login_changes_nothing(broker: RunningBroker, sandbox: Sandbox) -> None:
    """A person who says no gets a page in words; the grant that lived lives on; the login is known to have failed."""
    await log_in(broker, "g1", "acme")
    before = await broker.token("g1")
    started = await start(broker, "g1", "acme")
    with pytest.raises(BrowserError) as failed:
        await walk_login(started["login_url"], consent="deny")
    assert failed.value.status == 400
    assert "not allowed" in failed.value.text
    login = await broker.get(f"/v1/grants/g1/login/{started['ticket']}")
    assert (login["status"], login["error"]) == ("failed", "access_denied")
    assert (await broker.token("g1"))["generation"] == before["generation"]
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_no_refresh_token_is_said_at_once(broker: RunningBroker, sandbox: Sandbox) -> None:
    """An answer without a refresh token cannot be kept alive: said on the page, with the scope to add."""
    sandbox.rotating.options.issue_refresh_token = False
    with pytest.raises(BrowserError) as failed:
        await log_in(broker, "g1", "acme")
    assert failed.value.status == 502
    assert "refresh_token" in failed.value.text
    assert "offline access" in failed.value.text
    assert (await broker.ask("GET", "/v1/grants/g1"))[0] == 404


async def test_login_heals_a_dead_grant(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """After the provider killed a grant, a login under the same id revives it, id and rights unchanged."""
    await log_in(broker, "g1", "acme")
    sandbox.rotating.revoke_all()
    await make_due(redis, "acme", "g1")

    async def parked() -> bool:
        return bool((await broker.get("/v1/grants/g1"))["reason"] == "reauthorization_required")

    await until(parked)
    before = await broker.token("g1")
    await log_in(broker, "g1", "acme")
    after = await broker.token("g1")
    assert after["generation"] > before["generation"]
    described = await broker.get("/v1/grants/g1")
    assert (described["state"], described["reason"]) == ("due", None)
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_link_scanners_change_nothing(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """HEAD and prefetches of login link and callback spend nothing; the person's click works afterwards."""
    started = await start(broker, "g1", "acme")
    async with browser() as mine:
        async with mine.head(started["login_url"], allow_redirects=False) as answer:
            assert answer.status == 200
        prefetch = {"Sec-Purpose": "prefetch;prerender"}
        async with mine.get(started["login_url"], headers=prefetch, allow_redirects=False) as answer:
            assert answer.status == 503
        where = await opened(mine, started["login_url"])
        redirected = await walk_to_redirect(where, broker.settings.redirect_uri)
        async with mine.head(redirected) as answer:
            assert answer.status == 200
        async with mine.get(redirected, headers=prefetch) as answer:
            assert answer.status == 503
        assert await exchanges(sandbox, "acme") == 0
        async with mine.get(redirected) as answer:
            assert answer.status == 200
    assert all([await redis.ttl(key) > 0 async for key in redis.scan_iter("broker:{0}:flow:*")])


async def test_login_moves_a_grant_to_another_provider(broker: RunningBroker, sandbox: Sandbox) -> None:
    """A grant moves from CameraManager to V3 under its id, and is refreshed by its new provider alone."""
    await log_in(broker, "g1", "cameramanager")
    await log_in(broker, "g1", "een")
    assert (await broker.token("g1"))["provider"] == "een"
    providers = {row["provider"]: row["grants"] for row in (await broker.get("/v1/providers"))["providers"]}
    assert sum(providers["cameramanager"].values()) == 0
    assert sum(providers["een"].values()) == 1
    await assert_sound(broker, sandbox, ("g1", "een"))


async def test_public_listener_serves_browsers_alone(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """What faces the internet answers login link and callback, and nothing else."""
    from tests.ports import free_port

    port = free_port()
    async with start_broker(http={"public_listen": [f"127.0.0.1:{port}"]}) as broker:
        public = f"http://127.0.0.1:{port}"
        served = {"/login/x", "/callback", "/callback/acme"}
        held = {"/", "/page/main.js", "/session", "/metrics", "/healthz", "/readyz", "/openapi.json", "/v1/grants"}
        for path in (*served, *held, "/v1/grants/g1/token", "/v1/grants/g1/authorization"):
            async with broker.session.get(public + path, headers={"X-Broker-Key": broker.admin_key}) as answer:
                assert answer.status == (400 if path in served else 404), path
    assert sandbox.rotating.token_requests == []


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_link_completes_one_login(broker: RunningBroker, sandbox: Sandbox, provider: str) -> None:
    """Whoever opened the link too and comes back after it was completed is told so, and exchanges nothing."""
    started = await start(broker, "g1", provider)
    async with browser() as mine, browser() as other:
        theirs = await walk_to_redirect(await opened(other, started["login_url"]), broker.settings.redirect_uri)
        ours = await walk_to_redirect(await opened(mine, started["login_url"]), broker.settings.redirect_uri)
        assert (await come_back(mine, ours))[0] == 200
        before = await broker.token("g1")
        async with other.get(theirs) as answer:
            assert "already" in await answer.text()
    assert await exchanges(sandbox, provider) == 1
    assert (await broker.token("g1"))["generation"] == before["generation"]
    await assert_sound(broker, sandbox, ("g1", provider))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_two_browsers_that_come_back_at_once(broker: RunningBroker, sandbox: Sandbox, provider: str) -> None:
    """While one browser's code is being exchanged, another browser with the same link exchanges none."""
    authority_of(sandbox, provider).options.latency = 0.3
    started = await start(broker, "g1", provider)
    async with browser() as one, browser() as two:
        redirects = [
            await walk_to_redirect(await opened(session, started["login_url"]), broker.settings.redirect_uri)
            for session in (one, two)
        ]

        async def call(session: aiohttp.ClientSession, url: str) -> int:
            return (await come_back(session, url))[0]

        statuses = await asyncio.gather(*map(call, (one, two), redirects))
    assert sorted(statuses) == [200, 400]
    assert await exchanges(sandbox, provider) == 1
    await assert_sound(broker, sandbox, ("g1", provider))


@pytest.mark.parametrize("provider", ["een", "acme"])
async def test_a_login_to_be_pasted_is_completed_by_no_browser(
    broker: RunningBroker, sandbox: Sandbox, provider: str
) -> None:
    """A browser does not complete a login that was started for paste: such a redirect may be somebody else's."""
    started = await start(broker, "g1", provider)
    redirected = await walk_to_redirect(started["authorization_url"], broker.settings.redirect_uri)
    async with browser() as mine:
        await opened(mine, started["login_url"])  # its own cookie is of another state
        async with mine.get(redirected) as answer:
            assert answer.status == 400
            assert "Not logged in" in await answer.text()
    assert await exchanges(sandbox, provider) == 0
    status, body, _ = await broker.ask("POST", "/v1/grants/g1/login/complete", json={"redirected_to": redirected})
    assert status == 200, body
