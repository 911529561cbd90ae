"""Logins at a provider that returns no state: what an attacker may try with them, and what dies on the way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from broker.login import held
from broker.sandbox import walk_login, walk_to_redirect
from broker.store.flows import Flow, Flows
from tests.broker.logins import StuckStep, browser, come_back, exchanges, log_in_as, opened, press, start, with_accounts
from tests.steps import assert_sound, log_in, state_of
from tests.waiting import until

if TYPE_CHECKING:
    import aiohttp
    from redis.asyncio import Redis

    from broker.model.account import Account
    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker

CAMERA = "cameramanager"


async def returned(broker: RunningBroker, session: aiohttp.ClientSession, started: dict[str, Any], user: str) -> str:
    """Open a login link and log in as *user*; return where the browser is redirected to."""
    where = await opened(session, started["login_url"])
    return await walk_to_redirect(where, broker.settings.redirect_uri, user=user)


async def asked(session: aiohttp.ClientSession, redirected: str) -> str:
    """Open a redirect; return the page, which asks who this is."""
    async with session.get(redirected) as answer:
        text = await answer.text()
        assert answer.status == 200, text
        policy = answer.headers["Content-Security-Policy"].split("; ")
        assert {"frame-ancestors 'none'", "form-action 'self'", "default-src 'none'"} <= set(policy)
    assert "Is this you?" in text
    return text


async def exists(broker: RunningBroker, grant: str = "g1") -> bool:
    """Whether there is such a grant."""
    return (await broker.ask("GET", f"/v1/grants/{grant}"))[0] == 200


async def test_a_login_is_confirmed(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """The page names the account and the grant; nothing is kept before the button, and the ticket shows it after."""
    async with start_broker(providers=with_accounts(sandbox)) as broker, browser() as mine:
        started = await start(broker, "g1", CAMERA, label="front doors")
        redirected = await returned(broker, mine, started, "jane")
        assert "state=" not in redirected
        page = await asked(mine, redirected)
        for words in ("jane@example.com", "g1 (front doors)", CAMERA):
            assert words in page
        assert not await exists(broker)
        assert (await broker.get(f"/v1/grants/g1/login/{started['ticket']}"))["status"] == "working"
        status, body, _ = await broker.ask("POST", f"/v1/grants/g1/login/{started['ticket']}/replace")
        assert (status, "nobody else can" in body["error_description"]) == (409, True), "not even who began it"
        assert not await exists(broker)
        status, text = await press(mine, redirected, page)
        assert (status, "Logged in" in text) == (200, True)
        assert (await broker.get(f"/v1/grants/g1/login/{started['ticket']}"))["status"] == "completed"
        assert (await state_of(broker, "g1"))["label"] == "front doors"
        assert [event["event"] for event in broker.events() if event["event"].startswith("login.")] == [
            "login.unconfirmed",
            "login.confirmed",
        ]
        await assert_sound(broker, sandbox, ("g1", CAMERA))


async def test_an_attackers_code_becomes_nobodys_grant(
    start_broker: StartBroker, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another person's code in a browser whose login waits is shown for what it is, and revoked; the link still works.

    Without the browser's cookie it is not even exchanged.
    """
    monkeypatch.setattr(held, "DECIDE_MS", 2_000)
    monkeypatch.setattr(held, "STALE_MS", 100)
    monkeypatch.setattr(held, "PAUSE", 0.1)
    async with start_broker(providers=with_accounts(sandbox)) as broker, browser() as victim, browser() as stranger:
        theirs = await start(broker, "other", CAMERA)
        attack = await walk_to_redirect(theirs["authorization_url"], broker.settings.redirect_uri, user="mallory")
        async with stranger.get(attack) as answer:
            assert answer.status == 400
        assert await exchanges(sandbox, CAMERA) == 0
        started = await start(broker, "g1", CAMERA)
        await opened(victim, started["login_url"])
        page = await asked(victim, attack)
        assert "mallory@example.com" in page
        assert "jane" not in page
        assert not await exists(broker)
        family = sandbox.cameramanager.families[-1].id
        assert "Logged in" in (await come_back(victim, await returned(broker, victim, started, "jane")))[1]
        assert (await state_of(broker, "g1"))["account"]["email"] == "jane@example.com"
        assert (await press(victim, attack, page))[0] in {400, 409}
        (dropped,) = await until(lambda: broker.events("login.dropped"), 20)
        assert dropped["result"] == "revoked"
        assert next(each for each in sandbox.cameramanager.families if each.id == family).revoked
        assert (await state_of(broker, "g1"))["account"]["email"] == "jane@example.com"
        await assert_sound(broker, sandbox, ("g1", CAMERA))


FOREIGN: dict[str, dict[str, str]] = {
    "another site": {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.test"},
    "a neighbour of the host": {"Sec-Fetch-Site": "same-site"},
    "an address typed in": {"Sec-Fetch-Site": "none"},
    "another site, in an old browser": {"Origin": "https://evil.test"},
    "a sandboxed frame": {"Origin": "null"},
    "no page": {"Origin": ""},
}


async def test_only_its_own_page_confirms_it_once(broker: RunningBroker, sandbox: Sandbox) -> None:
    """A form of another origin, and another browser, confirm nothing; the page's own does, once."""
    async with browser() as mine, browser() as other:
        redirected = await returned(broker, mine, await start(broker, "g1", CAMERA), "jane")
        page = await asked(mine, redirected)
        for name, headers in FOREIGN.items():
            status, text = await press(mine, redirected, page, **headers)
            assert (status, "own page" in text) == (400, True), name
        assert (await press(other, redirected, page))[0] == 400
        async with mine.post(redirected, data={"confirm": "yes"}, headers={"Origin": broker.url}) as stateless:
            assert stateless.status == 400
        assert not await exists(broker)
        assert page == await asked(mine, redirected), "a reload shows it again"
        own = {"Sec-Fetch-Site": "same-origin"}
        answers = await asyncio.gather(*(press(mine, redirected, page, **own) for _ in range(3)))
        assert sorted(status for status, _ in answers) in ([200, 400, 400], [200, 400, 409], [200, 409, 409])
        generation = (await broker.token("g1"))["generation"]
        assert (await press(mine, redirected, page))[0] in {400, 409}
        assert (await broker.token("g1"))["generation"] == generation
    assert await exchanges(sandbox, CAMERA) == 1
    assert len(broker.events("grant.reauthorized")) == 1
    await assert_sound(broker, sandbox, ("g1", CAMERA))


async def test_a_late_redirect_ends_no_login_that_waits(
    broker: RunningBroker, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second tab whose request was stuck since before the code was exchanged leaves what is held as it is."""
    stuck, go, known = asyncio.Event(), asyncio.Event(), held.HeldLogins.known_account

    async def known_account(self: held.HeldLogins, flow: Flow) -> Account | None:
        if not stuck.is_set():
            stuck.set()
            await go.wait()
        return await known(self, flow)

    monkeypatch.setattr(held.HeldLogins, "known_account", known_account)
    async with browser() as mine:
        redirected = await returned(broker, mine, await start(broker, "g1", CAMERA), "jane")
        late = asyncio.create_task(asked(mine, redirected))
        await stuck.wait()
        page = await asked(mine, redirected)
        go.set()
        assert await late == page
        assert (await press(mine, redirected, page))[0] == 200
    assert await exchanges(sandbox, CAMERA) == 1
    await assert_sound(broker, sandbox, ("g1", CAMERA))


async def test_a_redirect_with_many_cookies_costs_little(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's redirect without state, with as many login cookies as fit, asks Redis for a few of them."""
    asked_for: list[str] = []
    get = Flows.get

    async def counted(self: Flows, name: str) -> Flow | None:
        asked_for.append(name)
        return await get(self, name)

    monkeypatch.setattr(Flows, "get", counted)
    cookies = "; ".join(f"token_broker_login_{number}={number}.x" for number in range(200))
    async with (
        browser() as stranger,
        stranger.get(f"{broker.url}/callback?code=x", headers={"Cookie": cookies}) as gone,
    ):
        assert (gone.status, "no login of this browser waits" in await gone.text()) == (400, True)
    assert asked_for == [str(number) for number in range(168, 200)]


async def test_after_ten_minutes_nothing_is_confirmed(
    start_broker: StartBroker, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is over for the page as for the broker that ends it, which revokes what nobody confirmed."""
    monkeypatch.setattr(held, "PAUSE", 0.1)
    monkeypatch.setattr(held, "STALE_MS", 1_000)
    async with start_broker(providers=with_accounts(sandbox)) as broker, browser() as mine:
        sandbox.cameramanager.faults.order("status", 1, endpoint="account")  # found out when it is revoked
        redirected = await returned(broker, mine, await start(broker, "g1", CAMERA), "jane")
        monkeypatch.setattr(held, "DECIDE_MS", 0)
        page = await asked(mine, redirected)
        assert "The account is not known" in page
        status, text = await press(mine, redirected, page)
        assert (status, "ten minutes are over" in text) == (409, True)
        (dropped,) = await until(lambda: broker.events("login.dropped"), 20)
        assert dropped["result"] == "revoked"
        assert (await press(mine, redirected, page))[0] == 400
        assert not await exists(broker)
        assert sandbox.cameramanager.families[-1].revoked


@pytest.mark.parametrize("moment", ["the account is asked for", "a person is asked", "a person confirmed"])
async def test_a_broker_dies_on_the_way(
    start_broker: StartBroker, sandbox: Sandbox, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a person confirmed is kept, by another broker; and nothing that nobody confirmed."""
    monkeypatch.setattr(held, "STALE_MS", 300)
    monkeypatch.setattr(held, "PAUSE", 0.1)
    stuck = StuckStep()

    dying = {"the account is asked for": "_fetch", "a person confirmed": "_record"}.get(moment)
    providers = with_accounts(sandbox)
    async with start_broker(providers=providers) as two, browser() as mine:
        started = await start(two, "g1", CAMERA)
        redirected = await returned(two, mine, started, "jane")
        lost: asyncio.Task[Any] | None = None
        if moment == "a person is asked":
            async with start_broker(providers=providers, http={"public_url": two.url}) as one:
                page = await asked(mine, redirected.replace(two.url, one.url))
        elif moment == "the account is asked for":
            with monkeypatch.context() as patched:
                patched.setattr(held.HeldLogins, str(dying), stuck)
                lost = asyncio.create_task(asked(mine, redirected))
                await stuck.reached.wait()
                async with mine.get(redirected) as answer:
                    assert "Just a moment" in await answer.text()
            page = await until(lambda: shown(mine, redirected), 20)
        else:
            page = await asked(mine, redirected)
            with monkeypatch.context() as patched:
                patched.setattr(held.HeldLogins, str(dying), stuck)
                lost = asyncio.create_task(press(mine, redirected, page))
                await stuck.reached.wait()
        assert not await exists(two) or moment == "a person confirmed"
        if moment != "a person confirmed":
            assert (await press(mine, redirected, page))[0] == 200
        await until(lambda: exists(two), 20)
        assert (await state_of(two, "g1"))["account"]["email"] == "jane@example.com"
        assert await exchanges(sandbox, CAMERA) == 1
        await assert_sound(two, sandbox, ("g1", CAMERA))
        if lost is not None:
            lost.cancel()
        stuck.end()


async def shown(session: aiohttp.ClientSession, redirected: str) -> str | None:
    """Return the page if it asks for the confirmation by now."""
    async with session.get(redirected) as answer:
        text = await answer.text()
    return text if 'name="confirm"' in text else None


async def test_a_provider_that_once_returned_state(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """From then on a redirect without it is refused before the code is spent; pasted by an admin it is taken."""
    sandbox.cameramanager.options.return_state = True
    await log_in(broker, "g1", CAMERA)
    before, spent = await broker.token("g1"), await exchanges(sandbox, CAMERA)
    assert broker.events("login.unconfirmed") == []
    sandbox.cameramanager.options.return_state = False
    started = await start(broker, "g1", CAMERA)
    async with browser() as mine:
        status, text = await come_back(mine, await returned(broker, mine, started, "mallory"))
        assert (status, "has returned before" in text) == (400, True)
    assert await exchanges(sandbox, CAMERA) == spent
    assert (await broker.token("g1"))["generation"] == before["generation"]
    redirected = await walk_to_redirect(started["authorization_url"], broker.settings.redirect_uri)
    body = {"redirected_to": redirected, "state": started["state"]}
    assert (await broker.ask("POST", "/v1/grants/g1/login/complete", json=body))[0] == 200
    await redis.hset("broker:{0}:provider:cameramanager", "returns_state", "https://the.server.before.test/authorize")
    assert "Logged in" in await log_in(broker, "g1", CAMERA)
    await assert_sound(broker, sandbox, ("g1", CAMERA))


async def test_a_page_that_names_accounts_is_its_browsers(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """A state stands in the authorization URL: who knows it, and makes a cookie of it, sees no account."""
    async with start_broker(providers=with_accounts(sandbox)) as broker, browser() as mine, browser() as other:
        await log_in_as(broker, "john", CAMERA)
        for user in ("jane", "john"):  # another account, and the grant's: both wait
            where = await opened(mine, (await start(broker, "g1", CAMERA))["login_url"])
            redirected = await walk_to_redirect(where, broker.settings.redirect_uri, user=user)
            async with mine.get(redirected) as answer:
                assert f"{user}@example.com" in await answer.text()
            (state,) = parse_qs(urlsplit(where).query)["state"]
            for query in (f"code=x&state={state}", "code=x"):
                cookie = {"Cookie": f"token_broker_login_x={state}.guessed"}
                async with other.get(f"{broker.url}/callback?{query}", headers=cookie) as answer:
                    assert answer.status == 400
                    assert "example.com" not in await answer.text()


async def test_confirming_names_another_account_too(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """A login that may replace the account is confirmed as any other; one that may not asks whether it shall."""
    async with start_broker(providers=with_accounts(sandbox)) as broker, browser() as mine:
        await log_in_as(broker, "jane", CAMERA)
        redirected = await returned(broker, mine, await start(broker, "g1", CAMERA), "john")
        async with mine.get(redirected) as answer:
            page = await answer.text()
            assert (answer.status, "Replace the account" in page) == (409, True)
        assert (await press(mine, redirected, page, Origin="https://evil.test"))[0] == 400
        started = await start(broker, "g1", CAMERA, replace_account=True)
        page = await asked(mine, await returned(broker, mine, started, "mary"))
        assert "mary@example.com" in page
        assert (await state_of(broker, "g1"))["account"]["email"] == "jane@example.com"
        assert "Logged in" in await walk_login(started["login_url"], user="mary")
        assert (await state_of(broker, "g1"))["account"]["email"] == "mary@example.com"
