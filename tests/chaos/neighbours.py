"""Two providers side by side: one hangs, and the other's grants are refreshed in time all the same."""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from broker.sandbox import Authority, Sandbox
from tests.conftest import provider_settings
from tests.redis_server import start_redis
from tests.regressions.process import Process, broker_process
from tests.waiting import until

GRANTS = 64
"""At each of the two."""
_LATENCY = 0.05


@dataclass(frozen=True, slots=True)
class Lateness:
    """How long after their time (s) the healthy provider's grants had been refreshed, and what hung meanwhile."""

    median: float
    most: float
    hung: int


async def neighbours(grants: int = GRANTS) -> Lateness:
    """All of both fall due in the same moment, while one provider has stopped answering."""
    folder = Path(tempfile.mkdtemp(prefix="tb-faults-"))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(partial(shutil.rmtree, folder))
        sandbox = await stack.enter_async_context(Sandbox(access_lifetime=3600))
        (folder / "store").mkdir()
        server = start_redis(folder / "store")
        stack.callback(server.kill)
        providers = provider_settings(sandbox)
        refresh = {"request_timeout": "5s", "lease": "12s", "import_spread": "0s"}
        broker = await stack.enter_async_context(
            broker_process(
                folder / "broker", server.url, {name: providers[name] for name in ("acme", "een")}, refresh=refresh
            )
        )
        redis = await stack.enter_async_context(Redis.from_url(server.url))
        sandbox.rotating.options.latency = sandbox.v3.options.latency = _LATENCY
        names = {provider: [f"{provider}-{number}" for number in range(grants)] for provider in ("acme", "een")}
        await _import(broker, names["acme"], "acme", sandbox.rotating)
        await _import(broker, names["een"], "een", sandbox.v3)
        sandbox.v3.faults.order("hang", None)
        asked = len(sandbox.v3.token_requests)
        at = (time.time() + 3) * 1000  # an idle lane looks every two seconds
        for provider, ids in names.items():
            await redis.zadd(f"broker:{{0}}:due:{provider}", dict.fromkeys(ids, at), xx=True)

        async def refreshed() -> list[float]:
            keys = [f"broker:{{0}}:grant:{name}" for name in names["acme"]]
            generations = [int(await redis.hget(key, "generation") or 0) for key in keys]
            return [] if min(generations) < at else [(generation - at) / 1000 for generation in generations]

        late = await until(refreshed, 20)
        hung = len(sandbox.v3.token_requests) - asked
        sandbox.v3.faults.clear()
        return Lateness(statistics.median(late), max(late), hung)


async def _import(broker: Process, names: list[str], provider: str, authority: Authority) -> None:
    lines = [
        json.dumps({"grant_id": name, "provider": provider, "refresh_token": authority.issue().refresh_token})
        for name in names
    ]
    headers = {"X-Broker-Key": broker.admin_key}
    async with broker.session.post(broker.url + "/v1/import", data="\n".join(lines), headers=headers) as answer:
        assert (await answer.text()).count('"created"') == len(names)

    async def taken() -> bool:
        found: dict[str, Any] = (await broker.ask("GET", f"/v1/grants?limit=1000&provider={provider}"))[1]
        rows = found["grants"]
        return len(rows) == len(names) and all(row["state"] == "due" and row["expires_at"] for row in rows)

    await until(taken, 20, 0.1)
