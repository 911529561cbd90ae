"""What `/metrics` shows of a running broker: true at every scrape, nothing twice, nothing stale, bounded."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.process.metrics import OUTCOMES, READS, ParkedFigures, render_grants
from tests.regressions.process import missing
from tests.steps import log_in, make_due, next_generation, state_of
from tests.waiting import until

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker
    from tests.redis_server import RedisServer

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scraped(broker: RunningBroker) -> Samples:
    """Every sample of one scrape; none is there twice."""
    samples: Samples = {}
    text = (await broker.get("/metrics"))["text"]
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name.removeprefix("token_broker_"), frozenset(sample.labels.items()))
            assert key not in samples, key
            assert sample.name.startswith("token_broker_")
            samples[key] = sample.value
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    return samples


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """One sample, None where there is none."""
    return samples.get((name, frozenset(labels.items())))


@pytest.fixture(autouse=True)
def _measure_grants_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for single grants to be looked at again."""
    monkeypatch.setattr("broker.api.exposition._GRANTS_TTL", -1.0)


async def imported(broker: RunningBroker, sandbox: Sandbox, *names: str) -> None:
    """Grants with a first token."""
    for name in names:
        await broker.import_(name, "acme", sandbox.rotating.issue().refresh_token or "")


async def test_every_series_from_the_start(broker: RunningBroker) -> None:
    """What alerts are made of is there before anything happened: counters at zero, so that the first event shows."""
    seen = await scraped(broker)
    for provider in ("acme", "cameramanager", "een"):
        assert [value(seen, "refreshes_total", provider=provider, outcome=o) for o in OUTCOMES] == [0.0] * len(OUTCOMES)
        states = ("due", "leased", "parked")
        assert [value(seen, "grants", provider=provider, state=state) for state in states] == [0.0] * 3
        assert value(seen, "provider_suspended", provider=provider, error="") == 0
    assert [value(seen, "token_requests_total", outcome=outcome) for outcome in READS] == [0.0] * len(READS)
    for name in ("journal_entries", "subscribers", "grants_truncated", "cached_tokens"):
        assert value(seen, name) == 0, name
    assert value(seen, "store_up") == 1
    assert -5 < seen["clock_offset_seconds", frozenset()] < 5
    assert {key for key in seen if key[0] == "build_info"}
    risks = {dict(labels)["reason"]: at for (name, labels), at in seen.items() if name == "durability_at_risk"}
    assert risks == {"journal_off": 0, "journal_failing": 0, "commit_unproved": 0}


async def test_a_grant_in_figures(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A grant's moments in epoch seconds, as it is described; gone with it, as is what counts it."""
    await imported(broker, sandbox, "g", "h")
    described, seen = await state_of(broker, "g"), await scraped(broker)
    expiry = value(seen, "grant_access_token_expiry_timestamp_seconds", grant="g", provider="acme") or 0
    assert int(expiry) == described["expires_at"]
    assert (
        int(value(seen, "grant_next_refresh_timestamp_seconds", grant="g", provider="acme") or 0)
        == described["refresh_at"]
    )
    assert (
        abs((value(seen, "grant_last_success_timestamp_seconds", grant="g", provider="acme") or 0) - time.time()) < 20
    )
    assert value(seen, "grant_reauthorize_by_timestamp_seconds", grant="g", provider="acme") is None
    assert value(seen, "grants", provider="acme", state="due") == 2
    assert value(seen, "refreshes_total", provider="acme", outcome="refreshed") == 2
    assert value(seen, "refresh_duration_seconds_count", provider="acme") == 2
    assert value(seen, "schedule_lag_seconds_count", provider="acme") == 2
    assert value(seen, "grant_reauthorize_soon", grant="g", provider="acme") is None
    await redis.hset("broker:{0}:grant:g", "reauthorize_by", "1800000000000")
    seen = await scraped(broker)
    assert value(seen, "grant_reauthorize_by_timestamp_seconds", grant="g", provider="acme") == 1_800_000_000
    await broker.ask("DELETE", "/v1/grants/g")
    seen = await scraped(broker)
    assert not [key for key in seen if ("grant", "g") in key[1]]
    assert value(seen, "grants", provider="acme", state="due") == 1


async def test_parked_and_suspended(broker: RunningBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A dead grant has no next refresh but an expiry still; a suspended provider is named with its error."""
    await imported(broker, sandbox, "dead", "well")
    sandbox.rotating.faults.order("status", status=400, body={"error": "invalid_grant"})
    await make_due(redis, "acme", "dead")
    await until(lambda: _counted(broker, "dead"))
    seen = await scraped(broker)
    assert value(seen, "grants", provider="acme", state="parked") == 1
    assert value(seen, "grant_next_refresh_timestamp_seconds", grant="dead", provider="acme") is None
    assert value(seen, "grant_access_token_expiry_timestamp_seconds", grant="dead", provider="acme") is not None
    why = {"grant": "dead", "provider": "acme", "reason": "reauthorization_required"}
    assert abs((value(seen, "grant_parked_timestamp_seconds", **why) or 0) - time.time()) < 20
    sandbox.rotating.faults.order("invalid_client")
    generation = (await broker.token("well"))["generation"]
    await make_due(redis, "acme", "well")
    await until(lambda: _counted(broker, "registration"))
    seen = await scraped(broker)
    assert value(seen, "provider_suspended", provider="acme", error="invalid_client") == 1
    assert value(seen, "provider_suspended", provider="acme", error="") is None
    await broker.ask("POST", "/v1/providers/acme/retry")
    await next_generation(broker, "well", generation)
    assert value(await scraped(broker), "provider_suspended", provider="acme", error="invalid_client") is None


async def test_a_coming_end_by_the_rule_of_notices(broker: RunningBroker, redis: Redis) -> None:
    """1 within two weeks of a grant's end, 2 within three days, unless that is always so near; nothing once dead."""
    await log_in(broker, "g", "een")  # whose grants live 90 days, and 14 days unused
    now, day = int(time.time() * 1000), 86_400_000
    for age, left, wanted in ((76.2, 13.9, 1), (76.2, 14.1, 0), (88, 2, 2), (20, 13.5, 0), (20, 3.1, 0), (20, 2.9, 2)):
        ends: dict[Any, Any] = {"granted_at": str(now - int(age * day)), "reauthorize_by": str(now + int(left * day))}
        await redis.hset("broker:{0}:grant:g", mapping=ends)
        soon = value(await scraped(broker), "grant_reauthorize_soon", grant="g", provider="een")
        assert soon == wanted, (age, left)
    await redis.hset("broker:{0}:grant:g", "reason", "reauthorization_required")
    seen = await scraped(broker)
    assert value(seen, "grant_reauthorize_soon", grant="g", provider="een") is None
    assert value(seen, "grant_reauthorize_by_timestamp_seconds", grant="g", provider="een") is not None


async def _counted(broker: RunningBroker, outcome: str) -> bool:
    return bool(value(await scraped(broker), "refreshes_total", provider="acme", outcome=outcome))


async def test_only_the_soonest_are_shown(start_broker: StartBroker, redis: Redis, sandbox: Sandbox) -> None:
    """Beyond max_grants the soonest of all providers are shown, exactly; below it parked ones too; 0 shows none."""
    async with start_broker(metrics={"max_grants": 40}) as broker:
        far = time.time() * 1000 + 10**7
        # First what is scheduled, then the schedule: an id there without a hash is a lost grant.
        for n in range(3000):
            await redis.hset(f"broker:{{0}}:grant:g{n:04}", mapping={"expires_at": str(int(far) + n)})
        for n in range(20):
            await redis.hset(f"broker:{{0}}:grant:p{n}", mapping={"expires_at": "1"})
        for n in range(3000):
            provider = ("acme", "een", "cameramanager")[n % 3 if n > 200 else 0]  # the soonest are all of one
            await redis.zadd(f"broker:{{0}}:due:{provider}", {f"g{n:04}": far + n})
        await redis.zadd("broker:{0}:parked:acme", {f"p{n}": n for n in range(20)})
        seen = await scraped(broker)
        shown = [dict(k[1])["grant"] for k in seen if k[0] == "grant_next_refresh_timestamp_seconds"]
        assert shown == [f"g{n:04}" for n in range(40)]
        named = [dict(k[1])["grant"] for k in seen if k[0] == "grant_parked_timestamp_seconds"]
        assert named == [f"p{n}" for n in range(19, -1, -1)], "who waits for a person is named all the same"
        assert value(seen, "grants_truncated") == 1
        assert sum(at for (name, _), at in seen.items() if name == "grants") == 3020
        for provider in ("acme", "een", "cameramanager"):
            await redis.zremrangebyrank(f"broker:{{0}}:due:{provider}", 10, -1)
        seen = await scraped(broker)
        shown = [dict(k[1])["grant"] for k in seen if k[0] == "grant_access_token_expiry_timestamp_seconds"]
        assert len(shown) == 40
        assert shown[30:] == [f"p{n}" for n in range(19, 9, -1)], "the latest parked"
    async with start_broker(metrics={"max_grants": 0}) as broker:
        assert not [key for key in await scraped(broker) if key[0].startswith("grant_")]


async def test_reads_by_how_they_were_answered(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Each way of answering a read counts once, and only as that."""

    async def grown(before: Samples) -> dict[str, float]:
        after = await scraped(broker)
        pairs = {o: [value(s, "token_requests_total", outcome=o) or 0 for s in (before, after)] for o in READS}
        return {outcome: new - old for outcome, (old, new) in pairs.items() if new != old}

    await imported(broker, sandbox, "g")
    before = await scraped(broker)
    token = await broker.token("g")
    assert await grown(before) == {"cached": 1}
    before = await scraped(broker)
    report = {"If-Match": f'"{token["generation"]}"'}
    assert (await broker.ask("POST", "/v1/grants/g/refresh", headers=report))[0] == 429
    assert await grown(before) == {"too_fresh": 1}
    before = await scraped(broker)
    for key in ("", "unknown"):
        assert (await broker.ask("GET", "/v1/grants/g/token", headers={"X-Broker-Key": key}))[0] == 401
    assert await grown(before) == {"denied": 2}


async def test_a_token_whose_refresh_is_late_is_stale(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis
) -> None:
    """A living token that should have been refreshed half a minute ago is served, and counted apart."""
    async with start_broker() as broker:
        await imported(broker, sandbox, "g")
    await redis.zadd("broker:{0}:parked:acme", {"g": 1})  # so that nobody refreshes it
    await redis.zrem("broker:{0}:due:acme", "g")
    await redis.hset("broker:{0}:grant:g", "refresh_at", str(int(time.time() * 1000) - 31_000))
    async with start_broker() as broker:
        await broker.token("g")
        seen = await scraped(broker)
        assert [value(seen, "token_requests_total", outcome=outcome) for outcome in ("stale", "cached")] == [1, 0]


async def test_who_waits_is_counted(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Callers in a long poll are the subscribers; when they are answered there are none."""
    await imported(broker, sandbox, "g")
    etag = f'"{(await broker.token("g"))["generation"]}"'
    polls = [
        asyncio.create_task(
            broker.ask("GET", "/v1/grants/g/token", headers={"If-None-Match": etag, "Prefer": "wait=30"})
        )
        for _ in range(3)
    ]

    async def subscribers(wanted: int) -> bool:
        return value(await scraped(broker), "subscribers") == wanted

    await until(lambda: subscribers(3))
    await broker.ask("DELETE", "/v1/grants/g")
    await asyncio.gather(*polls)
    assert await subscribers(0)


async def test_without_redis_nothing_is_guessed(
    start_broker: StartBroker, sandbox: Sandbox, own_redis: RedisServer
) -> None:
    """A Redis that is gone leaves no figure of grants behind, and what is counted here stays; no journal is a risk."""
    async with start_broker(redis={"url": own_redis.url}, refresh={"journal": False}) as broker:
        await imported(broker, sandbox, "g")
        assert value(await scraped(broker), "durability_at_risk", reason="journal_off") == 1
        own_redis.kill()
        seen = await scraped(broker)
        assert value(seen, "store_up") == 0
        assert not [key for key in seen if key[0] in {"grants", "provider_suspended"} or key[0].startswith("grant_")]
        assert value(seen, "refreshes_total", provider="acme", outcome="refreshed") == 1
        assert value(seen, "cached_tokens") == 1


async def test_many_scrapes_cost_little(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The route needs no key: scrapes that come together share one answer, and single grants are not read for each."""
    monkeypatch.setattr("broker.api.exposition._GRANTS_TTL", 60.0)
    async with start_broker() as broker:
        await imported(broker, sandbox, *(f"g{n}" for n in range(20)))
        await scraped(broker)
        await redis.config_resetstat()
        texts = [(await broker.get("/metrics"))["text"] for _ in range(5)]
        await redis.client_pause(600)  # so that they come together
        texts += [scrape["text"] for scrape in await asyncio.gather(*(broker.get("/metrics") for _ in range(50)))]
        assert all("grant_last_success_timestamp_seconds{" in text for text in texts)
        stats = await redis.info("commandstats")
        looks, singles = stats["cmdstat_hkeys"]["calls"], stats.get("cmdstat_hmget", {"calls": 0})["calls"]
        assert 6 <= looks < 20
        assert singles <= 3 * looks + 10, "one a provider, and none a grant"


async def test_prometheus_finds_nothing_to_mend(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Prometheus's own linter reads a whole scrape and has no complaint: names, units, help, types."""
    promtool = shutil.which("promtool")
    if promtool is None:
        missing("promtool")
        return
    await imported(broker, sandbox, "g")
    text = (await broker.get("/metrics"))["text"]
    check = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    complaints, _ = await check.communicate(text.encode())
    assert (check.returncode, complaints) == (0, b"")


def test_words_of_others_are_escaped() -> None:
    """What a provider calls an error cannot break a line or a label: it is read back as it was."""
    odd = [ParkedFigures("g", "acme", 1_500, word) for word in ('a"b', "a\\b\\", "a\nb", 'é {x="y"} 1', "")]
    (family,) = [f for f in text_string_to_metric_families(render_grants([], odd).decode()) if f.samples]
    assert [(s.labels["reason"], s.value) for s in family.samples] == [(grant.reason, 1.5) for grant in odd]
