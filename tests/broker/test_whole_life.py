"""One grant's whole life, for each dialect: log in, refresh again and again, serve, publish, log out."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.steps import PROVIDERS, assert_sound, authority_of, log_in, next_generation, subscribed
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_whole_life(broker: RunningBroker, sandbox: Sandbox, redis: Redis, provider: str) -> None:
    """Logged in once, a grant is refreshed, served and published again and again, until it is logged out."""
    authority = authority_of(sandbox, provider)
    authority.options.access_lifetime = 2
    async with subscribed(redis, "g1") as heard:
        assert "Logged in" in await log_in(broker, "g1", provider)
        token = await broker.token("g1")
        generations = [token["generation"]]
        for _ in range(3):
            assert authority.is_live_access(token["access_token"])
            assert not {"refresh_token", "id_token"} & set(token)
            token = await next_generation(broker, "g1", generations[-1])
            generations.append(token["generation"])
        assert generations == sorted(set(generations))
        await assert_sound(broker, sandbox, ("g1", provider))
        if provider == "een":
            assert token["httpsBaseUrl"]["hostname"] == "127.0.0.1"

        status, body, _ = await broker.ask("DELETE", "/v1/grants/g1")
        assert (status, body["revoked"], body["forgotten"]) == (200, True, True), body
        assert (await broker.ask("GET", "/v1/grants/g1/token"))[0] == 404
        assert authority.families[0].refresh_token is None
        await until(lambda: heard[-1]["event"] == "revoked")
    events = [message["event"] for message in heard]
    assert events == ["reauthorized", *["refreshed"] * (len(events) - 2), "revoked"]
    assert [message["generation"] for message in heard[:4]] == generations[:4]
    assert all("refresh_token" not in message for message in heard)


async def test_reading_without_pause_never_meets_an_expired_token(broker: RunningBroker, sandbox: Sandbox) -> None:
    """While 2-second tokens come and go, every read answers 200 at once with life left."""
    sandbox.rotating.options.access_lifetime = 2
    await log_in(broker, "g1", "acme")
    seen: set[int] = set()
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        asked = time.monotonic()
        token = await broker.token("g1")
        assert time.monotonic() - asked < 0.5
        assert sandbox.rotating.is_live_access(token["access_token"])
        seen.add(token["generation"])
        await asyncio.sleep(0.005)
    assert len(seen) >= 3


async def test_window_is_drawn_once_and_kept(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """The planned refresh lies in the window, is written down, and does not move when it is looked at."""
    del sandbox
    await log_in(broker, "g1", "acme")
    first = await broker.get("/v1/grants/g1")
    life = first["expires_at"] - first["issued_at"]
    assert 0.69 * life <= first["refresh_at"] - first["issued_at"] <= 0.86 * life
    await asyncio.sleep(0.3)
    score = await redis.zscore("broker:{0}:due:acme", "g1")
    assert score is not None
    assert int(score) // 1000 == first["refresh_at"] == (await broker.get("/v1/grants/g1"))["refresh_at"]


@pytest.mark.parametrize(
    ("lifetime", "least", "most"),
    [(1, 2, 12), (604_800, 0, 0), (None, 0, 0), (0, 0, 0), (-5, 0, 0)],
    ids=["1s", "7d", "missing", "0", "negative"],
)
async def test_lifetimes_neither_spin_nor_starve(
    start_broker: StartBroker, sandbox: Sandbox, lifetime: float | None, least: int, most: int
) -> None:
    """Whatever lifetime a server states, requests stay few, and a token is there to be read."""
    authority = sandbox.rotating
    if lifetime is not None and lifetime <= 0:
        authority.faults.order("members", times=None, members={"expires_in": lifetime})
    else:
        authority.options.access_lifetime = lifetime
    async with start_broker() as broker:
        await broker.import_("g1", "acme", authority.issue().refresh_token or "")
        before = len(authority.token_requests)
        ends = time.monotonic() + 3
        while time.monotonic() < ends:
            token = await broker.token("g1")
            assert authority.is_live_access(token["access_token"])
            await asyncio.sleep(0.02)
        assert least <= len(authority.token_requests) - before <= most
        await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_notices_carry_no_token(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """With publish = notice subscribers hear that there is a new generation, and read it themselves."""
    async with start_broker(pubsub={"publish": "notice"}) as broker, subscribed(redis, "g1") as heard:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        await until(lambda: heard)
        token = await broker.token("g1")
    assert heard[0]["event"] == "refreshed"
    assert heard[0]["generation"] == token["generation"]
    assert "access_token" not in heard[0]


async def test_an_imported_token_is_trimmed_and_said(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """A line end that was pasted with a refresh token is cut off, the answer says so, and the grant lives."""
    token = sandbox.rotating.issue().refresh_token
    async with start_broker() as broker:
        body = {"provider": "acme", "refresh_token": f"\ufeff{token}\r\n"}
        status, answer, _ = await broker.ask("PUT", "/v1/grants/g1", json=body)
        assert status == 201
        assert "at its ends" in answer["warning"]
        assert (await broker.token("g1"))["access_token"]
