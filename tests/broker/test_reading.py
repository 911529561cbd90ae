"""What services read: conditional and waiting reads, least life, the 401 report, rights."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from broker.cli.formats import formatted
from broker.model import Token
from broker.secret import Secret, key_digest
from broker.token_answer import token_answer
from tests.steps import PROVIDERS, assert_sound, authority_of, log_in, make_due, next_generation, subscribed
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker


@pytest.fixture
async def g1(broker: RunningBroker, sandbox: Sandbox) -> dict[str, Any]:
    """Return a grant at the rotating provider, and its first token answer."""
    await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
    return await broker.token("g1")


async def test_token_answer_is_rfc_6749(broker: RunningBroker, g1: dict[str, Any]) -> None:
    """The answer has the members of RFC 6749 §5.1 at its top level, and the members of the broker beside them."""
    status, body, headers = await broker.ask("GET", "/v1/grants/g1/token")
    assert status == 200
    assert body["token_type"] == "Bearer"
    assert 3500 < body["expires_in"] <= 3600
    assert abs(body["expires_at"] - time.time() - 3600) < 5
    assert body["grant_id"] == "g1"
    assert body["provider"] == "acme"
    assert headers["ETag"] == f'"{body["generation"]}"' == f'"{g1["generation"]}"'
    assert headers["Cache-Control"] == "no-store"


async def test_conditional_read(broker: RunningBroker, g1: dict[str, Any]) -> None:
    """If-None-Match with the current generation is 304 without a body, with another one 200."""
    etag = f'"{g1["generation"]}"'
    status, body, headers = await broker.ask("GET", "/v1/grants/g1/token", headers={"If-None-Match": etag})
    assert (status, body["text"], headers["ETag"]) == (304, "", etag)
    status, body, _ = await broker.ask("GET", "/v1/grants/g1/token", headers={"If-None-Match": '"1"'})
    assert status == 200


async def test_expired_token_is_never_304(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """304 is only said of a token that would also be served."""
    sandbox.rotating.options.access_lifetime = 1
    await broker.import_("g2", "acme", sandbox.rotating.issue().refresh_token or "")
    token = await broker.token("g2")
    await sandbox.stop_listening()
    await until(lambda: time.time() > token["expires_at"] + 1)
    status, body, headers = await broker.ask(
        "GET", "/v1/grants/g2/token", headers={"If-None-Match": f'"{token["generation"]}"', "Prefer": "wait=0"}
    )
    assert (status, body["error"]) == (503, "token_unavailable"), body
    assert int(headers["Retry-After"]) >= 1
    await sandbox.start_listening()
    await broker.ask("POST", "/v1/grants/g2/retry")
    await next_generation_when_up(broker, "g2", token["generation"])
    await assert_sound(broker, sandbox, ("g2", "acme"))


async def next_generation_when_up(broker: RunningBroker, grant: str, after: int) -> None:
    """Wait until a newer token is served, whatever is answered before."""

    async def newer() -> bool:
        status, body, _ = await broker.ask("GET", f"/v1/grants/{grant}/token", headers={"Prefer": "wait=1"})
        return status == 200 and body["generation"] != after

    await until(newer, 20)


async def test_long_poll_wakes_at_the_commit(broker: RunningBroker, redis: Redis, g1: dict[str, Any]) -> None:
    """A long poll answers with the next generation as soon as it is there, and 304 when there is no news."""
    headers = {"If-None-Match": f'"{g1["generation"]}"', "Prefer": "wait=10"}
    poll = asyncio.create_task(broker.ask("GET", "/v1/grants/g1/token", headers=headers))
    await asyncio.sleep(0.2)
    assert not poll.done()
    await make_due(redis, "acme", "g1")
    status, body, answered = await poll
    assert status == 200
    assert body["generation"] > g1["generation"]
    assert answered["Preference-Applied"] == "wait=10"
    again = {"If-None-Match": f'"{body["generation"]}"', "Prefer": "wait=1"}
    asked = time.monotonic()
    assert (await broker.ask("GET", "/v1/grants/g1/token", headers=again))[0] == 304
    assert 0.9 < time.monotonic() - asked < 3


async def test_a_long_poll_outlives_no_token(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Whose token dies while they wait for news are told, then, what everybody is told: not 304 at the end."""
    sandbox.rotating.options.access_lifetime = 3
    await broker.import_("g2", "acme", sandbox.rotating.issue().refresh_token or "")
    token = await broker.token("g2")
    sandbox.rotating.faults.order("status", 1000, status=503)
    token = await broker.token("g2")
    asked = time.time()
    headers = {"If-None-Match": f'"{token["generation"]}"', "Prefer": "wait=8"}
    polling = asyncio.create_task(broker.ask("GET", "/v1/grants/g2/token", headers=headers))
    await asyncio.sleep(0.1)
    status, body, _ = await polling
    assert (status, body["error"]) == (503, "token_unavailable"), body
    assert time.time() < asked + 10
    sandbox.rotating.faults.clear()


async def test_min_ttl_has_a_longer_token_made(broker: RunningBroker, sandbox: Sandbox) -> None:
    """min_ttl expedites a refresh when the token has less life, and is refused when no refresh can yield it."""
    sandbox.rotating.options.access_lifetime = 8
    await broker.import_("g2", "acme", sandbox.rotating.issue().refresh_token or "")
    first = await broker.token("g2")
    await until(lambda: time.time() > first["expires_at"] - 6)
    second = await broker.get("/v1/grants/g2/token?min_ttl=7")
    assert second["generation"] > first["generation"]
    assert second["expires_in"] >= 6
    status, body, _ = await broker.ask("GET", "/v1/grants/g2/token?min_ttl=60")
    assert (status, body["error"]) == (400, "invalid_request")
    assert "yields 8 s" in body["error_description"]


async def test_bare_token_for_shells(broker: RunningBroker, g1: dict[str, Any]) -> None:
    """Accept: text/plain gives the bare token; lists and browsers get JSON."""
    for accept, bare in [
        ("text/plain", True),
        ("text/plain;q=0.5, application/json", False),
        ("application/json;q=0.5, text/plain", True),
        ("*/*", False),
        ("text/*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("text/plain;q=0", False),
        ("x" * 4096, False),
    ]:
        _, body, headers = await broker.ask("GET", "/v1/grants/g1/token", headers={"Accept": accept})
        assert headers["Content-Type"].startswith("text/plain" if bare else "application/json"), accept
        assert body.get("text", body.get("access_token")) == g1["access_token"]


async def test_a_hundred_401_reports_cause_one_refresh(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis
) -> None:
    """A hundred callers whose token got a 401 cause one refresh, and all get its token."""
    async with start_broker(refresh={"min_interval": "1s"}) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        token = await broker.token("g1")
        await asyncio.sleep(1.1)
        before = len(sandbox.rotating.token_requests)
        reports = [
            broker.ask("POST", "/v1/grants/g1/refresh", headers={"If-Match": f'"{token["generation"]}"'})
            for _ in range(100)
        ]
        answers = await asyncio.gather(*reports)
        assert {status for status, _, _ in answers} == {200}
        assert {body["generation"] for _, body, _ in answers} == {(await broker.token("g1"))["generation"]}
        assert len(sandbox.rotating.token_requests) - before == 1
        fresh = {"If-Match": f'"{answers[0][1]["generation"]}"'}
        status, body, headers = await broker.ask("POST", "/v1/grants/g1/refresh", headers=fresh)
        assert (status, body["error"]) == (429, "too_fresh")
        assert int(headers["Retry-After"]) == 1
        assert len(sandbox.rotating.token_requests) - before == 1
        await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_reports_of_old_generations_get_the_current_token(broker: RunningBroker, g1: dict[str, Any]) -> None:
    """An If-Match that is no longer current answers 200 with the current token at once, never 412."""
    status, body, _ = await broker.ask("POST", "/v1/grants/g1/refresh", headers={"If-Match": '"1"'})
    assert (status, body["generation"]) == (200, g1["generation"])


async def test_old_token_dies_is_advertised(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Where a refresh kills the old token, expires_in ends at the planned refresh, which comes late."""
    await log_in(broker, "g2", "een")
    token = await broker.token("g2")
    described = await broker.get("/v1/grants/g2")
    assert abs(token["expires_in"] - (described["refresh_at"] - time.time())) < 3
    life = described["expires_at"] - described["issued_at"]
    assert 0.91 * life < described["refresh_at"] - described["issued_at"] < 0.97 * life
    assert described["reauthorize_by"] - described["granted_at"] == 14 * 86400
    assert len(sandbox.v3.families) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_expires_at_is_the_end_of_expires_in(
    broker: RunningBroker, sandbox: Sandbox, redis: Redis, provider: str
) -> None:
    """Libraries prefer expires_at: answer, message, and what a command makes of it say the same end."""
    ends_early = provider == "een"
    async with subscribed(redis, "g1") as heard:
        await log_in(broker, "g1", provider)
        first = await broker.token("g1")
        await broker.ask("POST", "/v1/grants/g1/retry")
        await until(lambda: len(heard) == 2)
    second = await next_generation(broker, "g1", first["generation"])
    described = await broker.get("/v1/grants/g1")
    for token in (first, second, *heard):
        assert abs(token["expires_at"] - time.time() - token["expires_in"]) < 3
    assert second["expires_at"] == described["refresh_at" if ends_early else "expires_at"]
    assert described["expires_at"] - described["issued_at"] == authority_of(sandbox, provider).options.access_lifetime
    assert formatted(second, "env").endswith(f"_AT={second['expires_at']}")
    expires = json.loads(formatted(second, "k8s"))["status"]["expirationTimestamp"]
    assert datetime.fromisoformat(expires).timestamp() == second["expires_at"]


@pytest.mark.parametrize("ends_early", [True, False], ids=["dies", "survives"])
@pytest.mark.parametrize("now", [-60, 0, 1, 50, 89.999, 90, 95, 99.2, 100, 101, 1000])
def test_expires_at_at_every_age(now: float, ends_early: bool) -> None:
    """Whatever the token's age: never beyond its true end, and with expires_in the same moment."""
    issued = 1_700_000_000_400
    end = issued + (90_000 if ends_early else 100_000)
    token = Token("g1", "p", 1, Secret("a"), "Bearer", None, issued, issued + 100_000, issued + 90_000, end)
    at = issued + int(now * 1000)
    content = token_answer(token, at)
    assert content["expires_at"] <= token.expires_at // 1000
    if 0 <= now < 100:
        assert 0 <= content["expires_at"] - content["expires_in"] - at // 1000 <= 1
    if ends_early and 0 <= now < 80:
        assert content["expires_at"] == token.refresh_at // 1000
    if not ends_early or now >= 100:
        assert content["expires_at"] == token.expires_at // 1000


async def test_rights_are_by_pattern(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """A caller reads what its patterns allow, and cannot tell a forbidden grant from one that is not there."""
    callers = {
        "wall": {
            "key_sha256": key_digest("wall-key-0123456789-0123456789-0123456789"),
            "read": ["acme-*"],
            "refresh": ["acme-1"],
        }
    }
    async with start_broker() as admin:
        await admin.import_("acme-1", "acme", sandbox.rotating.issue().refresh_token or "")
        await admin.import_("other", "acme", sandbox.rotating.issue().refresh_token or "")
    async with start_broker(callers=callers) as broker:
        broker.secrets.add("wall-key-0123456789-0123456789-0123456789")
        key = {"X-Broker-Key": "wall-key-0123456789-0123456789-0123456789"}
        for path, wanted in [
            ("/v1/grants/acme-1/token", 200),
            ("/v1/grants/acme-2/token", 404),
            ("/v1/grants/other/token", 403),
            ("/v1/grants/nothing/token", 403),
            ("/v1/grants/acme-2/token?min_ttl=5", 403),
            ("/v1/grants/acme-1", 403),
            ("/v1/grants", 403),
            ("/v1/providers", 403),
            ("/readyz/acme-1", 200),
            ("/readyz/other", 403),
        ]:
            assert (await broker.ask("GET", path, headers=key))[0] == wanted, path
        bearer = {"X-Broker-Key": "", "Authorization": "bearer  wall-key-0123456789-0123456789-0123456789"}
        status, _, _ = await broker.ask("GET", "/v1/grants/acme-1/token", headers=bearer)
        assert status == 401, "an empty X-Broker-Key wins, and is no key"
        del bearer["X-Broker-Key"]
        async with broker.session.get(broker.url + "/v1/grants/acme-1/token", headers=bearer) as answer:
            assert answer.status == 200
        async with broker.session.get(broker.url + "/v1/grants/acme-1/token") as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_replicas_follow_within_100_ms(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """What one replica commits the other serves at once."""
    async with start_broker() as one, start_broker() as two:
        await one.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        token = await two.token("g1")
        await make_due(redis, "acme", "g1")
        newer = await next_generation(one, "g1", token["generation"])
        await until(lambda: _same(two, newer["generation"]), 0.5)
        await assert_sound(one, sandbox, ("g1", "acme"))


async def _same(broker: RunningBroker, generation: int) -> bool:
    return bool((await broker.token("g1"))["generation"] == generation)
