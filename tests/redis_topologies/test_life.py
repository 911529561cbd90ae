"""A grant's whole life through each way of finding the primary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from broker.sandbox import Sandbox
from tests.conftest import RunningBroker, StartBroker
from tests.redis_server import client
from tests.redis_topologies.servers import Cluster, Fleet, Sentinels
from tests.redis_topologies.tls import certified, ending_tls
from tests.regressions.process import missing
from tests.steps import assert_sound, log_in, next_generation, subscribed
from tests.waiting import until

REFRESH = {"request_timeout": "1s", "lease": "8s", "min_interval": "0s", "report_budget": 3600}


async def taken_up(broker: RunningBroker) -> None:
    """Retry g1 as an operator does, once the attempt before is recorded."""

    async def at_rest() -> bool:
        return bool((await broker.get("/v1/grants/g1"))["state"] != "leased")

    await until(at_rest)
    assert (await broker.ask("POST", "/v1/grants/g1/retry"))[0] == 202


async def whole_life(broker: RunningBroker, sandbox: Sandbox, port: int) -> None:
    """Log in, be heard on the server at *port*, refresh, list, park, take up again, log out."""
    async with client(port) as redis, subscribed(redis, "g1") as heard:
        assert "Logged in" in await log_in(broker, "g1", "acme")
        token = await broker.token("g1")
        status, newer, _ = await broker.ask(
            "POST", "/v1/grants/g1/refresh", headers={"If-Match": f'"{token["generation"]}"'}
        )
        assert status == 200, newer
        assert newer["generation"] > token["generation"]
        await assert_sound(broker, sandbox, ("g1", "acme"))

        # A long poll hears of it through the subscription; then a refusal parks, and a person takes it up again.
        await taken_up(broker)
        token = await next_generation(broker, "g1", newer["generation"])
        sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant"})
        await taken_up(broker)

        async def parked() -> bool:
            return bool((await broker.get("/v1/grants/g1"))["state"] == "parked")

        await until(parked)
        assert [row["grant_id"] for row in (await broker.get("/v1/grants?state=parked"))["grants"]] == ["g1"]
        assert (await broker.token("g1"))["generation"] == token["generation"]
        await taken_up(broker)
        await next_generation(broker, "g1", token["generation"])
        await assert_sound(broker, sandbox, ("g1", "acme"))
        status, gone, _ = await broker.ask("DELETE", "/v1/grants/g1")
        assert (status, gone["revoked"], gone["forgotten"]) == (200, True, True)
        await until(lambda: heard and heard[-1]["event"] == "revoked")
    events = [message["event"] for message in heard]
    assert events[:3] == ["reauthorized", "refreshed", "refreshed"]
    assert "reauthorization_required" in events
    assert (await broker.get("/healthz"))["status"] == "ok"


async def lives(start_broker: StartBroker, sandbox: Sandbox, port: int, url: str, **redis: Any) -> RunningBroker:
    """Take a grant through its whole life at *url*; return the broker that served it, stopped."""
    async with start_broker(redis={"url": url, **redis}, refresh=REFRESH) as broker:
        await whole_life(broker, sandbox, port)
        return broker


async def test_behind_sentinels(start_broker: StartBroker, sandbox: Sandbox, behind_sentinels: Sentinels) -> None:
    """The primary that the Sentinels name, with its replica confirming every commit."""
    broker = await lives(start_broker, sandbox, behind_sentinels.primary.port, behind_sentinels.url, replicas=1)
    assert broker.events("commit.unproved") == []


async def test_in_a_cluster(start_broker: StartBroker, sandbox: Sandbox, in_cluster: Cluster) -> None:
    """The node that owns our slot, found through two that do not; what is published is heard on every node."""
    broker = await lives(start_broker, sandbox, in_cluster.others[0].port, in_cluster.url, replicas=1)
    assert broker.events("commit.unproved") == []
    located = broker.events("store.located")
    assert {line["address"] for line in located} == {in_cluster.owner.address}


async def test_through_tls(start_broker: StartBroker, sandbox: Sandbox, fleet: Fleet, tmp_path: Path) -> None:
    """`rediss://` with an authority of its own."""
    server = fleet.data()
    await until(server.answers, 15)
    trusted, (context,) = certified(tmp_path, ["localhost"])
    async with ending_tls(context, server.port) as port:
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={trusted}"
        await lives(start_broker, sandbox, server.port, url)


async def test_on_a_socket_as_a_user(start_broker: StartBroker, sandbox: Sandbox, fleet: Fleet) -> None:
    """`unix://`, with a user, a password, and a database of its own."""
    socket, password = fleet.folder / "s", "a-password-of-redis"
    server = fleet.data("--unixsocket", str(socket))
    await until(server.answers, 15)
    await server.ask("ACL", "SETUSER", "tokens", "on", f">{password}", "~*", "&*", "+@all")
    broker = await lives(start_broker, sandbox, server.port, f"unix://tokens:{password}@{socket}?db=3")
    assert password not in broker.log.getvalue()


async def test_sentinels_with_a_password(
    start_broker: StartBroker, sandbox: Sandbox, behind_sentinels: Sentinels
) -> None:
    """User and password are the primary's; Sentinels that want none are asked without."""
    password = "a-password-of-redis"
    for server in (behind_sentinels.primary, behind_sentinels.replica):
        await server.ask("ACL", "SETUSER", "tokens", "on", f">{password}", "~*", "&*", "+@all")
    url = behind_sentinels.url.replace("://", f"://tokens:{password}@") + "/2"
    broker = await lives(start_broker, sandbox, behind_sentinels.primary.port, url)
    assert password not in broker.log.getvalue()
    assert (await behind_sentinels.primary.ask("INFO", "keyspace"))["db2"]["keys"] > 0


async def test_server_that_cannot_prove(start_broker: StartBroker, sandbox: Sandbox, fleet: Fleet) -> None:
    """Redis 7.0 has no WAITAOF: everything works, one warning says what cannot be proved, and so does /healthz."""
    binary = os.environ.get("BROKER_TEST_REDIS_SERVER") or "/usr/bin/redis-server"
    if not Path(binary).exists():
        missing("redis-server 7.0 (Debian: apt-get install redis-server, or BROKER_TEST_REDIS_SERVER)")
    server = fleet.data(binary=binary)
    await until(server.answers, 15)
    broker = await lives(start_broker, sandbox, server.port, server.url)
    assert (await server.ask("INFO", "server"))["redis_version"].startswith("7.0")
    assert len(broker.events("commit.unproved")) == 1
    assert "WAITAOF" in broker.events("commit.unproved")[0]["why"]
