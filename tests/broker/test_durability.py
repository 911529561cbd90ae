"""A grant is never lost: an answer that arrived survives a store that forgets, a lost link, and a broker's end."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from broker.store import scripts
from tests.conftest import provider_settings
from tests.disk import Disk
from tests.proxy import RedisProxy
from tests.regressions.process import Process, broker_process
from tests.steps import (
    assert_sound,
    everything,
    make_due,
    next_generation,
    roll_back,
    state_of,
)
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker
    from tests.redis_server import RedisServer

QUICK = {"request_timeout": "1s", "lease": "8s"}


async def test_a_store_that_went_back_is_told_again(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """After a failover that lost acknowledged commits, the journal restores them before anybody claims."""
    async with start_broker(refresh=QUICK) as broker:
        for number in range(5):
            await broker.import_(f"g{number}", "acme", sandbox.rotating.issue().refresh_token or "")
        tokens = {n: await broker.token(f"g{n}") for n in range(5)}
        before = await everything(redis)
        for number in range(5):
            await make_due(redis, "acme", f"g{number}")
        newer = {n: await next_generation(broker, f"g{n}", tokens[n]["generation"]) for n in range(5)}
        await assert_sound(broker, sandbox, *((f"g{n}", "acme") for n in range(5)))
        await roll_back(redis, before)
        for number in range(5):
            await redis.zadd("broker:{0}:due:acme", {f"g{number}": 1}, xx=True)
        await until(lambda: broker.events("journal.replayed"))
        for number in range(5):
            assert (await broker.token(f"g{number}"))["generation"] == newer[number]["generation"]
        await assert_sound(broker, sandbox, *((f"g{n}", "acme") for n in range(5)))
        assert broker.events("journal.replayed")[-1]["restored"] == 5


async def test_a_commit_meets_a_store_that_went_back(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """An answer that arrives after the rollback restores its grant, and is not given back to the provider."""
    async with start_broker(refresh=QUICK) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        first = await broker.token("g1")
        before = await everything(redis)
        await make_due(redis, "acme", "g1")
        second = await next_generation(broker, "g1", first["generation"])
        await assert_sound(broker, sandbox, ("g1", "acme"))
        sandbox.rotating.options.latency = 0.5
        asked = len(sandbox.rotating.token_requests)
        await make_due(redis, "acme", "g1")
        await until(lambda: len(sandbox.rotating.token_requests) > asked)
        await roll_back(redis, before)
        third = await next_generation(broker, "g1", second["generation"])
        assert sandbox.rotating.is_live_access(third["access_token"])
        await assert_sound(broker, sandbox, ("g1", "acme"))
        assert not broker.events("grant.given_back")


@pytest.mark.parametrize("how", ["dropped", "swallowed"])
@pytest.mark.parametrize(
    "script", [scripts.CLAIM, scripts.COMMIT, scripts.POSTPONE, scripts.PARK], ids=lambda s: s.verb
)
async def test_a_lost_reply_of_each_script(
    start_broker: StartBroker,
    sandbox: Sandbox,
    shared_redis: RedisServer,
    redis: Redis,
    script: scripts.Script,
    how: str,
) -> None:
    """Whether a script ran or not when its reply was lost, the grant is refreshed once and stays whole."""
    async with (
        RedisProxy(shared_redis.port) as proxy,
        start_broker(refresh=QUICK, redis={"url": proxy.url}) as broker,
    ):
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        first = await broker.token("g1")
        await assert_sound(broker, sandbox, ("g1", "acme"))
        if script is scripts.POSTPONE:
            sandbox.rotating.faults.order("status", status=503)
        if script is scripts.PARK:
            sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant"})
        (proxy.drop_reply if how == "dropped" else proxy.swallow)(script)
        await make_due(redis, "acme", "g1")
        await until(lambda: proxy.dropped)
        if script is scripts.PARK:
            await until(lambda: _parked(broker))
            await broker.ask("POST", "/v1/grants/g1/retry")
        await next_generation(broker, "g1", first["generation"], 15)
        await assert_sound(broker, sandbox, ("g1", "acme"))
        described = await state_of(broker, "g1")
        assert (described["state"], described["failures"]) == ("due", 0)


async def _parked(broker: RunningBroker) -> bool:
    return bool((await state_of(broker, "g1"))["state"] == "parked")


async def test_an_answer_waits_for_redis(start_broker: StartBroker, sandbox: Sandbox, own_redis: RedisServer) -> None:
    """Redis goes away while a request is in flight: its token is served at once, and stored when Redis is back."""
    async with (
        RedisProxy(own_redis.port) as proxy,
        start_broker(refresh=QUICK, redis={"url": proxy.url}) as broker,
    ):
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        first = await broker.token("g1")
        sandbox.rotating.options.latency = 0.4
        asked = len(sandbox.rotating.token_requests)
        await broker.ask("POST", "/v1/grants/g1/retry")
        await until(lambda: len(sandbox.rotating.token_requests) > asked)
        proxy.down()
        second = await next_generation(broker, "g1", first["generation"])
        assert sandbox.rotating.is_live_access(second["access_token"])
        await until(lambda: broker.events("commit.delayed"))
        proxy.up = True
        await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_our_own_death_between_answer_and_commit(
    start_broker: StartBroker, sandbox: Sandbox, own_redis: RedisServer, tmp_path: Path
) -> None:
    """A broker that dies with an answer in its journal and nothing in Redis: its restart brings it home."""
    del start_broker
    providers = {"acme": provider_settings(sandbox)["acme"]}
    async with RedisProxy(own_redis.port) as proxy:
        async with broker_process(tmp_path / "one", proxy.url, providers, refresh=QUICK) as broker:
            await broker.put("g1", sandbox.rotating.issue().refresh_token or "", "acme")
            await until(lambda: broker.has_token("g1"))
            sandbox.rotating.options.latency = 0.4
            asked = len(sandbox.rotating.token_requests)
            await broker.ask("POST", "/v1/grants/g1/retry")
            await until(lambda: len(sandbox.rotating.token_requests) > asked)
            proxy.down()
            await broker.logged("commit.delayed")
            broker.kill()
        proxy.up = True
        sandbox.rotating.options.latency = 0
        async with broker_process(tmp_path / "one", proxy.url, providers, refresh=QUICK) as heir:
            replayed = await heir.logged("journal.replayed")
            assert [line["restored"] for line in replayed] == [1]
            token = (await heir.get("/v1/grants/g1/token"))["access_token"]
            assert sandbox.rotating.is_live_access(token)
            await heir.ask("POST", "/v1/grants/g1/retry")
            await until(lambda: heir.has_token("g1"))
        assert sandbox.rotating.reuse == 0
        assert sandbox.rotating.families[0].generation >= 3


@pytest.mark.parametrize("grace", [15, 0])
async def test_our_own_death_with_requests_in_flight(
    sandbox: Sandbox, redis: Redis, shared_redis: RedisServer, tmp_path: Path, grace: int
) -> None:
    """A restart knows at once what its last life left open, however long the leases: a grace is used before it ends."""
    sandbox.rotating.options.reuse_grace = grace
    providers = {"acme": provider_settings(sandbox)["acme"] | {"reuse_grace": f"{grace}s"}}
    settings = (tmp_path / "one", shared_redis.url, providers)
    refresh = {"request_timeout": "1s", "lease": "10m", "import_spread": "0s"}
    grants = [f"g{number}" for number in range(4)]
    async with broker_process(*settings, refresh=refresh) as broker:
        for grant in grants:
            await broker.put(grant, sandbox.rotating.issue().refresh_token or "", "acme")
        for grant in grants:
            await until(lambda: broker.has_token(grant))
        sandbox.rotating.faults.order("hang", 4, after_rotation=True)
        asked = len(sandbox.rotating.token_requests)
        await redis.zadd("broker:{0}:due:acme", dict.fromkeys(grants, 0.0), xx=True)
        await until(lambda: len(sandbox.rotating.token_requests) == asked + 4)
        await asyncio.sleep(0.2)
        broker.kill()
    async with broker_process(*settings, refresh=refresh) as heir:
        for grant in grants:
            await until(lambda: _taken_up(heir, grant), 12)
            token = (await heir.get(f"/v1/grants/{grant}/token"))["access_token"]
            assert sandbox.rotating.is_live_access(token) or not grace
        assert [line["count"] for line in await heir.logged("leases.abandoned")] == [4]
    # A strict server is not asked again while a token lives.
    assert len(sandbox.rotating.token_requests) == asked + (8 if grace else 4)
    assert sandbox.rotating.reuse == 0


async def test_an_answer_that_came_while_we_were_frozen(
    sandbox: Sandbox, redis: Redis, shared_redis: RedisServer, tmp_path: Path
) -> None:
    """A broker that could not run while its time for a request passed reads what has arrived before it gives up."""
    providers = {"acme": provider_settings(sandbox)["acme"]}
    refresh = {"request_timeout": "1s", "lease": "1m", "import_spread": "0s"}
    async with broker_process(tmp_path / "one", shared_redis.url, providers, refresh=refresh) as broker:
        await broker.put("g1", sandbox.rotating.issue().refresh_token or "", "acme")
        await until(lambda: broker.has_token("g1"))
        before = await broker.get("/v1/grants/g1/token")
        sandbox.rotating.options.latency = 0.3
        for _ in range(3):  # which callback comes first at the thaw is the loop's affair
            asked = len(sandbox.rotating.token_requests)
            await make_due(redis, "acme", "g1")
            await until(lambda: len(sandbox.rotating.token_requests) > asked, 10, 0.005)
            os.kill(broker.popen.pid, signal.SIGSTOP)
            await asyncio.sleep(1.5)
            os.kill(broker.popen.pid, signal.SIGCONT)
            await until(lambda: broker.has_token("g1"))
            token = await broker.get("/v1/grants/g1/token")
            assert token["generation"] > before["generation"]
            assert sandbox.rotating.is_live_access(token["access_token"])
            before = token
    assert sandbox.rotating.reuse == 0


async def _taken_up(broker: Process, grant: str) -> bool:
    """Whether the attempt that nobody closed was seen, and what follows from that was done."""
    attempts = (await broker.get(f"/v1/grants/{grant}/attempts"))["attempts"]
    return "open" in [attempt["decided"] for attempt in attempts] and await broker.has_token(grant)


async def test_an_emptied_store_is_not_a_new_beginning(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis
) -> None:
    """With the schema key gone nothing is claimed, written or called unknown; memory serves; its return heals."""
    async with start_broker(refresh=QUICK) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        token = await broker.token("g1")
        before = await everything(redis)
        await redis.flushall()
        assert (await broker.token("g1"))["access_token"] == token["access_token"]
        requests: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", "/v1/grants/g2/token", {}),
            ("GET", "/v1/grants/g2", {}),
            ("PUT", "/v1/grants/g2", {"json": {"provider": "acme", "refresh_token": "r-0123456"}}),
        ]
        for method, path, options in requests:
            status, body, _ = await broker.ask(method, path, **options)
            assert (status, body["error"]) == (503, "not_our_store"), path
        status, body, _ = await broker.ask("GET", "/readyz")
        assert status == 503
        assert "emptied" in body["checks"]["redis"]["detail"]
        assert (await broker.ask("GET", "/healthz"))[0] == 200
        data_dir = broker.settings.data_dir
        async with start_broker(refresh=QUICK, data_dir=data_dir, wait=False) as restarted:
            await until(lambda: restarted.events("store.waiting"))
            assert "is empty" in restarted.events("store.waiting")[0]["error"]
            assert await redis.keys("*") == []
        await roll_back(redis, before)
        await until(lambda: _ready(broker), 15)
        await assert_sound(broker, sandbox, ("g1", "acme"))


async def _ready(broker: RunningBroker) -> bool:
    return (await broker.ask("GET", "/readyz"))[0] == 200


async def test_a_disk_that_does_not_answer(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered reaches callers and Redis all the same; what lives waits for it, what expired does not."""
    monkeypatch.setattr("broker.journal.journal.DISK_LIMIT", 0.3)
    disk = Disk(monkeypatch)
    async with start_broker(refresh=QUICK) as broker:
        for name in ("g1", "g2", "g3"):
            await broker.import_(name, "acme", sandbox.rotating.issue().refresh_token or "")
        tokens = {name: await broker.token(name) for name in ("g1", "g2", "g3")}
        disk.sticks()
        try:
            await make_due(redis, "acme", "g1")
            await next_generation(broker, "g1", tokens["g1"]["generation"])
            await assert_sound(broker, sandbox, ("g1", "acme"))
            journal = (await broker.get("/healthz"))["checks"]["journal"]
            assert "does not answer" in str(journal)
            await make_due(redis, "acme", "g2")
            await redis.hset("broker:{0}:grant:g3", "expires_at", 1)
            await make_due(redis, "acme", "g3")
            await next_generation(broker, "g3", tokens["g3"]["generation"])
            await assert_sound(broker, sandbox, ("g3", "acme"))
            assert (await state_of(broker, "g2"))["generation"] == tokens["g2"]["generation"]
        finally:
            disk.answers()
        await next_generation(broker, "g2", tokens["g2"]["generation"])
        await until(lambda: broker.events("journal.recovered"))
        await assert_sound(broker, sandbox, *((name, "acme") for name in tokens))
