"""A Redis that reads but refuses writes, or answers nobody: nothing is asked of a provider that could not be kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis import exceptions
from redis.asyncio import Redis

from tests.conftest import StartBroker
from tests.redis_server import RedisServer, client
from tests.redis_topologies import servers
from tests.redis_topologies.servers import Fleet, in_step
from tests.regressions.conftest import REFRESH, Ground, MakeGround, provider_at
from tests.regressions.redis_servers import (
    check,
    ground_on,
    healthy,
    in_flight,
    not_ready_because,
    ready,
    refused_import,
    says,
    soon,
)
from tests.scripted_server import AuthorizationServer
from tests.steps import next_generation
from tests.waiting import until


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Servers of the test's own."""
    with servers.fleet() as started:
        yield started


@contextlib.asynccontextmanager
async def three_grants(
    make_ground: MakeGround, auth_server: AuthorizationServer, server: RedisServer, **redis: Any
) -> AsyncIterator[Ground]:
    """Yield the ground on *server* with g1, g2 and g3, and a provider that one could log in at."""
    await until(server.answers, 15)
    provider = {"authorization_endpoint": f"{auth_server.url}/authorize"}
    async with ground_on(make_ground, server, "g1", "g2", "g3", redis=redis, provider=provider) as ground:
        yield ground


async def refuses(ground: Ground, word: str) -> bool:
    """Whether the server refuses writes by now, with *word*."""
    try:
        await ground.redis.set("broker:{0}:flow:probe", "1", ex=1)
    except exceptions.RedisError as error:
        return word in str(error) or word in str(getattr(error, "status_code", ""))
    return False


async def kept_out(ground: Ground, answer: asyncio.Event, word: str) -> None:
    """Write are refused: what is under way is served and journaled, nothing else is asked or taken in."""
    asked = len(ground.auth_server.requests)
    answer.set()
    await says(ground.broker, "lane as", word)
    assert word in (await refused_import(ground))["error_description"]
    status, login, _ = await ground.ask("POST", "/v1/grants/g9/login", json={"provider": "as"})
    assert (status, login["error"]) == (503, "store_unavailable")

    async def serves_the_new() -> bool:
        return bool((await ground.broker.token("g1"))["access_token"] == ground.auth_server.access["g1"])

    await until(serves_the_new)
    await until(lambda: ground.broker.events("commit.delayed"))
    due_at = max([score async for score in _scores(ground, "g2", "g3")])
    await until(lambda: time.time() * 1000 > due_at + 1500)  # a claim or two after they fell due
    assert len(ground.auth_server.requests) == asked, "something was asked although it could not be claimed"
    assert (await ground.broker.ask("GET", "/readyz"))[0] == 200
    assert any(word in line["error"] for line in ground.broker.events("store.lost"))


async def _scores(ground: Ground, *grants: str) -> AsyncIterator[float]:
    for grant in grants:
        score = await ground.redis.zscore("broker:{0}:due:as", grant)
        assert score is not None
        yield score


async def back(ground: Ground) -> None:
    """Check that, once writes are taken, the answer lands and what was due is refreshed, without a restart."""
    await healthy(ground.broker)
    await until(lambda: all(len(ground.auth_server.requests_of(grant)) == 2 for grant in ("g1", "g2", "g3")), 20)
    for grant in ("g1", "g2", "g3"):
        await until(lambda: ground.has_token(grant))


async def test_disk_full_under_redis(make_ground: MakeGround, auth_server: AuthorizationServer, fleet: Fleet) -> None:
    """MISCONF on every write: no token request without a claim; the answer under way lands when the disk is back."""
    server = fleet.data()
    async with three_grants(make_ground, auth_server, server) as ground:
        answer = await in_flight(ground)
        await soon(ground, "g2", "g3")
        obstacle = server.directory / "dump.rdb"
        (obstacle / "x").mkdir(parents=True)  # what is saved cannot be put there
        await server.ask("CONFIG", "SET", "save", "3600 1000000")
        await server.ask("BGSAVE")
        await until(lambda: refuses(ground, "MISCONF"))
        await kept_out(ground, answer, "MISCONF")
        (obstacle / "x").rmdir()
        obstacle.rmdir()
        await server.ask("BGSAVE")
        await back(ground)


async def test_memory_full(make_ground: MakeGround, auth_server: AuthorizationServer, fleet: Fleet) -> None:
    """OOM: a commit passes, even one whose script the server has forgotten; claims, imports and logins are refused."""
    server = fleet.data()
    async with three_grants(make_ground, auth_server, server) as ground:
        answer = await in_flight(ground)
        await soon(ground, "g2", "g3")
        await server.ask("CONFIG", "SET", "maxmemory", "1mb")
        await server.ask("SCRIPT", "FLUSH")
        await until(lambda: refuses(ground, "OOM"))
        asked = len(ground.auth_server.requests)
        answer.set()
        await until(lambda: ground.has_token("g1"))  # it landed although memory is full
        await says(ground.broker, "lane as", "OOM")
        assert "OOM" in (await refused_import(ground))["error_description"]
        status, login, _ = await ground.ask("POST", "/v1/grants/g9/login", json={"provider": "as"})
        assert (status, login["error"]) == (503, "store_unavailable")
        due_at = max([score async for score in _scores(ground, "g2", "g3")])
        await until(lambda: time.time() * 1000 > due_at + 1500)
        assert len(ground.auth_server.requests) == asked
        await server.ask("CONFIG", "SET", "maxmemory", "0")
        await back(ground)


async def test_too_few_replicas_to_write(
    make_ground: MakeGround, auth_server: AuthorizationServer, fleet: Fleet
) -> None:
    """NOREPLICAS: no claims, the answer under way is served and journaled, and lands when the replica is back."""
    server = fleet.data("--min-replicas-to-write", "1", "--repl-diskless-sync-delay", "0")
    await until(server.answers, 15)
    replica = await fleet.replica_of(server)
    async with three_grants(make_ground, auth_server, server) as ground:
        answer = await in_flight(ground)
        await soon(ground, "g2", "g3")
        replica.kill()
        await until(lambda: refuses(ground, "NOREPLICAS"))
        await kept_out(ground, answer, "replicas")
        await fleet.replica_of(server)
        await back(ground)


async def test_replica_that_does_not_confirm(
    make_ground: MakeGround, auth_server: AuthorizationServer, fleet: Fleet
) -> None:
    """With redis.replicas = 1 and a replica that stands still a commit counts, and is called unproved."""
    server = fleet.data("--repl-diskless-sync-delay", "0")
    await until(server.answers, 15)
    replica = await fleet.replica_of(server)
    async with three_grants(make_ground, auth_server, server, replicas=1) as ground:
        assert "cannot prove" not in await check(ground.broker, "redis")
        os.kill(replica.process.pid, signal.SIGSTOP)
        try:
            await ground.falls_due("g1", 20)
            await says(ground.broker, "redis", "replicas confirmed")
            await ground.falls_due("g2", 20)
            assert len(ground.broker.events("commit.unproved")) == 1  # warned once
            assert (await ground.broker.get("/healthz"))["checks"]["redis"]["status"] == "degraded"
        finally:
            os.kill(replica.process.pid, signal.SIGCONT)
        await in_step(replica)
        await ground.falls_due("g3", 20)
        await healthy(ground.broker)


async def server_side(redis: Redis, text: str) -> object:
    """Run a script; gives the error that it ends with."""
    try:
        return await redis.execute_command("EVAL", text, 0)  # type: ignore[no-untyped-call]
    except exceptions.RedisError as error:
        return error


async def test_neighbour_with_an_endless_script(
    make_ground: MakeGround, auth_server: AuthorizationServer, fleet: Fleet
) -> None:
    """BUSY to everybody is a Redis that is away: memory serves, nothing is asked, and we never kill the script."""
    server = fleet.data("--busy-reply-threshold", "100")
    async with three_grants(make_ground, auth_server, server) as ground, client(server.port) as stranger:
        await soon(ground, "g2", "g3", seconds=1.0)
        asked = len(ground.auth_server.requests)
        endless = asyncio.create_task(server_side(stranger, "while true do end"))
        began = time.monotonic()
        await says(ground.broker, "redis", "BUSY")
        while time.monotonic() < began + 5:
            await ground.broker.token("g1")
            assert (await ground.broker.ask("GET", "/healthz"))[0] == 200
            await asyncio.sleep(0.05)
        assert (await refused_import(ground))["error"] == "store_unavailable"
        assert len(ground.auth_server.requests) == asked
        assert not endless.done(), "somebody ended the script"
        await ground.redis.script_kill()
        freed = time.monotonic()
        await until(
            lambda: len(ground.auth_server.requests_of("g2")) == 2 and len(ground.auth_server.requests_of("g3")) == 2,
            15,
        )
        assert time.monotonic() - freed < 5
        assert isinstance(await endless, exceptions.RedisError)
        assert (await server.ask("INFO", "commandstats"))["cmdstat_script|kill"]["calls"] == 1
        await healthy(ground.broker)


async def managed_server(fleet: Fleet, *rules: str) -> RedisServer:
    """Start a Redis with a user `managed` that may do everything but what *rules* take away."""
    server = fleet.data()
    await until(server.answers, 15)
    await server.ask("ACL", "SETUSER", "managed", "on", "nopass", "~*", "&*", "+@all", *rules)
    return server


@pytest.mark.parametrize("forbidden", ["config", "waitaof"])
async def test_forbidden_without_harm(
    make_ground: MakeGround, auth_server: AuthorizationServer, fleet: Fleet, forbidden: str
) -> None:
    """Without CONFIG nothing is missing; without WAITAOF commits count, and one warning says what is not proved."""
    server = await managed_server(fleet, f"-{forbidden}")
    async with three_grants(make_ground, auth_server, server, url=f"redis://managed:any@{server.address}/0") as ground:
        for _ in range(3):
            await ground.falls_due("g1")
        warned = ground.broker.events("commit.unproved")
        assert len(warned) == (1 if forbidden == "waitaof" else 0)
        assert all("waitaof" in line["why"] for line in warned)
        assert (await ground.broker.get("/healthz"))["status"] == "ok"


async def test_hidden_run(make_ground: MakeGround, auth_server: AuthorizationServer, fleet: Fleet) -> None:
    """Without INFO no failover could be noticed: nothing is claimed, and the word says what to allow."""
    server = await managed_server(fleet)
    async with three_grants(make_ground, auth_server, server, url=f"redis://managed:any@{server.address}/0") as ground:
        before = await ground.broker.token("g1")
        await server.ask("ACL", "SETUSER", "managed", "-info")
        await says(ground.broker, "lane as", "+info")
        asked = len(ground.auth_server.requests)
        await ground.due("g1", "g2")
        await asyncio.sleep(2.5)
        assert len(ground.auth_server.requests) == asked
        assert (await ground.broker.token("g1"))["generation"] == before["generation"]
        await server.ask("ACL", "SETUSER", "managed", "+info")
        await next_generation(ground.broker, "g1", before["generation"])
        await healthy(ground.broker)


@pytest.mark.parametrize("forbidden", ["time", "info"])
async def test_forbidden_from_the_start(
    start_broker: StartBroker, auth_server: AuthorizationServer, fleet: Fleet, forbidden: str
) -> None:
    """What a broker cannot do without is said by its name, asks no provider meanwhile, and heals without a restart."""
    server = await managed_server(fleet, f"-{forbidden}")
    async with start_broker(
        redis={"url": f"redis://managed:any@{server.address}/0"},
        providers={"as": provider_at(auth_server)},
        refresh=REFRESH,
        wait=False,
    ) as broker:
        if forbidden == "time":
            await not_ready_because(broker, "'time' command")
        else:
            await ready(broker)
            await says(broker, "lane as", "+info")
        await server.ask("ACL", "SETUSER", "managed", f"+{forbidden}")
        await ready(broker)
        await healthy(broker)
        assert auth_server.requests == []
        await broker.import_("g1", "as", auth_server.issue("g1"))
        broker.secrets |= auth_server.secrets()
