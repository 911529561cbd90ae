"""What is wrong with a real broker sets off the alert that is meant for it, and no other."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from redis.asyncio import Redis

from broker.sandbox import Sandbox
from tests.conftest import RunningBroker, StartBroker
from tests.observability.queries import Sample, fires, samples
from tests.redis_server import RedisServer
from tests.steps import make_due, refused_often
from tests.waiting import until

_NEXT_REFRESH = "token_broker_grant_next_refresh_timestamp_seconds"


async def scraped(broker: RunningBroker) -> list[Sample]:
    """Return the metrics as they are."""
    return samples((await broker.get("/metrics"))["text"])


async def once(broker: RunningBroker, true: Callable[[Sample], bool]) -> list[Sample]:
    """Return the scrape after the first one with such a sample, in which no grant is due: that counts as late."""
    found: list[Sample] = []

    async def shown() -> bool:
        nonlocal found
        before, found = found, await scraped(broker)
        is_due = any(sample.name == _NEXT_REFRESH and sample.value <= time.time() for sample in found)
        return any(map(true, before)) and not is_due

    await until(shown, timeout=20, every=0.2)
    return found


async def test_nothing(broker: RunningBroker, sandbox: Sandbox, tmp_path: Path) -> None:
    """A broker whose grants live sets off nothing, nor does one without grants."""
    await fires(tmp_path, await scraped(broker))
    await broker.import_("g", "acme", sandbox.rotating.issue().refresh_token or "")
    await fires(tmp_path, await once(broker, lambda s: s.name == "token_broker_grant_last_success_timestamp_seconds"))


async def test_several_at_once(busy_broker: RunningBroker, tmp_path: Path) -> None:
    """A dead grant and one that ends soon are two alerts."""
    await fires(
        tmp_path, await scraped(busy_broker), "TokenBrokerReauthorizationRequired", "TokenBrokerReauthorizeSoon"
    )


async def test_no_redis_and_no_journal(start_broker: StartBroker, own_redis: RedisServer, tmp_path: Path) -> None:
    """Redis that is gone, beside a journal that is switched off."""
    async with start_broker(redis={"url": own_redis.url}, refresh={"journal": False}) as broker:
        await fires(tmp_path, await scraped(broker), "TokenBrokerDurabilityAtRisk")
        own_redis.kill()
        found = await once(broker, lambda s: (s.name, s.value) == ("token_broker_store_up", 0))
        await fires(tmp_path, found, "TokenBrokerDurabilityAtRisk", "TokenBrokerStoreDown")


async def test_refused(broker: RunningBroker, sandbox: Sandbox, redis: Redis, tmp_path: Path) -> None:
    """A grant that is rejected, and a provider that does not know us."""
    for name in ("g", "h"):
        await broker.import_(name, "acme", sandbox.rotating.issue().refresh_token or "")
        await broker.token(name)  # one that is still due would count as late
    sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_scope"})
    await refused_often(redis, "g")
    await make_due(redis, "acme", "g")
    found = await once(broker, lambda s: s.labels.get("reason") == "invalid_scope")
    await fires(tmp_path, found, "TokenBrokerGrantParked")
    sandbox.rotating.faults.order("invalid_client", None)
    await make_due(redis, "acme", "h")
    found = await once(broker, lambda s: s.labels.get("error") == "invalid_client")
    await fires(tmp_path, found, "TokenBrokerGrantParked", "TokenBrokerProviderSuspended")


async def test_no_token_yet(start_broker: StartBroker, tmp_path: Path) -> None:
    """A grant that was imported and whose provider cannot be reached."""
    away = {"kind": "oauth2", "client_id": "c", "client_secret": "s" * 20, "token_endpoint": "http://127.0.0.1:1/token"}
    async with start_broker(providers={"gone": away}) as broker:
        body = {"provider": "gone", "refresh_token": "a-refresh-token"}
        assert (await broker.ask("PUT", "/v1/grants/g", json=body))[0] == 201
        found = await once(broker, lambda s: s.name == _NEXT_REFRESH)
        await fires(tmp_path, found, "TokenBrokerGrantsUnserved", "TokenBrokerNoTokenYet")
