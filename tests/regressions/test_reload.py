"""Providers that come, change and go while the broker runs: by SIGHUP, and by `token-broker reload`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from broker.sandbox import Sandbox, walk_login
from tests.conftest import provider_settings
from tests.redis_server import RedisServer
from tests.regressions.process import Process, broker_process, command
from tests.steps import everything, roll_back
from tests.waiting import until

GRANTS = [f"g{number}" for number in range(20)]
ROUNDS = 8
Start = Callable[..., contextlib.AbstractAsyncContextManager[Process]]


@pytest.fixture
def start(tmp_path: Path, shared_redis: RedisServer, redis: Redis, sandbox: Sandbox) -> Start:
    """Return a broker process whose settings include the files in `providers.d`: one, with the provider `acme`."""

    @contextlib.asynccontextmanager
    async def started() -> AsyncIterator[Process]:
        folder = tmp_path / "broker"
        (folder / "providers.d").mkdir(parents=True)
        acme = provider_settings(sandbox)["acme"]
        async with broker_process(folder, shared_redis.url, {"keep": acme}, refresh={"min_interval": "0s"}) as broker:
            settings = folder / "broker.toml"
            settings.write_text('include = ["providers.d/*.toml"]\n' + settings.read_text())
            write(broker, "acme", acme)
            await broker.hang_up()
            yield broker
            broker.secrets |= {secret for authority in sandbox.authorities.values() for secret in authority.secrets()}

    return started


def write(broker: Process, name: str, provider: Mapping[str, Any], **more: Any) -> None:
    """Write the file of one provider."""
    lines = [f"{key} = {_toml(value)}" for key, value in {**provider, **more}.items()]
    (broker.folder / "providers.d" / f"{name}.toml").write_text(f"[providers.{name}]\n" + "\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


async def refreshed(broker: Process, redis: Redis, grant: str, provider: str = "acme") -> dict[str, Any]:
    """Make a grant due, and return its next token."""
    before = (await broker.get(f"/v1/grants/{grant}/token"))["generation"]
    await redis.zadd(f"broker:{{0}}:due:{provider}", {grant: 0.0}, xx=True)
    await broker.ask("POST", f"/v1/grants/{grant}/retry")

    async def is_newer() -> dict[str, Any] | None:
        token = await broker.get(f"/v1/grants/{grant}/token")
        return token if token["generation"] > before else None

    token: dict[str, Any] = await until(is_newer)
    return token


async def import_(broker: Process, sandbox: Sandbox, grant: str, provider: str = "acme") -> None:
    """Import a grant and wait for its first token."""
    await broker.put(grant, sandbox.rotating.issue().refresh_token or "", provider)
    await until(partial(broker.has_token, grant))


async def test_a_reload_under_load_disturbs_no_request(start: Start, redis: Redis, sandbox: Sandbox) -> None:
    """SIGHUP while requests are under way, with tables changed, added, removed: each is sent once and stored."""
    acme, statuses = provider_settings(sandbox)["acme"], list[int]()
    async with start() as broker:
        for grant in GRANTS:
            await import_(broker, sandbox, grant)
        sandbox.rotating.options.latency = 0.1
        asked = len(sandbox.rotating.token_requests)
        reader = asyncio.create_task(_read(broker, statuses))
        for turn in range(ROUNDS):
            await redis.zadd("broker:{0}:due:acme", dict.fromkeys(GRANTS, 0.0), xx=True)
            await broker.ask("POST", "/v1/grants/g0/retry")
            wanted = asked + turn * len(GRANTS)
            await until(partial(_has_asked, sandbox, wanted + 5), 10, 0.001)
            if turn % 4 == 3:
                for name in ("acme", "extra"):
                    (broker.folder / "providers.d" / f"{name}.toml").unlink()
                write(broker, "another", acme)
                assert (await broker.hang_up())["providers_removed"] == ["acme", "extra"]
            write(broker, "acme", acme, token_params={"turn": str(turn)})
            write(broker, "extra", acme, client_id=f"client-{turn}")
            await broker.hang_up()
            await until(partial(_has_asked, sandbox, wanted + len(GRANTS)))
            await until(partial(_at_rest, redis))
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        requests = sandbox.rotating.token_requests[asked:]
        assert [request.status for request in requests] == [200] * ROUNDS * len(GRANTS)
        assert len(await broker.logged("grant.refreshed", (ROUNDS + 1) * len(GRANTS))) == (ROUNDS + 1) * len(GRANTS)
        assert not broker.lines("grant.postponed")
        assert not broker.lines("grant.parked")
        assert sandbox.rotating.reuse == 0
        assert len(statuses) > ROUNDS
        assert set(statuses) == {200}
        turns = {request.others.get("turn") for request in requests}
        assert {str(turn) for turn in range(ROUNDS - 1)} <= turns, (
            "those of a turn hold from the next one on at the latest"
        )


async def _has_asked(sandbox: Sandbox, times: int) -> bool:
    return len(sandbox.rotating.token_requests) >= times


async def _at_rest(redis: Redis) -> bool:
    return not await redis.exists("broker:{0}:leased:acme") and await redis.zcount("broker:{0}:due:acme", 0, 1) == 0


async def _read(broker: Process, statuses: list[int]) -> None:
    """Read tokens of one grant after the other."""
    async with aiohttp.ClientSession(headers={"X-Broker-Key": broker.admin_key}) as session:
        while True:
            for grant in GRANTS:
                async with session.get(f"{broker.url}/v1/grants/{grant}/token") as answer:
                    statuses.append(answer.status)
                await asyncio.sleep(0.01)


async def test_a_changed_secret_holds_from_the_next_request(start: Start, redis: Redis, sandbox: Sandbox) -> None:
    """A request under way ends with the secret it began with, and its answer is stored; the next has the new one."""
    acme, authority = provider_settings(sandbox)["acme"], sandbox.rotating
    async with start() as broker:
        await import_(broker, sandbox, "g1")
        authority.options.latency = 1.0
        asked = len(authority.token_requests)
        await redis.zadd("broker:{0}:due:acme", {"g1": 0.0}, xx=True)
        await broker.ask("POST", "/v1/grants/g1/retry")
        await until(partial(_has_asked, sandbox, asked + 1))
        write(broker, "acme", acme, client_secret="another-secret-0123456789")
        reloaded = await broker.hang_up()
        assert (reloaded["providers_changed"], reloaded["providers_added"]) == (["acme"], [])
        assert authority.token_requests[-1].status is None, "the request is under way"
        await broker.logged("grant.refreshed", 2)
        authority.options.latency = 0.0
        before = (await broker.get("/v1/grants/g1/token"))["generation"]
        broker.secrets |= {authority.client_secret, "another-secret-0123456789"}
        authority.client_secret = "another-secret-0123456789"
        assert (await refreshed(broker, redis, "g1"))["generation"] > before
        assert not broker.lines("grant.postponed")
        assert authority.reuse == 0


async def test_a_new_provider_works_as_one_of_the_start(start: Start, redis: Redis, sandbox: Sandbox) -> None:
    """It refreshes, logs in, and has its metrics, its lane's heartbeat and its place in the list."""
    async with start() as broker:
        assert (await broker.ask("POST", "/v1/grants/g1/login", json={"provider": "new"}))[0] == 400
        write(broker, "new", provider_settings(sandbox)["acme"])
        assert (await broker.hang_up())["providers_added"] == ["new"]
        status, started, _ = await broker.ask("POST", "/v1/grants/g1/login", json={"provider": "new"})
        assert (status, started["login_url"].startswith("http")) == (200, True)
        await import_(broker, sandbox, "g1", "new")
        await refreshed(broker, redis, "g1", "new")
        metrics = await broker.metrics()
        assert metrics["token_broker_refreshes_total", "refreshed new"] == 2
        assert metrics["token_broker_refreshes_total", "dead new"] == 0
        assert "lane new" in (await broker.get("/healthz"))["checks"]


async def test_a_removed_provider_comes_back(start: Start, redis: Redis, sandbox: Sandbox) -> None:
    """Its grants wait, are named, and are served while their tokens live; with the table they are refreshed again."""
    acme = provider_settings(sandbox)["acme"]
    async with start() as broker:
        await import_(broker, sandbox, "g1")
        await import_(broker, sandbox, "g2")
        write(broker, "other", acme)
        (broker.folder / "providers.d" / "acme.toml").unlink()
        await broker.hang_up()
        missing = (await broker.logged("provider.missing"))[-1]
        assert (missing["provider"], missing["grants"], sorted(missing["grant_ids"])) == ("acme", 2, ["g1", "g2"])
        token = await broker.get("/v1/grants/g1/token")
        asked = len(sandbox.rotating.token_requests)
        await redis.zadd("broker:{0}:due:acme", {"g1": 0.0, "g2": 0.0}, xx=True)
        _, retried, _ = await broker.ask("POST", "/v1/grants/g1/retry")
        assert "put [providers.acme] back" in retried["warning"]
        code, said = await command(broker, "retry", "g1")
        assert (code, "Grant g1 is due, but its provider is not in the settings" in said) == (0, True)
        health = await broker.get("/healthz")
        assert (health["status"], "lane acme" in health["checks"]) == ("ok", False)
        code, said = await command(broker, "explain", "g1")
        assert code == 1
        assert "The provider acme of grant g1 is not in the settings" in said
        assert "token-broker reload" in said
        listed = {each["provider"]: each for each in (await broker.get("/v1/providers"))["providers"]}
        assert (listed["acme"]["kind"], listed["acme"]["grants"]["due"]) == (None, 2)
        await asyncio.sleep(2.5)  # longer than a lane pauses
        assert (await broker.get("/v1/grants/g1/token"))["generation"] == token["generation"]
        assert len(sandbox.rotating.token_requests) == asked
        write(broker, "acme", acme)
        await broker.hang_up()
        for grant in ("g1", "g2"):
            await until(partial(_is_newer, broker, grant, token["generation"]))
        assert sandbox.rotating.reuse == 0


async def _is_newer(broker: Process, grant: str, generation: int) -> bool:
    return bool((await broker.get(f"/v1/grants/{grant}/token"))["generation"] > generation)


async def test_wrong_settings_change_nothing(start: Start, redis: Redis, sandbox: Sandbox) -> None:
    """One mistake in one file, and every other change waits too: log and command say what is wrong."""
    async with start() as broker:
        await import_(broker, sandbox, "g1")
        acme = provider_settings(sandbox)["acme"]
        (broker.folder / "providers.d" / "acme.toml").unlink()
        write(broker, "new", acme, skope="all")
        findings = (await broker.hang_up("settings.not_reloaded"))["findings"]
        place = f"{broker.folder}/providers.d/new.toml:6: providers.new.skope"
        assert findings == [f"{place}: no such key: did you mean scope?"]
        code, said = await command(broker, "reload")
        assert (code, said.splitlines()[0]) == (78, f"token-broker: {findings[0]}")
        assert "a running broker keeps the settings that it had" in said
        write(
            broker, "new", {key: value for key, value in acme.items() if key != "client_secret"} | _unreadable(broker)
        )
        code, said = await command(broker, "reload")
        assert code == 78
        assert said.startswith("token-broker: providers.new.client_secret_file: ")
        assert "nothing was changed: the broker keeps the settings that it had" in said
        assert {each["provider"] for each in (await broker.get("/v1/providers"))["providers"]} == {"keep", "acme"}
        await refreshed(broker, redis, "g1")


def _unreadable(broker: Process) -> dict[str, str]:
    return {"client_secret_file": str(broker.folder / "nowhere")}


async def test_the_command_names_what_needs_a_restart(start: Start, sandbox: Sandbox) -> None:
    """What was taken up, and what was not; the log has the same keys, at every reload until the restart."""
    async with start() as broker:
        settings = broker.folder / "broker.toml"
        settings.write_text(
            settings.read_text().replace("[refresh]", "[cache]\nmax_entries = 7\n[refresh]\nconcurrency = 3")
        )
        write(broker, "new", provider_settings(sandbox)["acme"])
        code, said = await command(broker, "reload")
        assert code == 0
        assert said.splitlines() == [
            "Providers added: new.",
            "Callers: only the admin of data_dir. Log level: info.",
            "These need a restart of the broker: refresh.concurrency, cache.max_entries.",
        ]
        code, said = await command(broker, "reload", "--json")
        reloaded = json.loads(said)
        assert (reloaded["providers_added"], reloaded["needs_restart"]) == (
            [],
            ["refresh.concurrency", "cache.max_entries"],
        )
        logged = await broker.logged("settings.restart_needed", 2)
        assert [event["keys"] for event in logged] == [reloaded["needs_restart"]] * 2


async def test_the_command_names_what_changed(start: Start, sandbox: Sandbox) -> None:
    """The keys of tables that stay, and the callers that come, go, or get another key; the log has the same lists."""
    acme = provider_settings(sandbox)["acme"]
    async with start() as broker:
        settings, key_file = broker.folder / "broker.toml", broker.folder / "wall.key"
        before = settings.read_text()
        key_file.write_text("k" * 40)
        wall, door = (f'[callers.{name}]\nkey_file = "{key_file}"\nread = ["*"]\n' for name in ("wall", "door"))
        settings.write_text(before + wall)
        await broker.hang_up()
        settings.write_text(before.replace("[log]\n", '[log]\nlevel = "debug"\n') + wall.replace('"*"', '"acme-*"'))
        write(broker, "acme", acme, scope="another", client_secret="SECRET-0123456789")
        code, said = await command(broker, "reload")
        assert code == 0, said
        assert said.splitlines() == [
            "Providers changed, from the next request on: acme.",
            "Callers changed: wall.",
            "Keys with a new value: log.level, providers.acme.client_secret, providers.acme.scope, callers.wall.read.",
            "Callers: wall. Log level: debug.",
        ]
        key_file.write_text("l" * 40)
        assert (await broker.hang_up())["callers_changed"] == ["wall"]
        settings.write_text(before + door)
        reloaded = await broker.hang_up()
        assert (reloaded["callers_added"], reloaded["callers_removed"]) == (["door"], ["wall"])
        code, said = await command(broker, "reload")
        assert said.splitlines()[0] == "Nothing that a running broker takes up has changed."


async def test_two_reloads_in_quick_succession(start: Start, sandbox: Sandbox) -> None:
    """However they fall together, what is written before the last signal is taken up."""
    async with start() as broker:
        for number in range(20):
            write(broker, f"new{number}", provider_settings(sandbox)["acme"])
            broker.popen.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.001)
        wanted = {"keep", "acme", *(f"new{number}" for number in range(20))}

        async def listed() -> bool:
            return {each["provider"] for each in (await broker.get("/v1/providers"))["providers"]} == wanted

        await until(listed)
        assert 2 <= len(broker.lines("settings.reloaded")) <= 21


async def test_the_journal_is_replayed_to_a_provider_that_comes_later(
    tmp_path: Path, shared_redis: RedisServer, redis: Redis, sandbox: Sandbox
) -> None:
    """Redis lost the last token of a grant whose table is missing at start: with the table comes what the disk has."""
    acme, refresh = provider_settings(sandbox)["acme"], {"request_timeout": "1s", "min_interval": "0s"}
    async with broker_process(tmp_path / "b", shared_redis.url, {"acme": acme}, refresh=refresh) as broker:
        await import_(broker, sandbox, "g1")
        before = await everything(redis)
        newest = (await refreshed(broker, redis, "g1"))["generation"]
    await roll_back(redis, before)
    async with broker_process(tmp_path / "b", shared_redis.url, {}, refresh=refresh) as broker:
        await broker.logged("provider.missing")
        settings = broker.folder / "broker.toml"
        lines = [f"{key} = {_toml(value)}\n" for key, value in acme.items()]
        settings.write_text(settings.read_text() + "\n[providers.acme]\n" + "".join(lines))
        await broker.hang_up()
        await broker.logged("journal.replayed")
        await until(partial(_is_stored, redis, newest))
        await redis.zadd("broker:{0}:due:acme", {"g1": 0.0}, xx=True)
        await until(partial(_is_newer, broker, "g1", newest), 20)
        assert sandbox.rotating.reuse == 0


async def _is_stored(redis: Redis, generation: int) -> bool:
    return bool(int(await redis.hget("broker:{0}:grant:g1", "generation") or 0) >= generation)


@pytest.mark.parametrize("removed", [True, False])
async def test_a_login_under_way_survives_a_reload(start: Start, redis: Redis, sandbox: Sandbox, removed: bool) -> None:
    """Its tokens are kept, and its provider's new settings get nothing of them, also where the table is gone."""
    acme, authority = provider_settings(sandbox)["acme"], sandbox.rotating
    async with start() as broker:
        status, started, _ = await broker.ask("POST", "/v1/grants/g1/login", json={"provider": "acme"})
        assert status == 200
        authority.options.latency = 2.0
        asked = len(authority.token_requests)
        login = asyncio.create_task(walk_login(started["login_url"]))
        await until(partial(_has_asked, sandbox, asked + 1))
        if removed:
            write(broker, "other", acme)
            (broker.folder / "providers.d" / "acme.toml").unlink()
        else:
            write(broker, "acme", acme, issuer=f"{sandbox.url}/elsewhere")
        await broker.hang_up()
        assert "Logged in" in await login
        authority.options.latency = 0.0
        write(broker, "acme", acme)
        await broker.hang_up()
        assert (await broker.get("/v1/grants/g1/token"))["provider"] == "acme"
        await refreshed(broker, redis, "g1")
        assert authority.reuse == 0
