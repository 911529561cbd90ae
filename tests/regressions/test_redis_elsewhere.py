"""A Redis that is not where, or not what, its URL says: replicas, demoted primaries, certificates for other names."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartBroker
from tests.ports import free_port
from tests.redis_topologies import servers
from tests.redis_topologies.servers import SERVICE, Fleet, became_primary
from tests.redis_topologies.tls import certified, ending_tls
from tests.regressions.conftest import REFRESH, MakeGround, provider_at
from tests.regressions.redis_servers import ground_on, healthy, not_ready_because, refused_import, says, soon
from tests.scripted_server import AuthorizationServer
from tests.steps import next_generation
from tests.waiting import until


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Servers of the test's own."""
    with servers.fleet() as started:
        yield started


async def test_url_of_a_replica(
    start_broker: StartBroker, make_ground: MakeGround, fleet: Fleet, auth_server: AuthorizationServer
) -> None:
    """A broker at a replica is not ready, says so, and asks no provider; when it is promoted it starts."""
    primary = fleet.data("--repl-diskless-sync-delay", "0")
    await until(primary.answers, 15)
    replica = await fleet.replica_of(primary)
    async with ground_on(make_ground, primary, "g1"):
        asked = len(auth_server.requests)
        async with start_broker(
            redis={"url": replica.url}, providers={"as": provider_at(auth_server)}, wait=False
        ) as misled:
            await not_ready_because(misled, "is a read-only replica")
            await asyncio.sleep(2)
            assert (await misled.ask("GET", "/readyz"))[0] == 503
            assert len(misled.events("store.waiting")) == 1
            assert "read-only replica" in misled.events("store.waiting")[0]["error"]
        assert len(auth_server.requests) == asked


async def test_primary_that_is_demoted(make_ground: MakeGround, fleet: Fleet) -> None:
    """Demoted while running: nothing is asked, memory serves, the word is there; promoted again, it goes on."""
    server = fleet.data()
    await until(server.answers, 15)
    async with ground_on(make_ground, server, "g1", "g2") as ground:
        token = await ground.broker.token("g1")
        asked = len(ground.auth_server.requests)
        await soon(ground, "g1", "g2", seconds=2)
        await server.ask("REPLICAOF", "127.0.0.1", free_port())
        await says(ground.broker, "redis", "is a read-only replica")
        await says(ground.broker, "lane as", "is a read-only replica")
        before = (await server.ask("INFO", "stats"))["total_connections_received"]
        await asyncio.sleep(3)
        made = (await server.ask("INFO", "stats"))["total_connections_received"] - before
        assert made <= 3 * 5 + 5, "more than five connections a second"
        assert (await ground.broker.token("g1"))["generation"] == token["generation"]
        await refused_import(ground)
        assert len(ground.auth_server.requests) == asked
        await server.ask("REPLICAOF", "NO", "ONE")
        await healthy(ground.broker)
        assert ground.broker.events("store.found")
        await next_generation(ground.broker, "g1", token["generation"])


async def test_certificate_for_a_name_that_is_not_announced(
    start_broker: StartBroker, auth_server: AuthorizationServer, tmp_path: Path
) -> None:
    """TLS behind Sentinels that announce an address: refused in words that name both, until the server is named."""
    trusted, (of_sentinels, of_redis) = certified(tmp_path, ["127.0.0.1", "redis.test"], ["redis.test"])
    async with servers.sentinels() as behind, contextlib.AsyncExitStack() as stack:
        secure = {
            server.port: await stack.enter_async_context(ending_tls(of_redis, server.port))
            for server in (behind.primary, behind.replica)
        }
        asked = [
            await stack.enter_async_context(ending_tls(of_sentinels, sentinel.port, instead=secure))
            for sentinel in behind.sentinels
        ]
        hosts = ",".join(f"127.0.0.1:{port}" for port in asked)
        url = f"rediss+sentinel://{hosts}/{SERVICE}?ssl_ca_certs={trusted}"
        providers = {"as": provider_at(auth_server)}
        async with start_broker(redis={"url": url}, providers=providers, wait=False) as refused:
            await not_ready_because(refused, "certificate is for redis.test")
            words = refused.events("store.waiting")[0]["error"]
            for word in ("127.0.0.1", "redis.test", "ssl_server_name=redis.test", "announce-hostnames"):
                assert word in words, words
        named = {"url": f"{url}&ssl_server_name=redis.test"}
        async with start_broker(redis=named, providers=providers, refresh=REFRESH) as broker:
            await broker.import_("g1", "as", auth_server.issue("g1"))
            token = await broker.token("g1")
            await asyncio.sleep(1)  # the replica has heard of it
            behind.primary.kill()
            await became_primary(behind.replica.port)
            await healthy(broker, 30)
            await broker.ask("POST", "/v1/grants/g1/retry")
            await next_generation(broker, "g1", token["generation"], 20)
            broker.secrets |= auth_server.secrets()
    assert auth_server.reuse == 0
