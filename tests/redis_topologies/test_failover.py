"""Failovers that lose acknowledged writes: the new primary is found, and told again what it never heard."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from broker.sandbox import Sandbox
from tests.conftest import RunningBroker, StartBroker
from tests.redis_server import RedisServer, client
from tests.redis_topologies.servers import Cluster, Sentinels, became_primary, cut_replication, generations
from tests.steps import assert_sound, make_due, next_generation
from tests.waiting import until

REFRESH = {"request_timeout": "1s", "lease": "8s", "min_interval": "0s", "report_budget": 3600, "import_spread": "0s"}
GRANTS = [f"g{number}" for number in range(12)]


@contextlib.asynccontextmanager
async def reading(brokers: Sequence[RunningBroker]) -> AsyncIterator[list[float]]:
    """While the body lasts every grant is read from every broker again and again; how long each read took."""
    took: list[float] = []

    async def read(broker: RunningBroker) -> None:
        while True:
            for grant in GRANTS:
                asked = time.monotonic()
                await broker.token(grant)  # 200, whatever happens
                took.append(time.monotonic() - asked)
            await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(read(broker)) for broker in brokers]
    try:
        yield took
    finally:
        for task in tasks:
            assert not task.done() or task.exception() is None, task.exception()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def survive(
    start_broker: StartBroker, sandbox: Sandbox, url: str, primary: RedisServer, replica: RedisServer
) -> list[RunningBroker]:
    """Two brokers through a failover from *primary* to *replica* that loses what the replica never heard of."""
    async with (
        start_broker(redis={"url": url}, refresh=REFRESH) as one,
        start_broker(redis={"url": url}, refresh=REFRESH) as two,
    ):
        two.admin_key = two.admin_key or one.admin_key
        for grant in GRANTS:
            await one.import_(grant, "acme", sandbox.rotating.issue().refresh_token or "")
        known = {grant: (await two.token(grant))["generation"] for grant in GRANTS}
        async with reading([one, two]) as took:
            await cut_replication(primary)
            async with client(primary.port) as redis:
                for grant in GRANTS:
                    await make_due(redis, "acme", grant)
            lost = {grant: (await next_generation(one, grant, known[grant]))["generation"] for grant in GRANTS}
            await assert_sound(one, sandbox, *((grant, "acme") for grant in GRANTS))  # acknowledged, every one
            assert await generations(replica) == known  # which has heard of none of it
            primary.kill()
            await became_primary(replica.port)
            async with client(replica.port) as redis:

                async def has_news(grant: str) -> bool:
                    held = await redis.hget(f"broker:{{0}}:grant:{grant}", "generation")
                    return int(held or 0) >= int(lost[grant])

                for grant in GRANTS:
                    await until(lambda: has_news(grant), 30)
                await assert_sound(one, sandbox, *((grant, "acme") for grant in GRANTS))
                for grant in GRANTS:
                    await make_due(redis, "acme", grant)
            for grant in GRANTS:
                newest = await next_generation(one, grant, lost[grant], 30)
                await until(lambda: _serves(two, grant, newest["generation"]), 10)
        await assert_sound(two, sandbox, *((grant, "acme") for grant in GRANTS))
        assert len(took) > 200
        assert max(took) < 2, "a read waited for Redis although a valid token was there"
        return [one, two]


async def _serves(broker: RunningBroker, grant: str, generation: int) -> bool:
    return bool((await broker.token(grant))["generation"] >= generation)


async def test_sentinels_promote_a_replica_that_lacks_writes(
    start_broker: StartBroker, sandbox: Sandbox, behind_sentinels: Sentinels
) -> None:
    """Behind Sentinels: no refresh token is redeemed twice, none is lost, and no read is refused."""
    here = behind_sentinels
    brokers = await survive(start_broker, sandbox, here.url, here.primary, here.replica)
    said = brokers[-1].events()  # the log of both
    assert [line["address"] for line in said if line["event"] == "store.located"][-1] == here.replica.address
    assert any(line.get("restored") for line in said if line["event"] == "journal.replayed")


async def test_cluster_promotes_a_replica_that_lacks_writes(
    start_broker: StartBroker, sandbox: Sandbox, in_cluster: Cluster
) -> None:
    """In a Cluster: likewise."""
    here = in_cluster
    brokers = await survive(start_broker, sandbox, here.url, here.owner, here.replica)
    said = brokers[-1].events()
    assert [line["address"] for line in said if line["event"] == "store.located"][-1] == here.replica.address
    assert any(line.get("restored") for line in said if line["event"] == "journal.replayed")
