"""A Redis that comes back: still loading, or empty. Neither is a new beginning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartBroker
from tests.redis_server import RedisServer
from tests.redis_topologies import servers
from tests.redis_topologies.servers import SLOWLY, Fleet, again, filled, in_step
from tests.regressions.conftest import REFRESH, Ground, MakeGround, provider_at
from tests.regressions.redis_servers import (
    ground_on,
    healthy,
    in_flight,
    not_ready_because,
    ready,
    refused_import,
    says,
)
from tests.scripted_server import AuthorizationServer
from tests.steps import next_generation
from tests.waiting import until


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Servers of the test's own."""
    with servers.fleet() as started:
        yield started


async def test_cold_start_while_loading(
    start_broker: StartBroker, fleet: Fleet, auth_server: AuthorizationServer, tmp_path: Path
) -> None:
    """A broker that starts while Redis loads waits for it: not ready, not ended, and nothing is taken for empty."""
    server = fleet.data()
    await until(server.answers, 15)
    table = {
        "data_dir": tmp_path / "same",
        "redis": {"url": server.url},
        "refresh": REFRESH,
        "providers": {"as": provider_at(auth_server)},
    }
    async with start_broker(**table) as broker:
        await broker.import_("g1", "as", auth_server.issue("g1"))
        store = broker.events("broker.started")[0]["store"]
        broker.secrets |= auth_server.secrets()
    await filled(server)
    again(fleet, server, *SLOWLY)
    asked = len(auth_server.requests)
    async with start_broker(**table, wait=False) as broker:
        await not_ready_because(broker, "is loading its data")
        assert (await broker.ask("GET", "/readyz"))[0] == 503
        assert len(auth_server.requests) == asked
        await ready(broker, 30)
        assert broker.events("broker.started")[0]["store"] == store
        token = await broker.token("g1")
        assert token["access_token"] == auth_server.access["g1"]
        await broker.ask("POST", "/v1/grants/g1/retry")
        await next_generation(broker, "g1", token["generation"], 20)
        broker.secrets |= auth_server.secrets()
    assert auth_server.reuse == 0


async def test_restart_under_a_running_broker(make_ground: MakeGround, fleet: Fleet) -> None:
    """Restarted under a running broker: memory serves while it loads; then the fence, then the refresh."""
    server = fleet.data()
    await until(server.answers, 15)
    async with ground_on(make_ground, server, "g1", "g2") as ground:
        await filled(server)
        token = await ground.broker.token("g1")
        asked = len(ground.auth_server.requests)
        again(fleet, server, *SLOWLY)
        await says(ground.broker, "redis", "is loading its data")
        assert (await ground.broker.token("g1"))["generation"] == token["generation"]
        assert "loading" in (await refused_import(ground))["error_description"]
        assert (await ground.broker.ask("GET", "/readyz"))[0] == 200
        assert len(ground.auth_server.requests) == asked
        await until(lambda: ground.broker.events("journal.replayed"), 30)
        await healthy(ground.broker)
        await ground.due("g1")
        await next_generation(ground.broker, "g1", token["generation"], 20)
        assert not any("no token-broker data" in str(line.get("error")) for line in ground.broker.events())


async def test_primary_that_comes_back_empty(
    start_broker: StartBroker, make_ground: MakeGround, fleet: Fleet, auth_server: AuthorizationServer
) -> None:
    """An empty server in its place is not ours: memory serves, nothing is begun in it; backup and journal heal."""
    server = fleet.start("--appendonly", "no", "--save", "", "--repl-diskless-sync-delay", "0")
    await until(server.answers, 15)
    async with ground_on(make_ground, server, "g1", "g2") as ground:
        replica = fleet.start("--appendonly", "no", "--save", "", "--replicaof", f"127.0.0.1 {server.port}")
        await until(replica.answers, 15)
        await in_step(replica)
        backup = {key: await ground.redis.dump(key) for key in await ground.redis.keys("*")}
        await ground.falls_due("g1")  # newer than the backup: the journal has it
        token = await ground.broker.token("g1")
        asked = len(auth_server.requests)

        server.kill()
        server.process = fleet.start("--appendonly", "no", "--save", "", port=server.port).process
        await until(server.answers, 15)
        await in_step(replica)
        assert await replica.ask("DBSIZE") == 0  # it has wiped itself
        await says(ground.broker, "redis", "holds no token-broker data")
        await says(ground.broker, "lane as", "holds no token-broker data")
        assert (await ground.broker.token("g1"))["generation"] == token["generation"]
        assert (await ground.ask("GET", "/v1/grants/g-unread/token"))[0] == 503  # and not 404
        body = {"provider": "as", "refresh_token": "rt-that-is-never-stored-0123"}
        status, answer, _ = await ground.ask("PUT", "/v1/grants/g9", json=body)
        assert (status, answer["error"]) == (503, "not_our_store")
        assert await server.ask("DBSIZE") == 0, "something was begun anew"
        assert len(auth_server.requests) == asked

        # A broker with its own memory of the store is not ready at the empty one.
        known = start_broker(
            data_dir=_copied(ground), redis={"url": server.url}, providers={"as": provider_at(auth_server)}, wait=False
        )
        async with known as other:
            await not_ready_because(other, "is empty, but this broker knows store")
        assert await server.ask("DBSIZE") == 0

        async with ground.redis.pipeline(transaction=True) as pipe:
            for key, dump in backup.items():
                pipe.execute_command("RESTORE", key, 0, dump)
            await pipe.execute()
        await healthy(ground.broker)
        await until(lambda: _generation(ground, "g1", token["generation"]), 20)


async def test_another_store_in_its_place(
    make_ground: MakeGround, fleet: Fleet, auth_server: AuthorizationServer
) -> None:
    """A store with grants of the same names is not ours: what arrives is not written there, nor revoked; it waits."""
    server = fleet.data()
    await until(server.answers, 15)
    endpoints = {
        "revocation_endpoint": f"{auth_server.url}/token",
        "authorization_endpoint": f"{auth_server.url}/authorize",
    }
    async with ground_on(make_ground, server, "g1", "g2", provider=endpoints) as ground:
        await _make_another(server)
        answer = await in_flight(ground)
        token = await ground.broker.token("g2")
        await server.ask("SWAPDB", 0, 1)
        held = await _all_of(ground)
        answer.set()
        await says(ground.broker, "lane as", "holds another store (another)")
        await until(lambda: ground.broker.events("commit.delayed"))
        assert (await ground.broker.token("g1"))["access_token"] == auth_server.access["g1"]
        assert (await ground.broker.token("g2"))["generation"] == token["generation"]
        asked = len(auth_server.requests)
        refresh_token = "rt-that-is-never-stored-0123"
        for method, path, body in (
            ("PUT", "/v1/grants/g9", {"provider": "as", "refresh_token": refresh_token}),
            ("POST", "/v1/grants/g9/login", {"provider": "as"}),
            ("POST", "/v1/grants/g2/retry", None),
            ("POST", "/v1/providers/as/retry", None),
            ("DELETE", "/v1/grants/g2", None),
        ):
            status, reply, _ = await ground.ask(method, path, json=body)
            assert (status, reply["error"]) == (503, "not_our_store"), path
        assert await _all_of(ground) == held, "something was written into another store"
        assert len(auth_server.requests) == asked, "something was asked or revoked"
        await server.ask("SWAPDB", 0, 1)
        await healthy(ground.broker)
        await until(lambda: ground.has_token("g1"))


async def _make_another(server: RedisServer) -> None:
    """Another store in database 1, with grants of the same names that are newer and due."""
    await server.ask(
        "EVAL",
        """
        for _, key in ipairs(redis.call('KEYS', '*')) do
          redis.call('COPY', key, key, 'DB', 1)
        end
        redis.call('SELECT', 1)
        redis.call('HSET', 'broker:{0}:meta', 'store', 'another')
        for _, key in ipairs(redis.call('KEYS', 'broker:{0}:grant:*')) do
          redis.call('HINCRBY', key, 'generation', 1000000)
          redis.call('HINCRBY', key, 'granted_at', 1)
        end
        """,
        0,
    )


async def _all_of(ground: Ground) -> dict[Any, Any]:
    return {key: await ground.redis.dump(key) for key in await ground.redis.keys("*")}


def _copied(ground: Ground) -> object:
    """Return a data directory that remembers the same store."""
    of = ground.broker.settings.data_dir
    copy = of.with_name("remembering")
    copy.mkdir(mode=0o700)
    (copy / "store.id").write_text((of / "store.id").read_text())
    return copy


async def _generation(ground: Ground, grant: str, least: int) -> bool:
    return int(await ground.redis.hget(f"broker:{{0}}:grant:{grant}", "generation") or 0) >= least
