"""The deployed Redis, run for real: rendered by start.sh, with its redis.conf and its users, under a real broker."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from redis import exceptions

from broker.model import GRANT_ID
from broker.sandbox import Sandbox
from broker.store import copying
from broker.store.facts import NEEDED, OF_CLUSTER
from tests.conftest import StartBroker
from tests.deploy.conftest import CONSUMER_PASSWORD, Deployed, consumer_line, start
from tests.deploy.deployment import ROOT, USERS, compose
from tests.steps import PROVIDERS, authority_of, log_in
from tests.waiting import until


async def denied(deployed: Deployed) -> list[dict[str, Any]]:
    """Return what the server refused to anybody, by its own log."""
    async with deployed.of("tester") as tester:
        entries: list[dict[str, Any]] = await tester.acl_log()
        return entries


async def test_whole_grant_life_as_acl_user(deployed: Deployed, start_broker: StartBroker, sandbox: Sandbox) -> None:
    """Log in, refresh, publish, read, import, fail, park, take up again, log out: Redis refuses nothing of it."""
    password_file = deployed.directory / "password"
    channel_user, heard = deployed.client("video-wall", CONSUMER_PASSWORD), []
    async with (
        start_broker(
            redis={"url": f"redis://broker@127.0.0.1:{deployed.port}/0", "password_file": password_file},
            refresh={"min_interval": "0s", "import_spread": "0s"},
            cache={"warm": ["acme-*"]},
        ) as broker,
        channel_user.pubsub() as subscription,
    ):
        broker.secrets |= {deployed.password, CONSUMER_PASSWORD}
        await subscription.subscribe("broker:tokens:acme-acme")
        for provider in PROVIDERS:
            grant = f"acme-{provider}"
            assert "Logged in" in await log_in(broker, grant, provider)
            token = await broker.token(grant)
            status, newer, _ = await broker.ask(
                "POST", f"/v1/grants/{grant}/refresh", headers={"If-Match": f'"{token["generation"]}"'}
            )
            assert status == 200, newer
            if provider != "een":  # which gives the same token again until it expires
                assert newer["generation"] > token["generation"]
            assert authority_of(sandbox, provider).is_live_access(newer["access_token"])

        issued = [sandbox.rotating.issue().refresh_token or "" for _ in range(3)]
        await broker.import_("acme-one", "acme", issued[0])
        lines = [json.dumps({"grant_id": f"acme-{n}", "provider": "acme", "refresh_token": issued[n]}) for n in (1, 2)]
        status, _, _ = await broker.ask("POST", "/v1/import", data="\n".join(lines))
        assert status == 200
        await broker.token("acme-1")

        # Once unavailable (postpone), then refused for good (park), then taken up again (retry, resume).
        token = await broker.token("acme-2")
        sandbox.rotating.faults.order("status", status=503)
        await broker.ask("POST", "/v1/grants/acme-2/refresh", headers={"If-Match": f'"{token["generation"]}"'})
        sandbox.rotating.faults.order("status", times=8, status=400, body={"error": "invalid_grant"})
        await broker.ask("POST", "/v1/grants/acme-2/retry")

        async def parked() -> bool:
            return bool((await broker.get("/v1/grants/acme-2"))["state"] == "parked")

        await until(parked)
        sandbox.rotating.faults.clear()
        assert (await broker.ask("POST", "/v1/providers/acme/retry"))[0] == 202
        assert (await broker.ask("POST", "/v1/grants/acme-2/retry"))[0] == 202

        listed = await broker.get("/v1/grants?limit=2")
        while listed["next"]:
            listed = await broker.get(f"/v1/grants?limit=2&cursor={listed['next']}")
        assert (await broker.get("/v1/providers"))["providers"]
        status, resealed, _ = await broker.ask("POST", "/v1/sealing/reseal")
        assert (status, resealed["old_keys_may_go"]) == (200, True)
        status, gone, _ = await broker.ask("DELETE", "/v1/grants/acme-acme")
        assert status == 200, gone
        assert "token_broker" in (await broker.get("/metrics"))["text"]
        assert (await broker.get("/healthz"))["checks"]["redis"]["status"] == "ok"

        async def revoked() -> bool:
            message = await subscription.get_message(ignore_subscribe_messages=True, timeout=1)
            if message is not None:
                heard.append(json.loads(message["data"])["event"])
            return "revoked" in heard

        await until(revoked)
        assert "refreshed" in heard
        assert [line for line in broker.events() if "error" in line and "denied access" in str(line["error"])] == []
    await channel_user.aclose()
    assert await denied(deployed) == []
    stored = b"".join(path.read_bytes() for path in (deployed.directory / "appendonlydir").iterdir())
    assert b"broker:{0}:grant:acme-one" in stored
    assert [s[:6] for s in sandbox.secrets() | {deployed.password} if len(s) > 5 and s.encode() in stored] == []


def used_by_the_broker() -> set[str]:
    """Every command that the scripts and the store send, by reading them."""
    store = ROOT / "broker" / "store"
    found: set[str] = set()
    for path in store.glob("lua/*.lua"):
        found |= set(re.findall(r"redis\.p?call\('([A-Z]+)'", path.read_text()))
    for path in store.rglob("*.py"):
        if path.name == "facts.py":
            continue  # asks what it may be refused
        text = path.read_text()
        found |= set(re.findall(r"redis\.p?call\('([A-Z]+)'", text))
        found |= set(re.findall(r"(?:\.call|execute_command|append|run)\(\s*\(?\s*\"([A-Z]+)\"", text))
        found |= set(re.findall(r"[\[(]\s*\(?\"([A-Z]{3,})\",\s*(?:self\._keys|keys|script\.sha|1|\"LOAD\")", text))
    if '("CLUSTER", "SLOTS")' in (store / "redis" / "locate.py").read_text():
        found.add("CLUSTER|SLOTS")
    return found


@pytest.mark.server
def test_broker_may_send_what_it_sends_and_no_more() -> None:
    """The commands of users.acl are those that stand in the scripts and the store, and what redis-py adds."""
    by_client = {"PING", "CLIENT|SETNAME", "PSUBSCRIBE"}
    of_move = {name for name, *_ in copying.NEEDED}
    text = USERS.read_text().replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("user broker "))
    allowed = {word[1:].upper() for word in line.split() if word.startswith("+")}
    used = used_by_the_broker()
    assert {"EVALSHA", "EVAL", "WAITAOF", "HMGET", "ZRANGEBYSCORE", "GET", "HKEYS", "TIME"} <= used
    assert used - allowed == set(), "add these to deploy/redis/users.acl"
    assert allowed - used - by_client - of_move == set(), "take these out of deploy/redis/users.acl"
    looked_for = {"|".join(line[:2]) if line[0] in {"CLIENT", "CLUSTER"} else line[0] for line in (*NEEDED, OF_CLUSTER)}
    assert looked_for | of_move == allowed, "`check` asks for other commands than users.acl grants"


async def test_broker_user_is_kept_to_its_own(deployed: Deployed) -> None:
    """Other keys, other channels and the server's own commands are not for the user `broker`."""
    async with deployed.of("broker") as client:
        assert await client.set("broker:{0}:flow:x", "1", ex=1)
        assert await client.publish("broker:tokens:g1", "x") == 0
        for command in (
            ("SET", "other", "1"),
            ("GET", "other:{0}:grant:x"),
            ("PUBLISH", "other:tokens:g1", "x"),
            ("PSUBSCRIBE", "*"),
            ("CONFIG", "GET", "*"),
            ("FLUSHALL",),
            ("KEYS", "*"),
            ("ACL", "LIST"),
            ("MONITOR",),
            ("SHUTDOWN",),
            ("SLOWLOG", "GET"),
            ("EVAL", "return redis.call('GET', 'other')", "0"),
        ):
            with pytest.raises(exceptions.ResponseError, match=r"permission|permissions|ACL"):
                await client.execute_command(*command)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("user", [None, "health", "video-wall"])
async def test_nobody_else_reads_or_publishes(deployed: Deployed, user: str | None) -> None:
    """Without a user, as `health` or as a consumer: no key is read or written, nothing published, nothing listed."""
    password = CONSUMER_PASSWORD if user == "video-wall" else "none"
    async with deployed.of(user, password) as client:
        for command in (
            ("GET", "broker:{0}:flow:x"),
            ("HGETALL", "broker:{0}:grant:g1"),
            ("SET", "broker:{0}:flow:x", "1"),
            ("PUBLISH", "broker:tokens:acme-1", "x"),
            ("PSUBSCRIBE", "broker:tokens:*"),
            ("KEYS", "*"),
            ("PSUBSCRIBE", "broker:tokens:acme-*"),
            ("SUBSCRIBE", "broker:tokens:other-1"),
            ("PUBSUB", "CHANNELS"),
            ("EVAL", "return redis.call('GET', 'broker:{0}:flow:x')", "1", "broker:{0}:flow:x"),
            ("INFO",),
        ):
            with pytest.raises(exceptions.RedisError, match=r"permission|Authentication required"):
                await client.execute_command(*command)  # type: ignore[no-untyped-call]
        if user is not None:
            assert await client.ping()
    async with deployed.of("default", deployed.password) as client:
        with pytest.raises(exceptions.AuthenticationError):
            await client.ping()


async def test_health_check_needs_no_secret(deployed: Deployed) -> None:
    """What docker-compose.yml asks as `health` is answered, by the cli where there is one."""
    async with deployed.of("health", "none") as client:
        assert await client.ping()
    cli = shutil.which("valkey-cli") or shutil.which("redis-cli")
    if cli is None:
        return
    asked = compose()["services"]["redis"]["healthcheck"]["test"][2:]
    healthy = await _ran(cli, "-p", str(deployed.port), *asked)
    assert healthy == (0, "PONG\n")
    refused = await _ran(cli, "-p", str(deployed.port), *(word.replace("health", "default") for word in asked))
    assert refused[0] != 0


async def _ran(*command: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_server_keeps_what_it_acknowledges(deployed: Deployed) -> None:
    """The settings that a broker's promises rest on are in force, and slow commands' arguments are not kept."""
    async with deployed.of("tester") as tester:
        for name, value in {
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "save": "",
            "slowlog-log-slower-than": "-1",
        }.items():
            assert (await tester.config_get(name))[name] == value


def test_password_stays_out_of_arguments_and_environment(deployed: Deployed) -> None:
    """The running server has the password neither in its arguments nor in its environment, and its ACL only a hash."""
    process = Path(f"/proc/{deployed.process.pid}")
    if not process.exists():
        pytest.skip("no /proc here")
    shown = process.joinpath("cmdline").read_bytes() + process.joinpath("environ").read_bytes()
    assert b"valkey-server" in shown or b"redis-server" in shown
    rendered = deployed.directory / "users.acl"
    assert rendered.stat().st_mode & 0o777 == 0o600
    for text in (shown, rendered.read_bytes()):
        assert deployed.password.encode() not in text
    assert "@BROKER_PASSWORD@" not in rendered.read_text()


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "is empty"), ("two words\n", "more than one word"), ("two\nlines\n", "more than one word"), (None, "chmod")],
)
def test_start_refuses_a_bad_password_file(tmp_path: Path, content: str | None, says: str) -> None:
    """A password file that the broker would read differently ends the start with the way out, and no echo of it."""
    if content is not None:
        (tmp_path / "password").write_text(content)
    process = start(tmp_path)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 78
    assert says in output
    assert "two" not in output
    assert not (tmp_path / "users.acl").exists()


def test_example_s_pattern_is_one_of_grant_ids() -> None:
    """The consumer of the example hears channels of grants that can exist."""
    channels = re.findall(r"&(\S+)", consumer_line())
    assert channels == ["broker:tokens:acme-*"]
    assert GRANT_ID.fullmatch("acme-1")
