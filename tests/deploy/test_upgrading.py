"""What CHANGELOG.md says of upgrading, and that brokers of two versions adopt each other's journals."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.errors import InvalidSettings
from broker.process.data_dir import sealing_keys
from broker.sandbox import Sandbox, walk_login
from broker.secret import Sealer
from broker.settings import file as settings_file
from broker.store import open_store
from broker.store.opening import SCHEMA
from tests.conftest import StartBroker, provider_settings
from tests.deploy.deployment import ROOT, USERS
from tests.proxy import RedisProxy
from tests.redis_server import RedisServer
from tests.regressions.process import Process, broker_process, missing
from tests.steps import everything, roll_back
from tests.waiting import until

UPGRADING = (ROOT / "CHANGELOG.md").read_text().split("### Upgrading")[1].split("###")[0]
BEFORE = "4f38353"
"""The commit whose journal, fields and scripts this version must go on with: the last one of the layout before."""
QUICK = {"request_timeout": "1s", "lease": "8s", "import_spread": "0s"}
REFRESHED = ("r1", "r2", "r3")
"""Grants whose answers are in the journal, and in no store."""


async def test_another_schema_is_left_alone(start_broker: StartBroker, sandbox: Sandbox, redis: Redis) -> None:
    """A broker that finds another schema says so, does not start, and changes nothing: going back is possible."""
    async with start_broker() as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
    await redis.hset("broker:{0}:meta", "schema", str(SCHEMA + 1))
    before = await everything(redis)
    with pytest.raises((InvalidSettings, BaseExceptionGroup)):
        async with start_broker(wait=False) as broker:
            await broker.task
    assert await everything(redis) == before
    error = broker.task.exception()
    assert isinstance(error, InvalidSettings)
    assert f"has schema {SCHEMA + 1}, this version reads {SCHEMA}: run the version that wrote it" in str(error)
    await redis.hset("broker:{0}:meta", "schema", str(SCHEMA))
    async with start_broker() as broker:
        assert (await broker.token("g1"))["grant_id"] == "g1"


def test_changelog_says_what_holds() -> None:
    """The schema and the rights that it names are those of this version."""
    assert f"Redis holds schema {SCHEMA}." in UPGRADING
    line = next(line for line in USERS.read_text().replace("\\\n", " ").splitlines() if line.startswith("user broker "))
    add, take_away = (set(re.findall(r"`(\+\w+)`", part)) for part in re.split("take\\s+away", UPGRADING))
    assert add <= set(line.split())
    assert take_away
    assert not take_away & set(line.split())


@pytest.fixture
def version_before(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which `python -m broker` is that commit's package."""
    if (ROOT / ".git" / "shallow").exists():
        pytest.skip("a shallow clone does not have the version before")
    packed = tmp_path / "before.tar"
    command = ["git", "archive", "--output", str(packed), BEFORE, "broker"]
    try:
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        missing(f"git history with commit {BEFORE}")
    tree = tmp_path / "before"
    tree.mkdir()
    subprocess.run(["tar", "-xf", str(packed), "-C", str(tree)], check=True)
    # PYTHONSAFEPATH: without it the working directory, which holds this version, comes first.
    environment = {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}
    script = "import broker; print(broker.__file__)"
    found = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.startswith(str(tree))
    return environment


@pytest.mark.timeout(120)
@pytest.mark.parametrize("order", ["before, then this", "this, then before"])
async def test_one_version_adopts_the_other(
    sandbox: Sandbox, own_redis: RedisServer, tmp_path: Path, version_before: dict[str, str], order: str
) -> None:
    """Killed with answers, a login and a log out in its journal, it is adopted by the other version: nothing is lost.

    Redis loses meanwhile all that it was told since the grants were imported, so what the journal says is what counts.
    Then refreshes go on, no refresh token is redeemed twice, and what is stored is what lives at the server.
    """
    first, second = (version_before, {}) if order == "before, then this" else ({}, version_before)
    server, folder = sandbox.rotating, tmp_path / "replica"
    providers = {"acme": provider_settings(sandbox)["acme"]}
    async with Redis(port=own_redis.port) as redis, RedisProxy(own_redis.port) as proxy:
        async with broker_process(folder, proxy.url, providers, refresh=QUICK, env=version_before):
            pass  # a store that this version began is sealed in a form that the version before does not know
        async with broker_process(folder, proxy.url, providers, refresh=QUICK, env=first) as broker:
            for grant in (*REFRESHED, "forgotten"):
                await broker.put(grant, server.issue().refresh_token or "", "acme")
            for grant in (*REFRESHED, "forgotten"):
                await until(lambda: broker.has_token(grant))
            imported = await everything(redis)
            await _log_in(broker, "logged-in")
            assert (await broker.ask("DELETE", "/v1/grants/forgotten"))[0] == 200
            await _answered_without_redis(broker, proxy, sandbox)
            broker.kill()
        await roll_back(redis, imported)
        proxy.up = True
        async with broker_process(folder, proxy.url, providers, refresh=QUICK, env=second) as heir:
            replayed = await heir.logged("journal.replayed")
            assert (replayed[0]["restored"], replayed[0]["forgot"]) == (len(REFRESHED) + 1, 1)
            assert (await heir.ask("GET", "/v1/grants/forgotten"))[0] == 404
            for grant in (*REFRESHED, "logged-in"):
                await _goes_on(heir, sandbox, grant)
            stored = await _stored(folder, *REFRESHED, "logged-in")
        assert all(server.is_live_refresh(refresh_token) for refresh_token in stored)
        assert server.reuse == 0


@pytest.mark.timeout(120)
async def test_side_by_side(
    sandbox: Sandbox, own_redis: RedisServer, tmp_path: Path, version_before: dict[str, str]
) -> None:
    """What a broker of the version before stores and refreshes is in the urgent list of this one, as it is."""
    providers, url = {"acme": provider_settings(sandbox)["acme"]}, f"redis://127.0.0.1:{own_redis.port}/0"
    async with broker_process(tmp_path / "older", url, providers, refresh=QUICK, env=version_before) as before:
        for grant in REFRESHED:
            await before.put(grant, sandbox.rotating.issue().refresh_token or "", "acme")
            await until(lambda: before.has_token(grant))
        async with broker_process(tmp_path / "newer", url, providers, refresh=QUICK) as this:
            await this.logged("index.built")
            await _goes_on(before, sandbox, "r1")
            await before.put("r4", sandbox.rotating.issue().refresh_token or "", "acme")
            await until(lambda: before.has_token("r4"))
            assert (await before.ask("DELETE", "/v1/grants/r2"))[0] == 200
            async with Redis(port=own_redis.port) as redis:
                await redis.zadd("broker:{0}:ends:acme", {"r1": 1})  # as if its token before had ended meanwhile
                rows = (await this.get("/v1/grants?order=urgent"))["grants"]
                assert {(row["grant_id"], row["served"]) for row in rows} <= {(g, True) for g in ("r1", "r3", "r4")}
                await redis.zadd("broker:{0}:subjects:index", {"index": 0})  # the next round begins now

            async def listed() -> set[str]:
                return {row["grant_id"] for row in (await this.get("/v1/grants?order=urgent"))["grants"]}

            async def all_are_listed() -> bool:
                return await listed() == {"r1", "r3", "r4"}

            await until(all_are_listed)


async def _log_in(broker: Process, grant: str) -> None:
    status, started, _ = await broker.ask("POST", f"/v1/grants/{grant}/login", json={"provider": "acme"})
    assert status == 200, started
    assert "Logged in" in await walk_login(started["login_url"])


async def _answered_without_redis(broker: Process, proxy: RedisProxy, sandbox: Sandbox) -> None:
    """Have answers arrive while Redis is away: they are in the journal alone."""
    server = sandbox.rotating
    server.options.latency = 0.6
    asked = len(server.token_requests)
    for grant in REFRESHED:
        await broker.ask("POST", f"/v1/grants/{grant}/retry")
    await until(lambda: len(server.token_requests) == asked + len(REFRESHED))
    proxy.down()
    await broker.logged("commit.delayed", len(REFRESHED))
    server.options.latency = 0


async def _goes_on(heir: Process, sandbox: Sandbox, grant: str) -> None:
    """Check that the token that was adopted lives, and that another follows it."""
    token = await heir.get(f"/v1/grants/{grant}/token")
    assert sandbox.rotating.is_live_access(token["access_token"])

    async def another() -> bool:
        return bool((await heir.get(f"/v1/grants/{grant}"))["generation"] > token["generation"])

    await heir.ask("POST", f"/v1/grants/{grant}/retry")
    await until(another)


async def _stored(folder: Path, *grants: str) -> list[str]:
    """Return the refresh tokens that lie sealed in Redis."""
    settings = await asyncio.to_thread(settings_file.load, folder / "broker.toml")
    sealer = Sealer(await asyncio.to_thread(sealing_keys, settings))
    held: list[Any] = []
    async with open_store(settings.redis, sealer, data_dir=settings.data_dir) as store:
        for grant in grants:
            held.append(await store.grants.refresh_token(grant))
    return [each[1].reveal() for each in held]
