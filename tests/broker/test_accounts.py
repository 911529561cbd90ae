"""Whose a grant is: the account of a login, the login of another account, owner and label."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from broker.login import held
from broker.sandbox import BrowserError, walk_login, walk_to_redirect
from tests.broker.logins import StuckStep, browser, log_in_as, opened, press, refused_as, start, with_accounts
from tests.steps import assert_sound, authority_of, log_in, make_due, next_generation, state_of, stored_refresh_token
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker

JANE = {"id": "jane", "email": "jane@example.com", "preferred_username": "jane"}


@pytest.mark.parametrize(
    ("provider", "account"),
    [
        ("acme", JANE),
        ("een", {"id": "jane", "email": "jane@example.com"}),
        ("cameramanager", {"id": str(zlib.crc32(b"jane")), "email": "jane@example.com"}),
    ],
)
async def test_the_account_of_a_login_is_known(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, provider: str, account: dict[str, str]
) -> None:
    """The id_token or the account endpoint names the account; it is described, sealed, and kept over a refresh."""
    async with start_broker(providers=with_accounts(sandbox)) as broker:
        page = await log_in_as(broker, "jane", provider)
        assert "account jane@example.com" in page
        described = await state_of(broker, "g1")
        assert described["account"] == account
        assert "jane@example.com" not in str(await redis.hgetall("broker:{0}:grant:g1"))
        before = await broker.token("g1")
        assert "account" not in before
        await make_due(redis, provider, "g1")
        await next_generation(broker, "g1", before["generation"])
        assert (await state_of(broker, "g1"))["account"] == described["account"]
        (row,) = (await broker.get("/v1/grants"))["grants"]
        assert row["account"] == described["account"]
        assert broker.events("login.account_unknown") == []


@pytest.mark.parametrize("fault", ["status", "hang"])
async def test_an_account_endpoint_that_fails_stops_no_login(
    start_broker: StartBroker, sandbox: Sandbox, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The login succeeds with a warning, and the account is not known; the next login finds it out."""
    monkeypatch.setattr("broker.providers.account.TIMEOUT", 0.5)
    async with start_broker(providers=with_accounts(sandbox)) as broker:
        sandbox.cameramanager.faults.order(fault, 1, endpoint="account")
        page = await log_in_as(broker, "jane", "cameramanager")
        assert "Warning: the account is not known" in page
        assert (await state_of(broker, "g1"))["account"] is None
        (warned,) = broker.events("login.account_unknown")
        assert warned["detail"].startswith("HTTP 503" if fault == "status" else "timeout")
        await log_in_as(broker, "jane", "cameramanager")
        assert (await state_of(broker, "g1"))["account"]["email"] == "jane@example.com"
        await assert_sound(broker, sandbox, ("g1", "cameramanager"))


@pytest.mark.parametrize("provider", ["acme", "een", "cameramanager"])
async def test_another_account_replaces_nothing(start_broker: StartBroker, sandbox: Sandbox, provider: str) -> None:
    """The page says whose the grant is and whose it would become; the grant lives on, and its own account renews it."""
    async with start_broker(providers=with_accounts(sandbox)) as broker:
        await log_in_as(broker, "jane", provider)
        before, token = await state_of(broker, "g1"), await stored_refresh_token(broker, "g1")
        text, ticket = await refused_as(broker, "john", provider)
        assert "is of account jane@example.com" in text
        assert "this login is of account john@example.com" in text
        assert "Replace the account" in text
        login = await broker.get(f"/v1/grants/g1/login/{ticket}")
        assert (login["status"], login["error"]) == ("failed", "other_account")
        assert "john@example.com" in login["error_description"]
        assert await state_of(broker, "g1") == before
        assert await stored_refresh_token(broker, "g1") == token
        await log_in_as(broker, "jane", provider)
        after = await state_of(broker, "g1")
        assert after["generation"] > before["generation"]
        assert after["account"] == before["account"]
        await assert_sound(broker, sandbox, ("g1", provider))


async def test_an_admin_replaces_the_account(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """The tokens of the refused login wait, sealed; the decision records them once, and then there is none left."""
    async with start_broker(providers=with_accounts(sandbox)) as broker:
        await log_in_as(broker, "jane", label="cameras")
        _, ticket = await refused_as(broker, "john")
        issued = sandbox.rotating.families[-1].refresh_token
        assert issued is not None
        for key in await redis.keys("broker:{0}:flow:*"):
            assert issued.encode() not in (await redis.get(key) or b"")
        path = f"/v1/grants/g1/login/{ticket}/replace"
        answers = await asyncio.gather(*(broker.ask("POST", path) for _ in range(3)))
        assert sorted(status for status, _, _ in answers) == [200, 409, 409]
        (answer,) = (body for status, body, _ in answers if status == 200)
        assert answer["account"]["id"] == "john"
        described = await state_of(broker, "g1")
        assert (described["account"]["id"], described["label"]) == ("john", "cameras")
        assert await stored_refresh_token(broker, "g1") == issued
        assert (await broker.get(f"/v1/grants/g1/login/{ticket}"))["status"] == "completed"
        before = await broker.token("g1")
        await make_due(redis, "acme", "g1")
        await next_generation(broker, "g1", before["generation"])
        assert (await broker.ask("POST", path))[0] == 409
        await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_the_button_of_the_page_replaces_the_account(broker: RunningBroker, sandbox: Sandbox) -> None:
    """The browser that logged in may replace the account from the page; no other browser may."""
    await log_in_as(broker, "jane")
    started = await start(broker, "g1", "acme")
    async with browser() as mine, browser() as others:
        url = await opened(mine, started["login_url"])
        redirected = await walk_to_redirect(url, broker.settings.redirect_uri, user="john")
        async with mine.get(redirected) as answer:
            assert answer.status == 409
            page = await answer.text()
        state = page.partition('name="state" value="')[2].partition('"')[0]
        async with mine.get(redirected) as again:
            assert again.status == 409
            assert "Replace the account" in await again.text()
        callback, own = broker.settings.redirect_uri, {"Origin": broker.url}
        for session, form in ((others, {"state": state}), (mine, {"state": "x"}), (mine, {})):
            async with session.post(callback, data=form, headers=own) as refused:
                assert refused.status == 400
        assert (await state_of(broker, "g1"))["account"]["id"] == "jane"
        async with mine.post(callback, data={"state": state}, headers=own) as replaced:
            assert replaced.status == 200
            assert "john@example.com" in await replaced.text()
        async with mine.post(callback, data={"state": state}, headers=own) as again:
            assert again.status in {400, 409}
    assert (await state_of(broker, "g1"))["account"]["id"] == "john"
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_a_login_may_say_that_it_replaces_the_account(broker: RunningBroker, sandbox: Sandbox) -> None:
    """With `replace_account` a login of another account replaces the grant, as every login did before."""
    await log_in_as(broker, "jane")
    assert "john@example.com" in await log_in_as(broker, "john", replace_account=True)
    assert (await state_of(broker, "g1"))["account"]["id"] == "john"
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_a_pasted_redirect_of_another_account_is_refused(broker: RunningBroker) -> None:
    """`login/complete` answers 409 with both accounts; the ticket's `replace` then does it."""
    await log_in_as(broker, "jane")
    started = await start(broker, "g1", "acme")
    redirected = await walk_to_redirect(started["authorization_url"], broker.settings.redirect_uri, user="john")
    status, body, _ = await broker.ask("POST", "/v1/grants/g1/login/complete", json={"redirected_to": redirected})
    assert (status, body["error"]) == (409, "other_account")
    assert "jane@example.com" in body["error_description"]
    assert (await broker.ask("POST", "/v1/grants/g2/login/" + started["ticket"] + "/replace"))[0] == 409
    assert (await broker.ask("POST", "/v1/grants/g1/login/" + started["ticket"] + "/replace"))[0] == 200
    assert (await state_of(broker, "g1"))["account"]["id"] == "john"


@pytest.mark.parametrize(
    ("provider", "kept"), [("acme", False), ("een", False), ("cameramanager", False), ("acme", True)]
)
async def test_what_nobody_decides_is_revoked(
    start_broker: StartBroker, sandbox: Sandbox, provider: str, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    """After ten minutes the refused tokens are revoked, unless a grant of their account would end with them."""
    monkeypatch.setattr(held, "DECIDE_MS", 1_000)
    monkeypatch.setattr(held, "STALE_MS", 100)
    monkeypatch.setattr(held, "PAUSE", 0.1)
    async with start_broker(providers=with_accounts(sandbox)) as broker:
        await log_in_as(broker, "jane", provider)
        if kept:
            await log_in_as(broker, "john", provider, "g2")
        _, ticket = await refused_as(broker, "john", provider)
        refused = authority_of(sandbox, provider).families[-1]
        assert not refused.revoked
        (dropped,) = await until(lambda: broker.events("login.dropped"), 10)
        assert dropped["result"] == ("kept" if kept else "revoked")
        family = next(each for each in authority_of(sandbox, provider).families if each.id == refused.id)
        assert family.revoked is not kept
        assert (await broker.ask("POST", f"/v1/grants/g1/login/{ticket}/replace"))[0] == 409
        assert (await state_of(broker, "g1"))["account"]["email"] == "jane@example.com"
        await assert_sound(broker, sandbox, ("g1", provider))


@pytest.mark.parametrize("decision", ["identify", "replace"])
async def test_another_broker_completes_what_one_left_half_done(
    start_broker: StartBroker, sandbox: Sandbox, decision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that dies after an answer came, and before it is recorded, loses nothing: another records it."""
    monkeypatch.setattr(held, "STALE_MS", 300)
    monkeypatch.setattr(held, "PAUSE", 0.1)
    stuck = StuckStep()

    sandbox.cameramanager.options.return_state = True  # what has none waits for a person
    async with start_broker(providers=with_accounts(sandbox)) as broker:
        await log_in_as(broker, "jane", "cameramanager")
        if decision == "replace":
            record = held.HeldLogins._record
            monkeypatch.setattr(held.HeldLogins, "_record", stuck)
            _, ticket = await refused_as(broker, "john", "cameramanager")
            lost = asyncio.create_task(broker.ask("POST", f"/v1/grants/g1/login/{ticket}/replace"))
            await stuck.reached.wait()
            monkeypatch.setattr(held.HeldLogins, "_record", record)
        else:
            fetch = held.HeldLogins._fetch
            monkeypatch.setattr(held.HeldLogins, "_fetch", stuck)
            started = await start(broker, "g1", "cameramanager", replace_account=True)
            lost = asyncio.create_task(walk_login(started["login_url"], user="john"))  # type: ignore[arg-type]
            await stuck.reached.wait()
            monkeypatch.setattr(held.HeldLogins, "_fetch", fetch)
        await until(lambda: is_of(broker, "john@example.com"), 10)
        await assert_sound(broker, sandbox, ("g1", "cameramanager"))
        lost.cancel()
        stuck.end()


async def is_of(broker: RunningBroker, email: str) -> bool:
    """Whether g1 is of an account."""
    account = (await state_of(broker, "g1"))["account"]
    return bool(account and account["email"] == email)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"id_token": "nonsense"}, "it is no JWT"),
        ({"id_token_claims": {"iss": "https://evil.example.com"}}, "names the issuer"),
        ({"id_token_claims": {"aud": "another"}}, "another client"),
        ({"id_token_claims": {"exp": 1}}, "it expired"),
        ({"id_token_claims": {"sub": None}}, "has no sub"),
    ],
)
async def test_an_id_token_that_cannot_be_accepted_fails_the_login(
    broker: RunningBroker, sandbox: Sandbox, options: dict[str, Any], why: str
) -> None:
    """The login fails with words, nothing is replaced, and the id_token is quoted nowhere."""
    await log_in_as(broker, "jane")
    before, token = await state_of(broker, "g1"), await stored_refresh_token(broker, "g1")
    for name, value in options.items():
        setattr(sandbox.rotating.options, name, value)
    started = await start(broker, "g1", "acme")
    with pytest.raises(BrowserError) as failed:
        await walk_login(started["login_url"], user="jane")
    assert failed.value.status == 502
    assert why in failed.value.text
    assert "Nothing was replaced" in failed.value.text
    login = await broker.get(f"/v1/grants/g1/login/{started['ticket']}")
    assert (login["status"], login["error"]) == ("failed", "invalid_id_token")
    assert await state_of(broker, "g1") == before
    assert await stored_refresh_token(broker, "g1") == token
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_an_id_token_of_a_refresh_decides_nothing(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A refresh that answers with an id_token, even a bad one, refreshes: only a login says whose the grant is."""
    await log_in_as(broker, "jane")
    sandbox.rotating.options.id_token_on_refresh = True
    sandbox.rotating.options.id_token = "nonsense"
    before = await broker.token("g1")
    await make_due(redis, "acme", "g1")
    await next_generation(broker, "g1", before["generation"])
    assert (await state_of(broker, "g1"))["account"] == JANE


async def test_a_grant_without_a_known_account_behaves_as_before(broker: RunningBroker, sandbox: Sandbox) -> None:
    """An imported grant has no account: the first login replaces it, whoever logs in, and so does a moved one."""
    pair = sandbox.rotating.issue(user="jane")
    assert pair.refresh_token is not None
    await broker.import_("g1", "acme", pair.refresh_token)
    assert (await state_of(broker, "g1"))["account"] is None
    await log_in_as(broker, "john")
    assert (await state_of(broker, "g1"))["account"]["id"] == "john"
    pair = sandbox.rotating.issue(user="jane")
    assert pair.refresh_token is not None
    await broker.import_("g1", "acme", pair.refresh_token)
    assert (await state_of(broker, "g1"))["account"] is None, "an import says nothing of its account"
    await log_in_as(broker, "jane")
    await log_in(broker, "g1", "een")
    assert (await state_of(broker, "g1"))["provider"] == "een"


async def test_an_account_that_an_older_broker_left_behind_does_not_count(broker: RunningBroker, redis: Redis) -> None:
    """A broker that knows no accounts replaces a login and leaves the field: it belongs to the login before."""
    await log_in_as(broker, "jane")
    await redis.hincrby("broker:{0}:grant:g1", "granted_at", 1)
    assert (await state_of(broker, "g1"))["account"] is None


async def test_the_journal_brings_the_account_back(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A store that lost everything gets account, owner and label back, also where the last answer was a refresh."""
    async with start_broker() as broker:
        await log_in_as(broker, "jane", owner="Jane", label="cameras")
        before = await broker.token("g1")
        await make_due(redis, "acme", "g1")
        await next_generation(broker, "g1", before["generation"])
        await until(lambda: redis.hget("broker:{0}:grant:g1", "committed"))
        described = await state_of(broker, "g1")
        await redis.delete("broker:{0}:grant:g1", "broker:{0}:due:acme", "broker:{0}:epoch")
        await until(lambda: redis.exists("broker:{0}:grant:g1"), 20)
        restored = await state_of(broker, "g1")
        assert [restored[name] for name in ("account", "owner", "label")] == [JANE, "Jane", "cameras"]
        assert described["account"] == JANE
        await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_every_login_is_confirmed_where_the_settings_say_so(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """With `confirm_login` an opened link makes no grant, though the provider returns `state`; the button does."""
    providers = with_accounts(sandbox)
    providers["acme"]["confirm_login"] = True
    async with start_broker(providers=providers) as broker, browser() as theirs:
        started = await start(broker, "g1", "acme")
        redirected = await walk_to_redirect(
            await opened(theirs, started["login_url"]), broker.settings.redirect_uri, user="jane"
        )
        assert "state=" in redirected
        async with theirs.get(redirected) as answer:
            status, page = answer.status, await answer.text()
        assert (status, "jane@example.com" in page, "Confirm only if this is your account" in page) == (200, True, True)
        assert "does not say" not in page
        assert (await broker.ask("GET", "/v1/grants/g1"))[0] == 404
        assert (await broker.get(f"/v1/grants/g1/login/{started['ticket']}"))["status"] == "working"
        assert "Logged in" in (await press(theirs, redirected, page))[1]
        assert (await state_of(broker, "g1"))["account"] == JANE
        await assert_sound(broker, sandbox, ("g1", "acme"))
