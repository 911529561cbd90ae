"""Subscribers that are dropped, and a server that takes no more clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningBroker, StartBroker
from tests.redis_server import RedisServer, client
from tests.redis_topologies import servers
from tests.redis_topologies.servers import Fleet
from tests.regressions.conftest import REFRESH, Ground, MakeGround, provider_at
from tests.regressions.process import Process, broker_process
from tests.regressions.redis_servers import ground_on, healthy, not_ready_because, own_attempts, ready, says
from tests.scripted_server import AuthorizationServer
from tests.waiting import meanwhile, until


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Servers of the test's own."""
    with servers.fleet() as started:
        yield started


async def follows(process: Process, grant: str, generation: int) -> bool:
    """Whether a GET through *process* shows this generation or a newer one."""
    status, token, _ = await process.ask("GET", f"/v1/grants/{grant}/token")
    return status == 200 and token["generation"] >= generation


async def test_slow_subscriber_is_dropped(
    make_ground: MakeGround,
    fleet: Fleet,
    auth_server: AuthorizationServer,
    other: AuthorizationServer,
    tmp_path: Path,
) -> None:
    """A follower that stood still while thousands were published hears that it was dropped, and reads again."""
    server = fleet.data("--client-output-buffer-limit", "pubsub 1mb 256kb 5")
    await until(server.answers, 15)
    providers = {"as": provider_at(auth_server), "other": provider_at(other)}
    async with (
        ground_on(make_ground, server, "g1") as ground,
        broker_process(tmp_path / "follower", server.url, providers) as follower,
    ):
        follower.secrets |= ground.secrets()
        before = await ground.broker.token("g1")
        await until(lambda: follows(follower, "g1", before["generation"]))
        poll = asyncio.create_task(
            follower.ask(
                "GET",
                "/v1/grants/g1/token",
                headers={"If-None-Match": f'"{before["generation"]}"', "Prefer": "wait=60"},
            )
        )
        await asyncio.sleep(0.3)
        os.kill(follower.popen.pid, signal.SIGSTOP)
        try:
            store = ground.broker.events("broker.started")[0]["store"]
            padded = {"event": "refreshed", "store": store, "generation": before["generation"], "pad": "x" * 4000}
            subscribers = await ground.redis.execute_command("CLIENT", "LIST", "TYPE", "pubsub")  # type: ignore[no-untyped-call]
            for _ in range(50):
                async with ground.redis.pipeline(transaction=False) as pipe:
                    for _ in range(100):
                        pipe.execute_command("PUBLISH", "broker:tokens:g1", json.dumps(padded))
                    await pipe.execute()

            async def dropped() -> bool:
                listed = await ground.redis.execute_command("CLIENT", "LIST", "TYPE", "pubsub")  # type: ignore[no-untyped-call]
                return len(listed) < len(subscribers)

            await until(dropped, 20)
            await ground.falls_due("g1")
            newest = await ground.broker.token("g1")
            assert newest["generation"] > before["generation"]
        finally:
            os.kill(follower.popen.pid, signal.SIGCONT)
        await until(lambda: follows(follower, "g1", newest["generation"]), 10)
        status, answered, _ = await asyncio.wait_for(poll, 10)
        assert (status, answered["generation"]) == (200, newest["generation"])

        async def gaps() -> float:
            return (await follower.metrics())["token_broker_subscription_gaps_total", ""]

        await until(gaps, 10)
        assert await gaps() == 1
        follower.secrets |= ground.secrets()


@contextlib.asynccontextmanager
async def strangers(server: RedisServer) -> AsyncIterator[asyncio.Event]:
    """Take every place that a client could have, and take it back when one is free, until told to let go."""
    held: list[asyncio.StreamWriter] = []
    let_go = asyncio.Event()

    async def crowd() -> None:
        while not let_go.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                writer.write(b"PING\r\n")
                taken = await asyncio.wait_for(reader.readline(), 5)
            except (OSError, TimeoutError):
                taken = b"-"
            if taken.startswith(b"+"):
                held.append(writer)
                await asyncio.sleep(0)
            else:
                writer.close()
                await asyncio.sleep(0.05)

    crowding = asyncio.create_task(crowd())
    try:
        yield let_go
    finally:
        let_go.set()
        crowding.cancel()
        await asyncio.gather(crowding, return_exceptions=True)
        for writer in held:
            writer.close()


async def full(server: RedisServer) -> None:
    """Wait until a stranger is refused."""

    async def refused() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(b"PING\r\n")
            return not (await reader.readline()).startswith(b"+")
        except OSError:
            return True
        finally:
            writer.close()

    await until(refused)


async def test_no_place_at_start(start_broker: StartBroker, fleet: Fleet, auth_server: AuthorizationServer) -> None:
    """A broker that finds no place waits for one: not ready, said in words, few attempts; and then it starts."""
    server = fleet.data("--maxclients", "10")
    await until(server.answers, 15)
    async with client(server.port) as tester:
        await tester.ping()
        async with strangers(server) as let_go:
            await full(server)
            async with start_broker(
                redis={"url": server.url}, providers={"as": provider_at(auth_server)}, refresh=REFRESH, wait=False
            ) as broker:
                await not_ready_because(broker, "maxclients")
                attempts = await own_attempts(3.0)
                assert attempts <= 3 * 5 + 5
                assert not broker.task.done()
                let_go.set()
                await tester.config_set("maxclients", 100)
                await ready(broker, 20)
                await broker.import_("g1", "as", auth_server.issue("g1"))
                broker.secrets |= auth_server.secrets()


async def test_places_taken_under_a_running_broker(make_ground: MakeGround, fleet: Fleet) -> None:
    """A running broker whose connections were taken serves from memory, tries a little, and recovers."""
    server = fleet.data("--maxclients", "20")
    await until(server.answers, 15)
    async with ground_on(make_ground, server, "g1", "g2") as ground, client(server.port) as tester:
        await tester.ping()  # its place is taken
        token = await ground.broker.token("g1")
        async with strangers(server) as let_go:
            await full(server)

            async def cut() -> None:
                for line in [line for line in await tester.client_list() if line["name"] == "token-broker"]:
                    await tester.client_kill_filter(_id=line["id"])

            async with meanwhile(cut, 0.5):  # again, where the broker was quicker than the strangers
                await says(ground.broker, "redis", "maxclients")
            reading = time.monotonic()
            attempts = asyncio.create_task(own_attempts(3.0))
            while not attempts.done():
                assert (await ground.broker.token("g1"))["generation"] == token["generation"]
                await asyncio.sleep(0.02)
            assert time.monotonic() - reading < 20
            assert await attempts <= 3 * 5 + 5
            assert (await ground.broker.ask("GET", "/readyz"))[0] == 200
            let_go.set()
            await tester.config_set("maxclients", 100)
            await healthy(ground.broker, 10)


async def test_subscription_that_is_cut_again_and_again(
    start_broker: StartBroker,
    make_ground: MakeGround,
    fleet: Fleet,
    auth_server: AuthorizationServer,
    other: AuthorizationServer,
) -> None:
    """Twenty cuts during hundreds of refreshes: the follower has what the store has, and a long poll is told."""
    server = fleet.data()
    await until(server.answers, 15)
    grants = [f"g{number}" for number in range(4)]
    dice = random.Random(25)
    async with (
        ground_on(make_ground, server, *grants) as ground,
        start_broker(redis={"url": server.url}, providers={"other": provider_at(other)}) as follower,
        client(server.port) as tester,
    ):
        ending = asyncio.Event()

        async def refreshing() -> None:
            while not ending.is_set():
                await ground.due(*grants)
                await asyncio.sleep(0.03)

        work = asyncio.create_task(refreshing())
        for grant in grants:
            await follower.token(grant)
        for _ in range(20):
            await asyncio.sleep(dice.uniform(0.05, 0.4))
            gone = time.monotonic() + 0.3
            while time.monotonic() < gone:
                await tester.client_kill_filter(_type="pubsub")
                await asyncio.sleep(0.01)
            grant = dice.choice(grants)
            held = (await follower.token(grant))["generation"]
            status, answer, _ = await follower.ask(
                "GET",
                f"/v1/grants/{grant}/token",
                headers={"If-None-Match": f'"{held}"', "Prefer": "wait=10"},
            )
            assert status == 200, "a long poll ended without the news"
            assert answer["generation"] > held
        ending.set()
        await work
        await until(lambda: _at_rest(ground, grants))
        for grant in grants:
            stored = int(await tester.hget(f"broker:{{0}}:grant:{grant}", "generation") or 0)
            await until(lambda: _serves(follower, grant, stored), 5)
        assert len(auth_server.requests) >= 200
        follower.secrets |= ground.secrets()


async def _at_rest(ground: Ground, grants: list[str]) -> bool:
    return all([await ground.has_token(grant) for grant in grants])


async def _serves(broker: RunningBroker, grant: str, generation: int) -> bool:
    return bool((await broker.token(grant))["generation"] == generation)
