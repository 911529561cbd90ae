"""That the fault suite's stores do what they say: what a failover lost is counted, and one by itself is not ours."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.chaos.stores import FailingOver
from tests.redis_topologies.servers import cluster, leads, sentinels
from tests.waiting import until


@pytest.mark.timeout(180)
@pytest.mark.parametrize("topology", [sentinels, cluster], ids=["sentinels", "cluster"])
async def test_a_primary_given_up_by_itself_is_no_failover_of_ours(topology: type) -> None:
    """Its disk stalls, and the other one leads: that is told, and the next failover loses what it should."""
    async with topology() as started:
        store = FailingOver(started)
        first = store._primary

        async def follows() -> bool:
            return not await leads(first.port)

        async def stall() -> None:
            os.kill(first.process.pid, signal.SIGSTOP)
            await asyncio.sleep(4)
            os.kill(first.process.pid, signal.SIGCONT)
            await until(follows, 30, 0.1)

        assert await store.fail_over(stall) is None
        assert store._primary is not first
        assert await leads(store._primary.port)

        async def commit() -> None:
            await store._primary.ask("HSET", "broker:{0}:grant:g1", "generation", 7)
            await store._primary.ask("HSET", "broker:{0}:grant:g2", "generation", 7)

        assert await store.fail_over(commit) == 2
        assert store._primary is first
        assert await store.unheard() == 0
