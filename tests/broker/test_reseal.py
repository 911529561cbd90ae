"""Resealing: every sealed value gets the new key while brokers refresh, and the old one may go."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.sandbox import Sandbox, walk_login
from broker.secret import CannotOpen, Sealer, key_digest, new_sealing_key, parse_sealing_keys
from broker.store import open_store, scripts
from broker.store.resealing import SEALED_FIELDS, Resealing
from tests.conftest import RunningBroker, StartBroker
from tests.redis_server import start_redis
from tests.steps import assert_sound, authority_of, log_in, make_due, next_generation
from tests.waiting import meanwhile, until

REFRESH = {"request_timeout": "2s", "lease": "9s", "min_interval": "0s"}


class KeyFile:
    """A key file whose keys are told by number, the first line first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys = [new_sealing_key() for _ in range(3)]

    def holds(self, *numbers: int) -> None:
        self.path.write_text("".join(f"{self._keys[number]}\n" for number in numbers))

    def sealer(self, *numbers: int) -> Sealer:
        sealer = Sealer(parse_sealing_keys("\n".join(self._keys[number] for number in numbers)))
        sealer.binds = True
        return sealer


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    """Return the key file of all brokers of a test, with its first key."""
    file = KeyFile(tmp_path / "rotated.keys")
    file.holds(0)
    return file


async def resealed(broker: RunningBroker) -> dict[str, Any]:
    """Reseal to the end; the counts of all answers together, and what the last one said."""
    progress: dict[str, Any] = {"next": None}
    total = {"grants_resealed": 0, "logins_resealed": 0, "requests": 0}
    while True:
        body = {"cursor": progress["next"]} if progress["next"] else {}
        status, progress, _ = await broker.ask("POST", "/v1/sealing/reseal", json=body)
        assert status == 200, progress
        total["grants_resealed"] += progress["grants_resealed"]
        total["logins_resealed"] += progress["logins_resealed"]
        total["requests"] += 1
        if progress["next"] is None:
            return {**progress, **total}


async def sealed_otherwise(redis: Redis, sealer: Sealer) -> list[str]:
    """Every stored value that the first key of *sealer* did not seal."""
    found = []
    for raw in await redis.execute_command("KEYS", "broker:{0}:*"):  # type: ignore[no-untyped-call]
        key = raw.decode()
        cells: list[tuple[str, Any]] = []
        kind = key.split(":")[2]
        if kind == "grant":
            cells = list(zip(SEALED_FIELDS, await redis.hmget(key, list(SEALED_FIELDS)), strict=True))
        elif kind == "flow":
            cells = [("", await redis.get(key))]
        elif kind == "meta":
            cells = [("canary", await redis.hget(key, "canary"))]
        found += [f"{key} {field}" for field, value in cells if value and not sealer.is_current(value)]
    return found


async def test_whole_procedure_beside_live_refreshes(
    start_broker: StartBroker,
    sandbox: Sandbox,
    redis: Redis,
    keys: KeyFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """New key below, new key first, reseal, old key gone, each with a restart of both brokers, while grants refresh.

    Nothing is redeemed twice; afterwards everything opens with the new key alone: grants, a pending login, journals.
    """
    monkeypatch.setattr("broker.refresh.scheduler.IDLE_PAUSE", 0.05)
    grants = [(f"{provider}-{n}", provider) for provider in ("acme", "cameramanager") for n in range(8)]
    tables: list[dict[str, Any]] = [
        {"data_dir": tmp_path / f"replica{n}", "sealing": {"keys_file": keys.path}, "refresh": REFRESH} for n in (1, 2)
    ]

    @contextlib.asynccontextmanager
    async def both() -> Any:
        async with start_broker(**tables[0]) as one, start_broker(**tables[1]) as two:
            yield one, two

    async def churn() -> None:
        for grant, provider in grants:
            await redis.zadd(f"broker:{{0}}:due:{provider}", {grant: 1}, xx=True)
            await asyncio.sleep(0.002)

    async with both() as (one, _):
        for grant, provider in grants:
            await one.import_(grant, provider, authority_of(sandbox, provider).issue().refresh_token or "")
        _, started, _ = await one.ask("POST", "/v1/grants/late/login", json={"provider": "acme"})
    keys.holds(0, 1)
    async with both() as (one, _):
        assert await sealed_otherwise(redis, keys.sealer(0)) == []
    keys.holds(1, 0)
    async with both() as (one, two):
        before = {grant: (await one.token(grant))["generation"] for grant, _ in grants}
        async with meanwhile(churn, 0):
            progress = await resealed(one)
            again = await resealed(two)
            for grant, _ in grants:
                await next_generation(one, grant, before[grant])
        assert progress["old_keys_may_go"], progress
        assert progress["logins_resealed"] >= 1
        assert 1 <= progress["grants_resealed"] <= len(grants)
        assert (again["grants_resealed"], again["logins_resealed"], again["pass"]) == (0, 0, 1)
        assert await sealed_otherwise(redis, keys.sealer(1)) == []
        await assert_sound(one, sandbox, *grants)
    keys.holds(1)
    async with both() as (one, two):
        ticket = started["login_url"].rpartition("/")[2]
        assert "Logged in" in await walk_login(f"{one.url}/login/{ticket}")
        for grant, provider in [*grants, ("late", "acme")]:
            assert not (await one.get(f"/v1/grants/{grant}"))["unreadable"]
            now = await one.token(grant)
            if provider == "acme":
                await make_due(redis, provider, grant)
                await next_generation(two, grant, now["generation"])
        await assert_sound(one, sandbox, *grants, ("late", "acme"))
        assert not [event for broker in (one, two) for event in broker.events("journal.unreadable")]


async def test_pages_go_on_where_they_were(
    start_broker: StartBroker, sandbox: Sandbox, keys: KeyFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Over many requests, one repeated, and a restart of Redis between them, everything is resealed."""
    monkeypatch.setattr("broker.store.resealing._PAGE", 3)
    monkeypatch.setattr("broker.store.reseal_walk._BUDGET", 0.0)
    server = start_redis(tmp_path)
    try:
        tables: dict[str, Any] = {
            "data_dir": tmp_path / "data",
            "sealing": {"keys_file": keys.path},
            "redis": {"url": server.url},
            "refresh": REFRESH,
        }
        async with start_broker(**tables) as broker:
            for number in range(40):
                await broker.import_(f"g{number}", "acme", sandbox.rotating.issue().refresh_token or "")
        keys.holds(1, 0)
        async with start_broker(**tables) as broker, Redis.from_url(server.url) as redis:
            _, first, _ = await broker.ask("POST", "/v1/sealing/reseal")
            cursor = {"cursor": first["next"]}
            _, second, _ = await broker.ask("POST", "/v1/sealing/reseal", json=cursor)
            _, repeated, _ = await broker.ask("POST", "/v1/sealing/reseal", json=cursor)
            assert (repeated["grants"], repeated["grants_resealed"]) == (second["grants"], 0)
            server.kill()
            server = start_redis(tmp_path, server.port)

            async def answered() -> dict[str, Any] | None:
                status, progress, _ = await broker.ask("POST", "/v1/sealing/reseal", json=cursor)
                return progress if status == 200 else None

            progress = await until(answered)
            assert progress["pass"] == 1
            while progress["next"]:
                _, progress, _ = await broker.ask("POST", "/v1/sealing/reseal", json={"cursor": progress["next"]})
            assert (progress["old_keys_may_go"], progress["pass"]) == (True, 2)
            assert await sealed_otherwise(redis, keys.sealer(1)) == []
    finally:
        server.kill()


async def test_what_changed_meanwhile_stays(start_broker: StartBroker, keys: KeyFile, redis: Redis) -> None:
    """The script replaces a value by itself sealed anew, never one that a commit or a login wrote in between."""
    async with start_broker(sealing={"keys_file": keys.path}) as broker:
        await redis.hset("broker:{0}:grant:x", mapping={"refresh_token": "newer", "extra": "as it was"})
        await redis.set("broker:{0}:flow:x", "newer", ex=600)
        settings = broker.settings
        async with open_store(settings.redis, keys.sealer(0), data_dir=settings.data_dir) as store:
            await store.identify()
            run = store.primary.run
            changes = ["refresh_token", "older", "resealed", "extra", "as it was", "resealed", "gone", "x", "y"]
            assert await run(scripts.RESEAL, ["broker:{0}:grant:x"], changes) == 1
            assert await run(scripts.RESEAL, ["broker:{0}:flow:x"], ["", "older", "resealed"]) == 0
            assert await run(scripts.RESEAL, ["broker:{0}:flow:x"], ["", "newer", "resealed"]) == 1
        assert await redis.hgetall("broker:{0}:grant:x") == {b"refresh_token": b"newer", b"extra": b"resealed"}
        assert await redis.get("broker:{0}:flow:x") == b"resealed"
        assert 0 < await redis.ttl("broker:{0}:flow:x") <= 600
        await redis.delete("broker:{0}:grant:x")


async def test_another_broker_that_seals_with_the_old_key(
    start_broker: StartBroker, keys: KeyFile, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where values sealed with the old key keep coming, it is never said that the old key may go."""
    old = keys.sealer(0)
    keys.holds(1, 0)
    async with start_broker(sealing={"keys_file": keys.path}) as broker:
        page = Resealing.page

        async def beside(self: Resealing, cursor: str | None) -> Any:
            await redis.hset("broker:{0}:grant:g1", "refresh_token", old.seal("rt", "g1", "refresh_token"))
            return await page(self, cursor)

        monkeypatch.setattr(Resealing, "page", beside)
        status, progress, _ = await broker.ask("POST", "/v1/sealing/reseal")
        assert (status, progress["error"]) == (409, "conflict")
        assert "another broker still seals" in progress["error_description"]
        await redis.delete("broker:{0}:grant:g1")


async def test_a_key_that_is_missing_already(start_broker: StartBroker, keys: KeyFile, redis: Redis) -> None:
    """A grant that no key opens is named, and no other key may go before it is mended."""
    keys.holds(1, 0)
    async with start_broker(sealing={"keys_file": keys.path}) as broker:
        await redis.hset("broker:{0}:grant:g1", "refresh_token", keys.sealer(2).seal("rt", "g1", "refresh_token"))
        progress = await resealed(broker)
        assert (progress["old_keys_may_go"], progress["unreadable"]) == (False, ["g1"])
        assert "put that key back" in progress["detail"]
        await redis.delete("broker:{0}:grant:g1")


async def test_refused(start_broker: StartBroker, keys: KeyFile, tmp_path: Path) -> None:
    """A key file that changed since the start, a foreign cursor, and a body of another kind: each says what to do."""
    async with start_broker(sealing={"keys_file": keys.path}) as broker:
        for body in ("x", "6~2~", "1~0~x", "1~0~0~99999999999999999999999"):
            status, progress, _ = await broker.ask("POST", "/v1/sealing/reseal", json={"cursor": body})
            assert (status, progress["error"]) == (400, "invalid_request"), body
        for wrong in ({"json": {"cursor": 1}}, {"json": [1]}, {"data": "{"}):
            status, progress, _ = await broker.ask("POST", "/v1/sealing/reseal", **wrong)
            assert (status, progress["error"]) == (400, "invalid_request"), wrong
        keys.holds(1, 0)
        status, progress, _ = await broker.ask("POST", "/v1/sealing/reseal")
        assert status == 409
        assert "restart every broker" in progress["error_description"]
        keys.path.unlink()
        status, progress, _ = await broker.ask("POST", "/v1/sealing/reseal")
        assert (status, progress["error"]) == (500, "invalid_settings")
        keys.holds(0)
        assert (await resealed(broker))["old_keys_may_go"]


async def test_journal_left_behind_is_sealed_anew(
    start_broker: StartBroker, sandbox: Sandbox, redis: Redis, keys: KeyFile, tmp_path: Path
) -> None:
    """A start with the new key first seals anew what it adopts, down to the values inside: they restore a grant."""
    tables: dict[str, Any] = {"data_dir": tmp_path / "one", "sealing": {"keys_file": keys.path}, "refresh": REFRESH}
    async with start_broker(**tables) as broker:
        assert "Logged in" in await log_in(broker, "g1", "acme")
    keys.holds(1, 0)
    async with start_broker(**tables) as broker:
        assert (await resealed(broker))["old_keys_may_go"]
    for path in (tmp_path / "one" / "journal").glob("*.journal"):
        for line in path.read_bytes().splitlines():
            with pytest.raises(CannotOpen):
                keys.sealer(0).open(base64.b64decode(line), "journal")
    keys.holds(1)
    await redis.delete("broker:{0}:grant:g1")
    await redis.zrem("broker:{0}:due:acme", "g1")
    await redis.hset("broker:{0}:epoch", "run_id", "0000")
    async with start_broker(**tables) as broker:
        await until(lambda: broker.events("journal.replayed"))
        assert not (await broker.get("/v1/grants/g1"))["unreadable"]
        await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_only_who_is_admin_of_all(start_broker: StartBroker, keys: KeyFile) -> None:
    """An admin of some grants may not reseal, and neither may a reader."""
    callers = {
        "some": {"key_sha256": key_digest("some-key-0123456789-0123456789-0123456789"), "admin": ["mine-*"]},
        "reader": {"key_sha256": key_digest("reader-key-0123456789-0123456789-0123456789"), "read": ["*"]},
    }
    async with start_broker(sealing={"keys_file": keys.path}, callers=callers) as broker:
        for name in callers:
            status, progress, _ = await broker.ask(
                "POST", "/v1/sealing/reseal", headers={"X-Broker-Key": f"{name}-key-0123456789-0123456789-0123456789"}
            )
            assert (status, progress["error"]) == (403, "access_denied")
