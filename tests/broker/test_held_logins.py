"""Answers of logins that wait for an account or a decision: what came later counts, and nothing ends the broker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import ProviderUnavailable
from broker.login import held, recorder
from broker.providers.discovery import Discovery
from broker.sandbox import walk_login, walk_to_redirect
from tests.broker.logins import StuckStep, browser, log_in_as, opened, refused_as, start, with_accounts
from tests.steps import assert_sound, make_due, next_generation, state_of, stored_refresh_token
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker


async def account_of(broker: RunningBroker) -> str:
    """Return the id of the account of g1."""
    return str((await state_of(broker, "g1"))["account"]["id"])


async def test_a_refused_login_does_not_replace_a_later_one(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Once the grant was logged in again, neither the browser that was refused nor an admin can replace it."""
    await log_in_as(broker, "jane")
    started = await start(broker, "g1", "acme")
    async with browser() as refused:
        url = await opened(refused, started["login_url"])
        redirected = await walk_to_redirect(url, broker.settings.redirect_uri, user="john")
        async with refused.get(redirected) as answer:
            page = await answer.text()
        state = page.partition('name="state" value="')[2].partition('"')[0]
        async with browser() as other, other.get(redirected) as seen:
            assert seen.status == 400
            assert "jane@example.com" not in await seen.text(), "a state stands in logs and histories"
        _, ticket = await refused_as(broker, "mary")
        await walk_login(started["login_url"], user="jane")  # the same link, in another browser
        token = await stored_refresh_token(broker, "g1")
        own = {"Origin": broker.url}
        async with refused.post(broker.settings.redirect_uri, data={"state": state}, headers=own) as answer:
            assert answer.status == 409
    assert (await broker.ask("POST", f"/v1/grants/g1/login/{ticket}/replace"))[0] == 409
    assert await account_of(broker) == "jane"
    assert await stored_refresh_token(broker, "g1") == token
    await assert_sound(broker, sandbox, ("g1", "acme"))


@pytest.mark.parametrize("decision", ["identify", "replace"])
async def test_what_a_dead_broker_left_does_not_replace_a_later_login(
    start_broker: StartBroker, sandbox: Sandbox, decision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that was left half done is not completed over one that came after it."""
    monkeypatch.setattr(held, "PAUSE", 0.1)
    monkeypatch.setattr(held, "DECIDE_MS", 3_000)
    monkeypatch.setattr(held, "STALE_MS", 3_000)
    stuck = StuckStep()
    async with start_broker(providers=with_accounts(sandbox)) as broker:
        await log_in_as(broker, "jane", "cameramanager")
        name = "_record" if decision == "replace" else "_fetch"
        ticket = (await refused_as(broker, "john", "cameramanager"))[1] if decision == "replace" else ""
        with monkeypatch.context() as dying:
            dying.setattr(held.HeldLogins, name, stuck)
            if decision == "replace":
                lost = asyncio.create_task(broker.ask("POST", f"/v1/grants/g1/login/{ticket}/replace"))
            else:
                started = await start(broker, "g1", "cameramanager", replace_account=True)
                lost = asyncio.create_task(walk_login(started["login_url"], user="john"))  # type: ignore[arg-type]
            await stuck.reached.wait()
        await log_in_as(broker, "jane", "cameramanager")
        token = await stored_refresh_token(broker, "g1")
        await until(lambda: broker.events("login.dropped"), 20)
        assert (await state_of(broker, "g1"))["account"]["email"] == "jane@example.com"
        assert await stored_refresh_token(broker, "g1") == token
        await assert_sound(broker, sandbox, ("g1", "cameramanager"))
        lost.cancel()
        stuck.end()


def without_id_tokens(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    """Return the sandbox's providers; `acme` has an endpoint that says whose a token is, and no id_token that does."""
    sandbox.rotating.options.id_token = "an.encrypted.id.token.here"
    providers = with_accounts(sandbox)
    providers["acme"] |= {"account_endpoint": f"{sandbox.url}/rotating/userinfo"}
    return providers


async def test_a_discovery_that_fails_does_not_end_the_broker(
    start_broker: StartBroker, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that a dead broker left waits while its provider cannot be discovered, and is completed then."""
    monkeypatch.setattr(held, "STALE_MS", 300)
    monkeypatch.setattr(held, "PAUSE", 0.1)
    monkeypatch.setattr(held, "_LEASE_MS", 500)
    stuck = StuckStep()

    async def unavailable(*_: Any) -> Any:
        raise ProviderUnavailable("no discovery document")

    async with start_broker(providers=without_id_tokens(sandbox)) as broker:
        started = await start(broker, "g1", "acme")
        with monkeypatch.context() as failing:
            failing.setattr(held.HeldLogins, "_fetch", stuck)
            lost = asyncio.create_task(walk_login(started["login_url"], user="jane"))
            await stuck.reached.wait()
            failing.setattr(Discovery, "metadata", unavailable)
            await until(lambda: broker.task.done() or broker.events("login.failed"), 10)
            assert not broker.task.done()
        await until(lambda: broker.events("grant.reauthorized"), 10)
        assert await account_of(broker) == "jane"
        await assert_sound(broker, sandbox, ("g1", "acme"))
        lost.cancel()
        stuck.end()


async def test_a_broker_that_was_frozen_records_no_second_time(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another broker recorded meanwhile stands, and so does what it was refreshed to."""
    monkeypatch.setattr(held, "STALE_MS", 300)
    monkeypatch.setattr(held, "PAUSE", 0.1)
    monkeypatch.setattr(recorder, "_FROZEN_MS", 200)
    reached, free = asyncio.Event(), asyncio.Event()
    fetch = held.HeldLogins._fetch

    async def frozen(*arguments: Any) -> Any:
        reached.set()
        await free.wait()
        return await fetch(*arguments)

    async with start_broker(providers=without_id_tokens(sandbox)) as broker:
        started = await start(broker, "g1", "acme")
        with monkeypatch.context() as freezing:
            freezing.setattr(held.HeldLogins, "_fetch", frozen)
            late = asyncio.create_task(walk_login(started["login_url"], user="jane"))
            await reached.wait()
        await until(lambda: broker.events("grant.reauthorized"), 10)
        token = await broker.token("g1")
        await make_due(redis, "acme", "g1")
        newest = await next_generation(broker, "g1", token["generation"])
        await until(lambda: redis.hget("broker:{0}:grant:g1", "committed"))
        free.set()
        await late
        assert (await broker.token("g1"))["generation"] == newest["generation"]
        await assert_sound(broker, sandbox, ("g1", "acme"))
