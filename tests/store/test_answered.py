"""When a provider answered last: written down once a minute, and found out from grants where it was not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.errors import StoreUnavailable
from broker.process.heartbeat import Heartbeat
from broker.providers import Endpoint, open_http
from broker.refresh.history import HistoryRecorder
from broker.settings import Provider
from tests.steps import authority_of, log_in

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from broker.store import Store
    from tests.conftest import RunningBroker, StartBroker

HASH = "broker:{0}:provider:"


async def answered(store: Store, *names: str) -> list[int | None]:
    """Return when each provider answered last, as the store knows it."""
    return [state.answered_at for state in await store.grants.providers(names)]


async def test_it_is_written_once_a_minute(store: Store, redis: Redis) -> None:
    """The recorder writes an answer down, and the next one a minute later; a provider without one has nothing."""
    async with open_http(1) as http:
        settings = Provider.model_validate({"kind": "oauth2", "client_id": "x", "token_endpoint": "https://as.test/t"})
        endpoints = {name: Endpoint.from_settings(name, settings, http, clock=store.clock) for name in ("p", "q")}
        history = HistoryRecorder(store, Heartbeat("history"), endpoints)
        await history.flush()
        assert await answered(store, "p", "q") == [None, None]
        for at, written in ((1_000_000, 1_000_000), (1_059_999, 1_000_000), (1_060_000, 1_060_000)):
            endpoints["p"].answered_at = at
            await history.flush()
            assert await answered(store, "p", "q") == [written, None]
    assert await redis.keys(f"{HASH}*") == [f"{HASH}p".encode()]


async def test_another_store_gets_nothing(store: Store, redis: Redis) -> None:
    """A server without this broker's data is not written to, and the fact is written once the data is back."""
    await redis.hset("broker:{0}:meta", "store", "another")
    with pytest.raises(StoreUnavailable):
        await store.history.note_answers({"p": 1})
    assert await redis.keys(f"{HASH}*") == []


async def test_data_of_older_brokers(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """Without the fact a provider counts as asked by a grant that has got a token, and not by an import alone."""
    await log_in(broker, "g1", "acme")
    at = int((await broker.get("/v1/grants/g1"))["granted_at"])
    await redis.hdel(f"{HASH}acme", "answered_at")
    sandbox.v3.faults.order("refuse", None)
    request = {"provider": "een", "refresh_token": authority_of(sandbox, "een").issue().refresh_token}
    assert (await broker.ask("PUT", "/v1/grants/g2", json=request))[0] == 201
    found = {p["provider"]: p["answered_at"] for p in (await broker.get("/v1/providers"))["providers"]}
    assert (found["een"], found["cameramanager"]) == (None, None)
    assert abs(found["acme"] - at) < 60


async def test_never_asked_is_unknown(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """A provider is "not asked yet" until it answers, be it with a refusal; the broker is no worse for it."""
    async with start_broker() as broker:
        report = await broker.get("/healthz")
        assert report["status"] == "ok"
        for name in ("acme", "een", "cameramanager"):
            check = report["checks"][f"provider {name}"]
            assert (check["status"], check["detail"]) == ("unknown", "not asked yet")
        await broker.import_("g1", "acme", str(authority_of(sandbox, "acme").issue().refresh_token))
        checks = (await broker.get("/healthz"))["checks"]
        assert (checks["provider acme"]["status"], checks["provider acme"]["detail"]) == ("ok", "answers")
        assert checks["provider een"]["status"] == "unknown"
