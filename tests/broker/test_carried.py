"""What answers and callbacks carry to callers, and how long: from the login, through refreshes, to the next login."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from tests.broker.logins import browser, opened, start
from tests.scripted_server import ScriptedServer, http, scripted_server
from tests.steps import make_due, next_generation, state_of, stored_refresh_token
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from tests.conftest import RunningBroker, StartBroker

GRANT = "broker:{0}:grant:g1"


def provider_at(server: ScriptedServer, **settings: Any) -> dict[str, Any]:
    """Return settings of a provider at *server*."""
    return {
        "kind": "oauth2",
        "client_id": "c",
        "client_secret": "the-client-secret",
        "authorization_endpoint": f"{server.url}/authorize",
        "token_endpoint": f"{server.url}/token",
        **settings,
    }


async def come_back(broker: RunningBroker, **parameters: str) -> None:
    """Log in as a browser that comes back with a code and these *parameters*."""
    started = await start(broker, "g1", "as")
    async with browser() as mine:
        where = await opened(mine, started["login_url"])
        (state,) = parse_qs(urlsplit(where).query)["state"]
        query = urlencode({"code": "the-code-of-this-login", "state": state, **parameters})
        async with mine.get(f"{broker.url}/callback?{query}") as answer:
            assert answer.status == 200, await answer.text()


async def refreshed(broker: RunningBroker, redis: Redis) -> dict[str, Any]:
    """Have the grant refreshed; return the token answer."""
    before = await broker.token("g1")
    await make_due(redis, "as", "g1")
    return await next_generation(broker, "g1", before["generation"])


def tokens(number: int, **members: Any) -> bytes:
    """Return an answer with the tokens of this *number*."""
    return http({"access_token": f"at-{number}", "refresh_token": f"rt-{number}", "expires_in": 3600, **members})


async def test_slack_says_it_in_two_places(start_broker: StartBroker, redis: Redis) -> None:
    """The login's answer has the tokens at `authed_user`, a refresh's at the top: the rotated token is stored."""
    login = {
        "ok": True,
        "app_id": "A1",
        "team": {"id": "T1"},
        "access_token": "xoxb-of-the-bot",
        "refresh_token": "rt-of-the-bot",
        "expires_in": 60,
        "scope": "bot",
        "authed_user": {
            "id": "U1",
            "scope": "chat:write",
            "access_token": "at-1",
            "refresh_token": "rt-1",
            "expires_in": 43_200,
            "token_type": "user",
        },
    }
    async with scripted_server(http(login), tokens(2, ok=True, token_type="user")) as server:
        providers = {"as": provider_at(server, response_path="authed_user")}
        async with start_broker(providers=providers) as broker:
            await come_back(broker)
            token = await broker.token("g1")
            assert (token["access_token"], token["token_type"], token["scope"]) == ("at-1", "user", "chat:write")
            assert token["expires_in"] > 43_000
            assert (token["team"], token["authed_user"]) == ({"id": "T1"}, {"id": "U1"})
            assert await stored_refresh_token(broker, "g1") == "rt-1"
            token = await refreshed(broker, redis)
            assert (token["access_token"], token["authed_user"]) == ("at-2", {"id": "U1"})
            await until(lambda: _stored(broker, "rt-2"))
            assert server.requests[-1].parameters["refresh_token"] == "rt-1"


async def _stored(broker: RunningBroker, refresh_token: str) -> bool:
    return await stored_refresh_token(broker, "g1") == refresh_token


async def test_members_of_a_login_are_kept(start_broker: StartBroker, redis: Redis) -> None:
    """They are served until an answer names them anew or a login replaces them, also by a broker started later."""
    answers = (
        tokens(1, athlete={"id": 7}, api_domain="a", expires_on=5),
        tokens(2, api_domain="b"),
        tokens(3),
        tokens(4, api_domain="c"),
    )
    async with scripted_server(*answers) as server:
        providers = {"as": provider_at(server, keep_from_callback=["realmId", "absent"])}
        async with start_broker(providers=providers) as broker:
            await come_back(broker, realmId="4620816365", other="x")
            token = await broker.token("g1")
            assert (token["athlete"], token["api_domain"], token["realmId"]) == ({"id": 7}, "a", "4620816365")
            assert not {"other", "absent", "code", "state"} & token.keys()
            token = await refreshed(broker, redis)
            assert (token["athlete"], token["api_domain"], token["realmId"]) == ({"id": 7}, "b", "4620816365")
            assert "expires_on" not in token
        async with start_broker(providers=providers) as broker:
            token = await refreshed(broker, redis)
            assert (token["athlete"], token["api_domain"], token["realmId"]) == ({"id": 7}, "b", "4620816365")
            await come_back(broker)
            token = await broker.token("g1")
            assert (token["api_domain"], token.keys() & {"athlete", "realmId"}) == ("c", set())


async def test_the_callback_replaces_nothing_of_the_answer(start_broker: StartBroker) -> None:
    """What the provider says itself counts, and a parameter that repeats the code is not kept."""
    async with scripted_server(tokens(1, shop="of-the-answer")) as server:
        providers = {"as": provider_at(server, keep_from_callback=["shop", "hint"])}
        async with start_broker(providers=providers) as broker:
            await come_back(broker, shop="of-the-browser", hint="was the-code-of-this-login")
            token = await broker.token("g1")
            assert (token["shop"], "hint" in token) == ("of-the-answer", False)


@pytest.mark.parametrize("silent", [True, False])
async def test_the_end_that_an_answer_says(start_broker: StartBroker, redis: Redis, silent: bool) -> None:
    """`authorization_expires_in` of the login is `reauthorize_by` of the grant, also after an answer without it."""
    later = {} if silent else {"authorization_expires_in": 2 * 86_400}
    answers = (tokens(1, authorization_expires_in="864000"), tokens(2, **later), tokens(3, authorization_expires_in=0))
    async with scripted_server(*answers) as server, start_broker(providers={"as": provider_at(server)}) as broker:
        await come_back(broker)
        now = time.time()
        state = await state_of(broker, "g1")
        assert abs(state["reauthorize_by"] - now - 864_000) < 20
        await refreshed(broker, redis)
        wanted = 864_000 if silent else 2 * 86_400
        await until(lambda: _ends_in(broker, now + wanted))
        assert abs(await _metric(broker) - now - wanted) < 20
        await refreshed(broker, redis)
        await until(lambda: _ends_in(broker, None))
        assert await redis.hmget(GRANT, "reauthorize_by", "reauthorize_limit") == [None, None]


async def _ends_in(broker: RunningBroker, wanted: float | None) -> bool:
    by = (await state_of(broker, "g1"))["reauthorize_by"]
    return by is None if wanted is None else by is not None and abs(by - wanted) < 20


async def _metric(broker: RunningBroker) -> float:
    async with broker.session.get(f"{broker.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    (line,) = [line for line in lines if line.startswith("token_broker_grant_reauthorize_by") and 'grant="g1"' in line]
    return float(line.split()[-1])


async def test_an_unchanged_token_that_lives_longer_is_served_on(start_broker: StartBroker, redis: Redis) -> None:
    """Salesforce gives the same token again: it lives on from now, in memory too, and is asked for again in time."""
    same = http({"access_token": "at-1", "token_type": "Bearer"})
    async with scripted_server(tokens(1, expires_in=60), same) as server:
        providers = {"as": provider_at(server, default_lifetime="2h")}
        async with start_broker(providers=providers) as broker:
            await come_back(broker)
            before = await broker.token("g1")
            await make_due(redis, "as", "g1")
            await until(lambda: _lives(broker, 7_000))
            after = await broker.token("g1")
            assert (after["access_token"], after["generation"]) == ("at-1", before["generation"])
            state = await state_of(broker, "g1")
            assert abs(state["refresh_at"] - time.time() - 3_600) < 20
            assert (state["failures"], state["last"]["outcome"]) == (0, "unchanged")


async def _lives(broker: RunningBroker, seconds: int) -> bool:
    return bool((await broker.token("g1"))["expires_in"] > seconds)
