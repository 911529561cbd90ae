"""How grants end, or seem to: log out, death, refusals, suspended providers, a lost Redis."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.ports import free_port
from tests.redis_server import start_redis
from tests.steps import assert_sound, fall_due, log_in, make_due, next_generation, state_of, subscribed
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker
    from tests.redis_server import RedisServer


async def test_logout_refreshes_first_when_the_token_has_expired(
    broker: RunningBroker, sandbox: Sandbox, redis: Redis
) -> None:
    """CameraManager's logout is paid for with a living access token: an expired one is refreshed first."""
    camera = sandbox.cameramanager
    camera.options.access_lifetime = 1
    await log_in(broker, "g1", "cameramanager")
    await fall_due(redis, "cameramanager", {"g1": (time.time() + 60) * 1000})
    token = await broker.token("g1")
    await until(lambda: not camera.is_live_access(token["access_token"]))
    status, body, _ = await broker.ask("DELETE", "/v1/grants/g1")
    assert (status, body["revoked"]) == (200, True), body
    assert camera.families[0].refresh_token is None


async def test_logout_says_when_only_our_side_was_forgotten(broker: RunningBroker, sandbox: Sandbox) -> None:
    """A provider that cannot be reached has not revoked; the answer says so, and the grant is forgotten here."""
    await log_in(broker, "g1", "cameramanager")
    await sandbox.stop_listening()
    status, body, _ = await broker.ask("DELETE", "/v1/grants/g1")
    assert (status, body["revoked"], body["forgotten"]) == (200, False, True)
    assert "the grant was forgotten here only" in body["detail"]
    assert (await broker.ask("GET", "/v1/grants/g1"))[0] == 404
    assert sandbox.cameramanager.families[0].refresh_token is not None


async def test_logout_of_damaged_data(broker: RunningBroker, redis: Redis) -> None:
    """A grant whose key somebody replaced by something else is forgotten like any other, and stays so."""
    await log_in(broker, "g1", "acme")
    await redis.set("broker:{0}:grant:g1", "damaged")
    status, body, _ = await broker.ask("DELETE", "/v1/grants/g1")
    assert (status, body["revoked"], body["forgotten"]) == (200, False, True)
    assert "damaged, so there was nothing to revoke" in body["detail"]
    assert (await broker.ask("DELETE", "/v1/grants/g1"))[0] == 404
    assert (await broker.ask("GET", "/v1/grants"))[1]["grants"] == []
    assert not await redis.exists("broker:{0}:grant:g1")


async def test_a_damaged_schedule_stops_its_provider_alone(broker: RunningBroker, redis: Redis) -> None:
    """The others are refreshed; health and log name the key; once it is gone, a retry takes its grants up again."""
    await log_in(broker, "g1", "acme")
    await log_in(broker, "g2", "cameramanager")
    first = {grant: (await broker.token(grant))["generation"] for grant in ("g1", "g2")}
    await redis.set("broker:{0}:due:acme", "damaged")

    async def named() -> bool:
        checks = (await broker.get("/healthz"))["checks"]
        lane, keys = checks["lane acme"]["detail"], checks["lost grants"]["detail"]
        return "the key broker:{0}:due:acme holds something else than grants" in lane and "(due:acme)" in keys

    await until(named)
    assert broker.events("store.damaged")[0]["keys"] == ["due:acme"]
    assert not broker.events("store.lost")
    await make_due(redis, "cameramanager", "g2")
    await next_generation(broker, "g2", first["g2"])
    assert (await broker.token("g1"))["generation"] == first["g1"]
    await redis.delete("broker:{0}:due:acme")
    assert (await broker.ask("POST", "/v1/grants/g1/retry"))[0] == 202
    await next_generation(broker, "g1", first["g1"])
    assert (await broker.get("/healthz"))["checks"]["lane acme"]["detail"] == "runs"


async def test_dead_grant_is_parked_and_left_alone(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A dead grant gets no more requests however often it is read; its token is served to its end, then 409."""
    sandbox.rotating.options.access_lifetime = 3
    await log_in(broker, "g1", "acme")
    token = await broker.token("g1")
    async with subscribed(redis, "g1") as heard:
        family = sandbox.rotating.family_of(token["access_token"])
        assert family is not None
        sandbox.rotating.faults.order(
            "status", status=400, body={"error": "invalid_grant", "error_description": "gone"}
        )
        await until(lambda: heard)
    assert [message["event"] for message in heard] == ["reauthorization_required"]
    requests = len(sandbox.rotating.token_requests)
    status, body, _ = await broker.ask("GET", "/v1/grants/g1/token")
    assert (status, body["access_token"]) == (200, token["access_token"])
    await until(lambda: time.time() > token["expires_at"] + 1)
    for _ in range(20):
        status, body, _ = await broker.ask("GET", "/v1/grants/g1/token")
        assert (status, body["error"]) == (409, "reauthorization_required")
        assert "token-broker login g1 --provider acme" in body["error_description"]
    assert len(sandbox.rotating.token_requests) == requests
    described = await state_of(broker, "g1")
    assert (described["state"], described["last"]["outcome"]) == ("parked", "dead")
    assert "gone" in described["last"]["detail"]
    status, _, _ = await broker.ask("POST", "/v1/grants/g1/retry")
    assert status == 202
    await next_generation(broker, "g1", token["generation"])
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_wrong_client_secret_suspends_the_provider_not_its_grants(
    broker: RunningBroker, sandbox: Sandbox, redis: Redis
) -> None:
    """invalid_client suspends the provider, is probed a little, and heals by itself without losing a grant."""
    for number in range(4):
        await broker.import_(f"g{number}", "acme", sandbox.rotating.issue().refresh_token or "")
    right = sandbox.rotating.client_secret
    sandbox.rotating.client_secret = "rotated-by-the-provider"
    before = len(sandbox.rotating.token_requests)
    for number in range(4):
        await make_due(redis, "acme", f"g{number}")

    async def suspended() -> bool:
        rows = (await broker.get("/v1/providers"))["providers"]
        return any(row["suspended"] == "invalid_client" for row in rows)

    await until(suspended)
    health = await broker.get("/healthz")
    assert health["status"] == "degraded"
    assert health["checks"]["provider acme"]["detail"].startswith("suspended (invalid_client): check client id and")
    assert {(await state_of(broker, f"g{n}"))["reason"] for n in range(4)} == {None}
    await asyncio.sleep(1)
    assert len(sandbox.rotating.token_requests) - before <= 4
    sandbox.rotating.client_secret = right
    await broker.ask("POST", "/v1/providers/acme/retry")

    async def healed() -> bool:
        return not await suspended() and (await broker.get("/healthz"))["status"] == "ok"

    await until(healed)
    await assert_sound(broker, sandbox, *((f"g{n}", "acme") for n in range(4)))


async def test_breaker_parks_three_and_suspends(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A provider that calls grant after grant dead parks at most three; retry --provider takes all up again."""
    for number in range(8):
        await broker.import_(f"g{number}", "acme", sandbox.rotating.issue().refresh_token or "")
    sandbox.rotating.faults.order("status", None, status=400, body={"error": "invalid_grant"})
    for number in range(8):
        await make_due(redis, "acme", f"g{number}")

    async def counts() -> dict[str, int]:
        rows = (await broker.get("/v1/providers"))["providers"]
        acme = next(row for row in rows if row["provider"] == "acme")
        return {**acme["grants"], "suspended": int(acme["suspended"] is not None)}

    async def settled() -> bool:
        seen = await counts()
        return seen["suspended"] == 1 and seen["leased"] == 0

    await until(settled)
    assert (await counts())["parked"] == 3
    sandbox.rotating.faults.clear()
    status, body, _ = await broker.ask("POST", "/v1/providers/acme/retry")
    assert (status, body["grants_taken_up"]) == (202, 3)

    async def all_due() -> bool:
        seen = await counts()
        return seen["parked"] == seen["suspended"] == seen["leased"] == 0

    await until(all_due)
    await assert_sound(broker, sandbox, *((f"g{n}", "acme") for n in range(8)))


async def test_outage_costs_a_handful_of_requests(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """While a provider is down its lane lets one request through at a time, whatever waits; then all are refreshed."""
    for number in range(20):
        await broker.import_(f"g{number}", "acme", sandbox.rotating.issue().refresh_token or "")
    before = len(sandbox.rotating.token_requests)
    first = {n: (await broker.token(f"g{n}"))["generation"] for n in range(20)}
    sandbox.rotating.faults.order("status", None, status=503)
    for number in range(20):
        await make_due(redis, "acme", f"g{number}")
    await asyncio.sleep(4)
    assert len(sandbox.rotating.token_requests) - before <= 20 + 4
    sandbox.rotating.faults.clear()
    for number in range(20):
        await next_generation(broker, f"g{number}", first[number], 40)
    await assert_sound(broker, sandbox, *((f"g{n}", "acme") for n in range(20)))


async def test_retry_after_is_kept(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Inside a Retry-After the provider hears nothing, whatever falls due or is read."""
    for number in range(3):
        await broker.import_(f"g{number}", "acme", sandbox.rotating.issue().refresh_token or "")
    token = await broker.token("g0")
    sandbox.rotating.faults.order("status", status=429, headers={"Retry-After": "3"})
    await make_due(redis, "acme", "g0")

    async def not_before() -> bool:
        return any(row["not_before"] for row in (await broker.get("/v1/providers"))["providers"])

    await until(not_before)
    requests = len(sandbox.rotating.token_requests)
    await make_due(redis, "acme", "g1")
    await make_due(redis, "acme", "g2")
    ends = time.monotonic() + 2.2
    while time.monotonic() < ends:
        assert (await broker.ask("GET", "/v1/grants/g0/token"))[0] == 200
        await asyncio.sleep(0.05)
    assert len(sandbox.rotating.token_requests) == requests
    await next_generation(broker, "g0", token["generation"], 20)
    await assert_sound(broker, sandbox, *((f"g{n}", "acme") for n in range(3)))


async def test_redis_lost_and_found(start_broker: StartBroker, sandbox: Sandbox, own_redis: RedisServer) -> None:
    """With Redis gone, valid tokens are served from memory; when it is back, refreshing goes on."""
    async with start_broker(redis={"url": own_redis.url}, refresh={"request_timeout": "1s"}) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        await broker.import_("g2", "acme", sandbox.rotating.issue().refresh_token or "")
        token = await broker.token("g1")
        own_redis.kill()
        for _ in range(5):
            asked = time.monotonic()
            assert (await broker.token("g1"))["generation"] == token["generation"]
            assert time.monotonic() - asked < 0.5
        status, body, _ = await broker.ask("GET", "/v1/grants/never-read/token")
        assert (status, body["error"]) == (503, "store_unavailable")
        assert (await broker.ask("GET", "/readyz"))[0] == 200
        health = await broker.get("/healthz")
        assert (health["status"], health["checks"]["redis"]["status"]) == ("degraded", "degraded")
        assert health["checks"]["redis"]["detail"].startswith(("cannot be reached: ", "does not answer: "))
        again = start_redis(own_redis.directory, own_redis.port)
        own_redis.process = again.process
        await until(lambda: _status(broker, "ok"), 15)
        report = {"If-Match": f'"{token["generation"]}"'}
        assert (await broker.ask("POST", "/v1/grants/g1/refresh", headers=report))[0] == 429
        await broker.ask("POST", "/v1/grants/g1/retry")
        await next_generation(broker, "g1", token["generation"], 20)  # the fence opens first
        await assert_sound(broker, sandbox, ("g1", "acme"), ("g2", "acme"))


async def _status(broker: RunningBroker, wanted: str) -> bool:
    return bool((await broker.get("/healthz"))["status"] == wanted)


async def test_redis_away_at_start(start_broker: StartBroker, own_redis: RedisServer) -> None:
    """A broker whose Redis is not there yet waits for it, says so once, and is not ready meanwhile."""
    own_redis.kill()
    async with start_broker(redis={"url": own_redis.url}, wait=False) as broker:
        await until(lambda: broker.events("store.waiting"))
        status, body, _ = await broker.ask("GET", "/readyz")
        assert (status, body["status"]) == (503, "starting")
        assert body["checks"]["redis"]["detail"].startswith("cannot be reached")
        assert (await broker.get("/healthz"))["checks"]["redis"] == body["checks"]["redis"]
        own_redis.process = start_redis(own_redis.directory, own_redis.port).process

        async def ready() -> bool:
            return (await broker.ask("GET", "/readyz"))[0] == 200

        await until(ready)
        assert len(broker.events("store.waiting")) == 1


async def test_neighbours_of_a_hanging_provider(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A provider that hangs fills its own lane; the grants of another are refreshed on time."""
    refresh = {"request_timeout": "3s", "lease": "20s", "concurrency": 4}
    async with start_broker(refresh=refresh) as broker:
        for number in range(8):
            await broker.import_(f"slow{number}", "een", sandbox.v3.issue().refresh_token or "")
            await broker.import_(f"fast{number}", "acme", sandbox.rotating.issue().refresh_token or "")
        first = {n: (await broker.token(f"fast{n}"))["generation"] for n in range(8)}
        sandbox.v3.faults.order("hang", None)
        for number in range(8):
            await make_due(redis, "een", f"slow{number}")
        await asyncio.sleep(0.1)
        for number in range(8):
            await make_due(redis, "acme", f"fast{number}")
        asked = time.monotonic()
        for number in range(8):
            await next_generation(broker, f"fast{number}", first[number], 5)
        assert time.monotonic() - asked < 2.5
        sandbox.v3.faults.clear()


async def test_a_dead_port_is_a_clear_word(start_broker: StartBroker) -> None:
    """A provider nobody listens at: not sent, said in the answer, nothing parked."""
    endpoint = f"http://127.0.0.1:{free_port()}/token"
    provider = {"kind": "oauth2", "client_id": "c", "client_secret": "secret-0123", "token_endpoint": endpoint}
    async with start_broker(providers={"gone": provider}) as broker:
        status, _, _ = await broker.ask("PUT", "/v1/grants/g1", json={"provider": "gone", "refresh_token": "r-0123456"})
        assert status == 201
        status, body, _ = await broker.ask("GET", "/v1/grants/g1/token", headers={"Prefer": "wait=1"})
        assert (status, body["error"]) == (503, "token_unavailable")
        assert "connection_refused" in body["error_description"]
        described = await state_of(broker, "g1")
        assert (described["reason"], described["last"]["outcome"]) == (None, "not_sent")
