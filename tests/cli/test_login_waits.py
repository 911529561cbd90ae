"""`login` while it waits for the browser: what ends the wait, at a broker that answers as the test says."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tests.cli.conftest import Done, Home, lines
from tests.serving import serving

ERROR = {"error": "some_code", "error_description": "the words for it"}
Answer = tuple[int, dict[str, Any]]


@contextlib.asynccontextmanager
async def answering(life: float, *polls: Answer, grant: Answer = (404, ERROR)) -> AsyncIterator[str]:
    """Yield a broker that starts logins of *life* seconds and answers polls in turn, the last one ever again."""
    left = list(polls)

    async def start(_: web.Request) -> web.Response:
        url = "http://as.test/login"
        return web.json_response(
            {"login_url": url, "authorization_url": url, "ticket": "t", "state": "s", "expires_at": time.time() + life}
        )

    async def poll(_: web.Request) -> web.Response:
        status, body = left.pop(0) if len(left) > 1 else left[0]
        return web.json_response(body, status=status)

    async def describe(_: web.Request) -> web.Response:
        return web.json_response(grant[1], status=grant[0])

    app = web.Application()
    app.router.add_post("/v1/grants/g/login", start)
    app.router.add_get("/v1/grants/g/login/t", poll)
    app.router.add_get("/v1/grants/g", describe)
    async with serving(app) as url:
        yield url


async def login(home: Home, url: str) -> Done:
    """Log in at that broker."""
    return await home("login", "g", "-p", "acme", "--url", url, env={"TOKEN_BROKER_KEY": "key"})


@pytest.mark.parametrize("status", [400, 401, 403, 409, 421, 429, 500, 502])
async def test_a_refused_poll_ends_the_wait(home: Home, status: int) -> None:
    """A key that was taken away, or a fault at the broker, is said at once instead of waited for."""
    async with answering(600, (200, {"status": "pending"}), (status, ERROR)) as url:
        began = time.monotonic()
        done = await login(home, url)
        assert time.monotonic() - began < 15
    assert done.code == 1
    unknown_key = (
        "the broker does not know the key in TOKEN_BROKER_KEY: name another file with --key-file, or make a key "
    )
    words = f"{unknown_key}with `token-broker caller new NAME`" if status == 401 else "the words for it"
    assert lines(done.err) == [f"token-broker: {words}"]


@pytest.mark.parametrize(
    "poll", [(200, {"status": "pending"}), (200, {"status": "working"}), (503, ERROR), (404, ERROR)], ids=str
)
async def test_the_wait_ends_with_the_login(home: Home, poll: Answer) -> None:
    """Nobody came, or the broker has no Redis, until the login is over: one clear line, not an endless wait."""
    async with answering(2, poll) as url:
        began = time.monotonic()
        done = await login(home, url)
        assert time.monotonic() - began < 15
    assert done.code == 1
    assert lines(done.err) == ["token-broker: nobody completed the login within ten minutes: start it again"]


@pytest.mark.parametrize("life", [600, -3600, 7200], ids=["right", "ours is ahead", "ours is behind"])
async def test_a_clock_that_is_off_ends_no_login(home: Home, life: float) -> None:
    """What the broker's clock calls the end may long have passed by ours: the login is waited for all the same."""
    described = (200, {"granted_at": 1, "scope": "a", "issued_at": 10, "expires_at": 70})
    polls = [(503, ERROR), (200, {"status": "pending"}), (200, {"status": "completed"})]
    async with answering(life, *polls, grant=described) as url:
        done = await login(home, url)
    assert done.code == 0, done
    assert "its access token lives 60 s, scope a" in done.out
