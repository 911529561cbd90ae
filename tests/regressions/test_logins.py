"""Logins as browsers and people were seen to do them: denied, abandoned, failing for a moment, pasted in pieces."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest
from redis.asyncio import Redis

from broker.errors import InvalidRequest
from broker.login.redirect import read_redirect
from broker.sandbox import BrowserError, Sandbox, walk_login, walk_to_redirect
from tests.broker.logins import browser, exchanges, opened, start
from tests.conftest import RunningBroker, StartBroker
from tests.steps import assert_sound, log_in, make_due, next_generation, state_of
from tests.waiting import until

DENIALS = {
    "denied": "error=access_denied&state={state}&iss={iss}",
    "denied without iss": "error=access_denied&state={state}",
    "denied without state": "error=access_denied&iss={iss}",
    "an empty error": "error=&state={state}&iss={iss}",
    "neither code nor error": "state={state}&iss={iss}",
}


@pytest.mark.parametrize("denial", DENIALS)
async def test_denied(broker: RunningBroker, sandbox: Sandbox, denial: str) -> None:
    """Whatever comes instead of a code is a page in words; the grant lives on, nothing is exchanged."""
    await log_in(broker, "g1", "acme")
    before, asked = await broker.token("g1"), await exchanges(sandbox, "acme")
    started = await start(broker, "g1", "acme")
    async with browser() as mine:
        state = (await opened(mine, started["login_url"])).partition("state=")[2].partition("&")[0]
        query = DENIALS[denial].format(state=state, iss=quote(sandbox.rotating.issuer, safe=""))
        async with mine.get(f"{broker.url}/callback?{query}") as answer:
            page = await answer.text()
            assert (answer.status, answer.content_type) == (400, "text/html")
            assert "Not logged in" in page
        login = await broker.get(f"/v1/grants/g1/login/{started['ticket']}")
        spent = "state" in DENIALS[denial]
        assert login["status"] == ("failed" if spent and "state=" in query else "pending")
        if login["status"] == "failed":
            async with mine.get(f"{broker.url}/callback?code=late&state={state}") as answer:
                assert answer.status == 400, "the state is spent"
    assert await exchanges(sandbox, "acme") == asked
    assert (await broker.token("g1"))["generation"] == before["generation"]
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_abandoned(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Logins that are begun and left change nothing, and leave nothing, however many there are."""
    await log_in(broker, "g1", "acme")
    await log_in(broker, "g3", "een")
    sandbox.v3.revoke_all()
    await make_due(redis, "een", "g3")
    await until(lambda: _parked(broker, "g3"))
    parked = await state_of(broker, "g3")
    for grant, provider in (("g1", "acme"), ("g3", "een")):
        started = await start(broker, grant, provider)
        async with browser() as mine:
            await opened(mine, started["login_url"])
    for _ in range(20):
        await asyncio.gather(*(start(broker, f"n{n}", "acme") for n in range(50)))
    before = await broker.token("g1")
    await make_due(redis, "acme", "g1")
    assert (await next_generation(broker, "g1", before["generation"]))["access_token"] != before["access_token"]
    assert {k: v for k, v in (await state_of(broker, "g3")).items() if k != "failures"} == {
        k: v for k, v in parked.items() if k != "failures"
    }
    flows = [key async for key in redis.scan_iter("broker:{0}:flow:*", count=1000)]
    assert len(flows) == 2 * 1004 + 4, "a ticket, a state to paste, and one for each opening"
    assert all([0 < await redis.ttl(key) <= 600 for key in flows]), "each goes by itself"
    assert [key async for key in redis.scan_iter("broker:{0}:grant:n*")] == []
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def _parked(broker: RunningBroker, grant: str) -> bool:
    return bool((await state_of(broker, grant))["state"] == "parked")


@pytest.mark.parametrize("error", ["temporarily_unavailable", "server_error"])
async def test_the_provider_fails_for_a_moment(broker: RunningBroker, sandbox: Sandbox, error: str) -> None:
    """An error for the moment is said to be one, and the same link works once it is over."""
    started = await start(broker, "g1", "acme")
    async with browser() as mine:
        state = (await opened(mine, started["login_url"])).partition("state=")[2].partition("&")[0]
        query = f"error={error}&state={state}&iss={quote(sandbox.rotating.issuer, safe='')}"
        async with mine.get(f"{broker.url}/callback?{query}", allow_redirects=False) as answer:
            assert answer.status == 502
            assert "open its link again" in await answer.text()
    login = await broker.get(f"/v1/grants/g1/login/{started['ticket']}")
    assert (login["status"], login["error"]) == ("failed", error)
    assert await exchanges(sandbox, "acme") == 0
    assert "Logged in" in await walk_login(started["login_url"])
    await assert_sound(broker, sandbox, ("g1", "acme"))


FAULTS: dict[str, dict[str, Any]] = {
    "503": {"kind": "status", "status": 503, "body": {"error": "temporarily_unavailable"}},
    "cut after it took the code": {"kind": "reset", "after_rotation": True},
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_exchange_fails_for_a_moment(broker: RunningBroker, sandbox: Sandbox, fault: str) -> None:
    """A code is sent once, whatever became of it; the next opening of the link brings another."""
    started = await start(broker, "g1", "acme")
    details = dict(FAULTS[fault])
    sandbox.rotating.faults.order(details.pop("kind"), **details)
    with pytest.raises(BrowserError) as failed:
        await walk_login(started["login_url"])
    assert failed.value.status == 502
    assert "log in again" in failed.value.text
    login = await broker.get(f"/v1/grants/g1/login/{started['ticket']}")
    assert (login["status"], login["error"]) == ("failed", "temporarily_unavailable")
    sent = [request for request in sandbox.rotating.token_requests if request.grant_type == "authorization_code"]
    assert len(sent) == 1
    assert "Logged in" in await walk_login(started["login_url"])
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_form_post(broker: RunningBroker, sandbox: Sandbox) -> None:
    """An answer by form POST is refused in words; the code is in no log, and the login still open."""
    started = await start(broker, "g1", "acme")
    async with browser() as mine:
        where = await opened(mine, started["login_url"])
        redirected = await walk_to_redirect(where, broker.settings.redirect_uri)
        code = redirected.partition("code=")[2].partition("&")[0]
        form = {"code": code, "state": where.partition("state=")[2].partition("&")[0]}
        async with mine.post(f"{broker.url}/callback", data=form, headers={"Origin": "https://as.test"}) as answer:
            assert answer.status == 400
            shown = await answer.text()
            assert "response_mode" in shown
            assert code not in shown
        assert await exchanges(sandbox, "acme") == 0
        async with mine.get(redirected) as answer:
            assert answer.status == 200
    assert code not in broker.log.getvalue()


REDIRECT = "http://127.0.0.1:8080/callback"
PASTED = {
    "as it is": "{0}?code=4%2F0A%2Bb%252Fc%3D%3D&state=s1",
    "a plus as it is": "{0}?code=4/0A+b%252Fc==&state=s1",
    "broken in the middle": "{0}?code=4%2F0A%2B\n  b%252Fc%3D%3D&state=s1",
    "blanks around": "  \t{0}?code=4%2F0A%2Bb%252Fc%3D%3D&state=s1 \r\n",
    "a tail of Facebook's": "{0}?code=4%2F0A%2Bb%252Fc%3D%3D&state=s1#_=_",
    "a bare hash": "{0}?code=4%2F0A%2Bb%252Fc%3D%3D&state=s1#",
    "out of HTML": "{0}?code=4%2F0A%2Bb%252Fc%3D%3D&amp;state=s1",
    "https for http": "{0}?code=4%2F0A%2Bb%252Fc%3D%3D&state=s1".replace("{0}", REDIRECT.replace("http:", "https:")),
}


@pytest.mark.parametrize("pasted", PASTED)
def test_pasted(pasted: str) -> None:
    """Whatever a terminal, a chat or a browser did to the URL, the code is the server's to the byte."""
    assert read_redirect(PASTED[pasted].replace("{0}", REDIRECT), REDIRECT) == {"code": "4/0A+b%2Fc==", "state": "s1"}


@pytest.mark.parametrize(
    "pasted", ["4/0A+b#s1", "4/0A+b", "http://elsewhere.test/callback?code=a&state=s1", "x" * 20_000]
)
def test_pasted_something_else(pasted: str) -> None:
    """The code alone, or another host's URL, is refused with what belongs there, and not repeated."""
    with pytest.raises(InvalidRequest) as refused:
        read_redirect(pasted, REDIRECT)
    assert pasted not in str(refused.value)


async def test_pasted_for_another_grant(broker: RunningBroker, sandbox: Sandbox) -> None:
    """The redirect of another grant's login completes none, and 70 kB are too many."""
    mine, other = await start(broker, "g1", "acme"), await start(broker, "g2", "acme")
    redirected = await walk_to_redirect(other["authorization_url"], broker.settings.redirect_uri)
    for body, status in (
        ({"redirected_to": redirected, "state": mine["state"]}, 400),
        ({"redirected_to": redirected}, 400),
        ({"redirected_to": redirected + "x" * 70_000}, 413),
    ):
        assert (await broker.ask("POST", "/v1/grants/g1/login/complete", json=body))[0] == status
    assert await exchanges(sandbox, "acme") == 0
    assert redirected.partition("code=")[2].partition("&")[0] not in broker.log.getvalue()


async def test_another_replica_takes_the_callback(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """The login belongs to the store: a second broker completes it, and whoever waits at the first hears so."""
    async with start_broker() as one, start_broker(http={"public_url": one.url}) as two:
        started = await start(one, "g1", "acme")
        async with browser() as mine:
            where = await opened(mine, started["login_url"])
            redirected = await walk_to_redirect(where, one.settings.redirect_uri)
            async with mine.get(redirected.replace(one.url, two.url)) as answer:
                assert answer.status == 200
        assert (await one.get(f"/v1/grants/g1/login/{started['ticket']}"))["status"] == "completed"
        assert (await one.token("g1"))["access_token"]
        await assert_sound(one, sandbox, ("g1", "acme"))


@pytest.mark.parametrize("end", ["link", "state"])
async def test_a_login_that_has_ended(broker: RunningBroker, redis: Redis, end: str) -> None:
    """After ten minutes its link works no more, so that nobody is sent back to it: the page names the next step."""
    started = await start(broker, "g1", "acme")
    async with browser() as mine:
        state = (await opened(mine, started["login_url"])).partition("state=")[2].partition("&")[0]
        for key in [key async for key in redis.scan_iter("broker:{0}:flow:*")]:
            await redis.delete(key)  # as Redis does after ten minutes
        at = started["login_url"] if end == "link" else f"{broker.url}/callback?code=x&state={state}"
        async with mine.get(at, allow_redirects=False) as answer:
            page = await answer.text()
    assert answer.status == 400
    assert "older than ten minutes" in page
    assert "ask for a new one, or make one with <code>token-broker login</code>" in page
    assert "again" not in page
