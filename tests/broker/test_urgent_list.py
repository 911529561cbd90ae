"""`GET /v1/grants?order=urgent` and the metric of unserved grants, of a running broker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from broker.secret import key_digest
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker

ALL = "broker:{0}:"
FEW = {"X-Broker-Key": "few-key-0123456789-0123456789-0123456789"}
ALL_OF_THEM = {"X-Broker-Key": "all-key-0123456789-0123456789-0123456789"}
CALLERS = {
    "few": {"key_sha256": key_digest(FEW["X-Broker-Key"]), "admin": ["mine-*"]},
    "all": {"key_sha256": key_digest(ALL_OF_THEM["X-Broker-Key"]), "admin": ["*"]},
}


async def imported(broker: RunningBroker, sandbox: Sandbox, *names: str) -> None:
    """Grants with a first token."""
    for name in names:
        await broker.import_(name, "acme", sandbox.rotating.issue().refresh_token or "")


async def end_token(redis: Redis, grant: str, at: float) -> None:
    """Have a token end then (epoch s), while its grant waits for a due time far away."""
    await redis.hset(f"{ALL}grant:{grant}", "expires_at", int(at * 1000))
    await redis.zadd(f"{ALL}ends:acme", {grant: int(at * 1000)})
    await redis.zadd(f"{ALL}due:acme", {grant: (time.time() + 3600) * 1000})


async def listed(broker: RunningBroker, query: str = "", **options: Any) -> list[dict[str, Any]]:
    """Return the rows of a whole urgent list, page by page."""
    rows: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        cursor = f"&cursor={page['next']}" if page["next"] else ""
        page = await broker.get(f"/v1/grants?order=urgent&limit=1{query}{cursor}", **options)
        assert page["complete"] is True
        rows += page["grants"]
    return rows


async def unserved(broker: RunningBroker) -> dict[str, float]:
    """Return the metric of a scrape, by provider."""
    families = text_string_to_metric_families((await broker.get("/metrics"))["text"])
    [family] = [family for family in families if family.name == "token_broker_grants_unserved"]
    return {sample.labels["provider"]: sample.value for sample in family.samples}


async def test_over_all_pages(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """The unserved come first, with since when; search, state and provider hold; the metric counts them."""
    await imported(broker, sandbox, "b-well", "a-well", "c-gone")
    gone, now = int(time.time()) - 90, time.time()
    await end_token(redis, "c-gone", gone)
    await end_token(redis, "b-well", now + 500)
    await end_token(redis, "a-well", now + 900)
    rows = await listed(broker)
    assert [(row["grant_id"], row["served"], row["unserved_since"]) for row in rows] == [
        ("c-gone", False, gone),
        ("b-well", True, None),
        ("a-well", True, None),
    ]
    assert [row["grant_id"] for row in await listed(broker, "&search=WELL")] == ["b-well", "a-well"]
    assert await listed(broker, "&state=parked") == []
    assert await listed(broker, "&provider=een") == []
    plain = (await broker.get("/v1/grants"))["grants"]
    assert not {"served", "unserved_since"} & set(plain[0])
    assert {"acme": 1.0, "een": 0.0}.items() <= (await unserved(broker)).items()


async def test_until_the_index_is_complete(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """After an upgrade nothing is counted, and a list says that it may lack some, until all grants were walked."""
    await imported(broker, sandbox, "a")
    await redis.delete(f"{ALL}ends:acme")
    await redis.zadd(f"{ALL}subjects:index", {"index": (time.time() + 3600) * 1000})  # nobody walks
    await redis.hdel(f"{ALL}meta", "indexed")
    page = await broker.get("/v1/grants?order=urgent")
    assert (page["grants"], page["complete"]) == ([], False)
    assert await unserved(broker) == {}
    await redis.zadd(f"{ALL}subjects:index", {"index": 0})
    await until(lambda: "index.built" in broker.log.getvalue())
    assert [row["grant_id"] for row in await listed(broker)] == ["a"]
    assert (await unserved(broker))["acme"] == 0


async def test_what_is_refused(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """Another order, a cursor of the other list or of another caller: each says what is wrong."""
    async with start_broker(callers=CALLERS) as broker:
        for grant in ("mine-1", "mine-2", "other"):
            body = {"provider": "acme", "refresh_token": sandbox.rotating.issue().refresh_token}
            assert (await broker.ask("PUT", f"/v1/grants/{grant}", json=body, headers=ALL_OF_THEM))[0] == 201
        assert {row["grant_id"] for row in await listed(broker, headers=FEW)} == {"mine-1", "mine-2"}
        status, body, _ = await broker.ask("GET", "/v1/grants?order=due", headers=FEW)
        assert (status, body["error_description"]) == (400, "order is unknown: send order=urgent, or leave it out")
        urgent = (await broker.get("/v1/grants?order=urgent&limit=1", headers=ALL_OF_THEM))["next"]
        plain = (await broker.get("/v1/grants?limit=1", headers=ALL_OF_THEM))["next"]
        for query, headers in (
            (f"cursor={urgent}", ALL_OF_THEM),
            (f"order=urgent&cursor={plain}", ALL_OF_THEM),
            (f"order=urgent&cursor={urgent}", FEW),
        ):
            status, body, _ = await broker.ask("GET", f"/v1/grants?{query}", headers=headers)
            assert status == 400
            assert "unknown cursor" in (body["error_description"] or "")
