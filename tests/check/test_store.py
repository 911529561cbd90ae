"""The findings of `check --online` about Redis: each kind, from a server that is really like that."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from broker.check.finding import Finding, exit_code
from broker.check.store import check_store
from broker.errors import InvalidSettings
from broker.secret import Sealer
from broker.settings import Redis
from broker.store import open_store
from broker.store.facts import fetch_facts
from tests.deploy.deployment import USERS
from tests.nonsense import NONSENSE
from tests.ports import free_port
from tests.redis_server import RedisServer, start_redis
from tests.regressions.process import missing
from tests.waiting import meanwhile, until

OLD, NEW = b"o" * 32, b"n" * 32
StartRedis = Callable[..., RedisServer]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StartRedis]:
    """Return a function that starts servers with the test's own options."""
    started: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        directory = tmp_path / f"redis{len(started)}"
        directory.mkdir()
        started.append(start_redis(directory, None, *options))
        return started[-1]

    yield start
    for each in started:
        each.kill()


async def found(
    url: str,
    tmp_path: Path,
    *,
    keys: tuple[bytes, ...] = (NEW,),
    known: str | None = None,
    password: str | None = None,
    listen: float = 0.05,
    **settings: Any,
) -> list[Finding]:
    """Return the findings of the server at *url*."""
    redis = Redis(url=url, **settings)
    facts = await fetch_facts(redis, Sealer(keys), data_dir=tmp_path, password=password, listen=listen)
    return list(check_store(facts, redis, known))


def only(findings: list[Finding], *levels: str) -> list[str]:
    """Return what is found at these levels, by default all but ok."""
    return [
        finding.what for finding in findings if finding.level in (levels or ("error", "failed", "warning", "unknown"))
    ]


async def started(url: str, tmp_path: Path, key: bytes = NEW, **settings: Any) -> str:
    """Make a broker's store there; return its id."""
    async with open_store(Redis(url=url, **settings), Sealer([key]), data_dir=tmp_path) as store:
        await store.identify()
        return store.store_id


@contextlib.asynccontextmanager
async def client(server: RedisServer) -> AsyncIterator[Client]:
    async with Client(port=server.port, protocol=2) as made:
        yield made


async def test_nothing_wrong(server: StartRedis, tmp_path: Path) -> None:
    """A good server causes no finding but ok, and the check changes no key."""
    redis = server()
    store = await started(redis.url, tmp_path)
    async with client(redis) as asked:
        before = {key: await asked.dump(key) for key in await asked.keys("*")}
        findings = await found(redis.url, tmp_path, known=store)
        assert only(findings) == []
        said = " ".join(finding.what for finding in findings)
        assert "the broker's user may send every command" in said
        assert "appendonly, appendfsync always" in said
        assert "its first key opens what is stored" in said
        assert {key: await asked.dump(key) for key in await asked.keys("*")} == before


@pytest.mark.parametrize(
    ("options", "what", "mend"),
    [
        (("--appendonly", "no"), "appendonly is off", "CONFIG SET appendonly yes"),
        (("--appendfsync", "no"), "appendfsync is no", "CONFIG SET appendfsync always"),
        (("--maxmemory-policy", "allkeys-lru"), "maxmemory-policy is allkeys-lru", "noeviction"),
        (("--maxmemory-policy", "volatile-ttl"), "maxmemory-policy is volatile-ttl", "noeviction"),
    ],
)
async def test_server_that_may_lose(
    server: StartRedis, tmp_path: Path, options: tuple[str, ...], what: str, mend: str
) -> None:
    """Each setting that lets Redis lose acknowledged writes is one warning, with the command that cures it."""
    redis = server(*options)
    (finding,) = [f for f in await found(redis.url, tmp_path) if f.level != "ok"]
    assert (finding.level, finding.what) == ("warning", what)
    assert mend in finding.cure
    assert finding.why
    async with client(redis) as asked:
        words = finding.cure.split()
        await asked.execute_command(*words)  # type: ignore[no-untyped-call]
    assert only(await found(redis.url, tmp_path)) == []


async def test_replicas(server: StartRedis, tmp_path: Path) -> None:
    """Replicas without min-replicas-to-write, and fewer than redis.replicas, cause a warning each."""
    redis = server()
    server("--replicaof", f"127.0.0.1 {redis.port}")
    async with client(redis) as asked:

        async def connected() -> bool:
            return int((await asked.info("replication"))["connected_slaves"]) == 1

        await until(connected)
        assert only(await found(redis.url, tmp_path, replicas=2)) == [
            "1 replicas are connected, redis.replicas is 2",
            "1 replicas, but min-replicas-to-write is 0",
        ]
        await asked.config_set("min-replicas-to-write", 1)
    assert only(await found(redis.url, tmp_path, replicas=1)) == []


async def test_a_replica_is_no_store(server: StartRedis, tmp_path: Path) -> None:
    """A URL that names a replica fails, in the words that a broker there would wait with."""
    redis = server()
    replica = server("--replicaof", f"127.0.0.1 {redis.port}")
    (finding,) = await found(replica.url, tmp_path)
    assert (finding.level, finding.what) == ("failed", "Redis is a read-only replica")
    assert exit_code([finding], strict=False) == 1


def acl(*, without: str = "", more: str = "") -> str:
    """Return the rules of the deployed user `broker`, changed as the test wants, with the password `pw`."""
    text = USERS.read_text().replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("user broker "))
    return line.replace("@BROKER_PASSWORD@", ">pw").replace(without, "").removeprefix("user ") + more


async def as_user(redis: RedisServer, rules: str) -> str:
    """Give the server a user `broker`; return the URL with it."""
    async with client(redis) as asked:
        await asked.execute_command("ACL", "SETUSER", *rules.split())  # type: ignore[no-untyped-call]
    return redis.url.replace("redis://", "redis://broker@")


async def test_managed_server(server: StartRedis, tmp_path: Path) -> None:
    """The deployed user may not send CONFIG: `unknown`, which is no fault; everything else is known anyway."""
    url = await as_user(server(), acl())
    findings = await found(url, tmp_path, password="pw")
    assert [(finding.level, finding.what) for finding in findings if finding.level != "ok"] == [
        ("unknown", "appendfsync")
    ]
    assert "the broker's user may send every command" in " ".join(finding.what for finding in findings)


@pytest.mark.parametrize("command", ["+waitaof", "+hset ", "+psubscribe", "+scan", "+eval ", "+info"])
async def test_user_without_a_command(server: StartRedis, tmp_path: Path, command: str) -> None:
    """Each command that the broker's user lacks is named, with the words that grant it."""
    url = await as_user(server(), acl(without=command))
    findings = await found(url, tmp_path, password="pw")
    name = command.strip().removeprefix("+")
    if name == "eval":
        assert "whether the broker's user may send every command that a broker sends" in only(findings, "unknown")
        return
    (denied,) = [finding for finding in findings if "may not send" in finding.what]
    channels = "; PSUBSCRIBE on the channels broker:tokens:*" if name == "psubscribe" else ""
    assert (denied.level, denied.what) == ("failed", f"the broker's user may not send {name.upper()}{channels}")
    assert f"+{name}" in denied.cure


async def test_user_without_channels(server: StartRedis, tmp_path: Path) -> None:
    """Redis 7 gives a new user no channels: the finding names them, and its words grant them."""
    redis = server()
    url = await as_user(redis, "broker on >pw ~* +@all")
    (denied,) = [finding for finding in await found(url, tmp_path, password="pw") if "may not send" in finding.what]
    assert "PSUBSCRIBE and PUBLISH on the channels broker:tokens:*" in denied.what
    rules = denied.cure.partition("ACL SETUSER … ")[2].partition(",")[0]
    await as_user(redis, f"broker {rules}")
    assert not [f for f in await found(url, tmp_path, password="pw") if "may not send" in f.what]


@pytest.mark.parametrize("narrower", [" resetkeys ~other:*", " resetchannels &other:*"])
async def test_user_of_another_namespace(server: StartRedis, tmp_path: Path, narrower: str) -> None:
    """A user with another namespace's keys or channels cannot work here, and the finding says so."""
    url = await as_user(server(), acl(more=narrower))
    (denied,) = [f for f in await found(url, tmp_path, password="pw") if f.level == "failed"]
    assert "may not send" in denied.what or "denied access" in denied.what


@pytest.mark.parametrize("schema", ["2", "0", "abc", "1.5", "", "1\n", "\xff", "9" * 400])
async def test_a_schema_of_another_version(server: StartRedis, tmp_path: Path, schema: str) -> None:
    """`check` finds what `run` refuses, whatever stands there, and both name the two versions."""
    redis = server()
    async with open_store(Redis(url=redis.url), Sealer((NEW,)), data_dir=tmp_path) as store:
        await store.identify()
        await store.primary.call("HSET", "broker:{0}:meta", "schema", schema.encode("latin-1"))
        with pytest.raises(InvalidSettings, match="this version reads 1") as refusal:
            await store.identify()
    (finding,) = [f for f in await found(redis.url, tmp_path) if f.level == "error"]
    assert "this version reads 1" in finding.what
    assert "run the version that wrote it" in finding.cure
    assert finding.what.partition("has schema")[2] in str(refusal.value)


async def test_wrong_password(server: StartRedis, tmp_path: Path) -> None:
    """A rejected password is a failed connection; the finding does not repeat it."""
    url = await as_user(server(), acl())
    (finding,) = await found(url, tmp_path, password="not-this-one")
    assert (finding.level, "denied access" in finding.what) == ("failed", True)
    assert "not-this-one" not in str(finding)


async def test_nobody_answers(tmp_path: Path) -> None:
    """Without a server there is one finding, and no long wait."""
    (finding,) = await asyncio.wait_for(found(f"redis://:PASSWORD@127.0.0.1:{free_port()}/0", tmp_path), 10)
    assert str(finding).startswith("failed: redis: Redis cannot be reached")
    assert "PASSWORD" not in str(finding)


async def test_old_server(tmp_path: Path) -> None:
    """A Redis before 7.2 causes a warning of what cannot be proved."""
    binary = shutil.which("redis-server")
    if binary is None:
        missing("redis-server")
    assert binary
    ran = await asyncio.to_thread(subprocess.run, [binary, "--version"], capture_output=True, text=True, check=True)
    version = ran.stdout
    if " v=7.0" not in version and " v=6" not in version:
        pytest.skip(f"redis-server is no older one: {version}")
    port = free_port()
    process = subprocess.Popen(
        [binary, "--port", str(port), "--dir", str(tmp_path), "--appendonly", "yes", "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:

        async def answered() -> list[Finding] | None:
            findings = await found(f"redis://127.0.0.1:{port}/0", tmp_path)
            return findings if findings[0].level == "ok" else None

        findings = await until(answered)
        assert any("cannot prove that a commit is on its disk" in what for what in only(findings, "warning"))
    finally:
        process.kill()
        process.wait()


async def test_keys(server: StartRedis, tmp_path: Path) -> None:
    """The first key opens what is stored, or another, or none; each finding names the next step."""
    redis = server()
    await started(redis.url, tmp_path, OLD)
    assert only(await found(redis.url, tmp_path, keys=(OLD, NEW))) == []
    (other,) = [f for f in await found(redis.url, tmp_path, keys=(NEW, OLD)) if f.level != "ok"]
    assert (other.level, "keys reseal" in other.cure) == ("warning", True)
    (none,) = [f for f in await found(redis.url, tmp_path, keys=(NEW,)) if f.level != "ok"]
    assert (none.level, none.what) == ("error", "none of its keys opens what is stored")


async def test_another_store(server: StartRedis, tmp_path: Path) -> None:
    """An emptied server fails, and so does another store, if this broker knows one."""
    redis = server()
    (empty,) = only(await found(redis.url, tmp_path, known="abc"), "failed")
    assert "is empty, but this broker knows store abc" in empty
    store = await started(redis.url, tmp_path)
    (foreign,) = only(await found(redis.url, tmp_path, known="abc"), "failed")
    assert f"holds another store ({store})" in foreign
    assert only(await found(redis.url, tmp_path)) == []


async def test_foreign_store_on_the_namespace_s_channels(server: StartRedis, tmp_path: Path) -> None:
    """Two environments in two databases of one server with one namespace: the other's messages are noticed."""
    redis = server()
    own = await started(redis.url, tmp_path)
    other = await started(redis.url.replace("/0", "/1"), tmp_path)

    async with client(redis) as asked:

        async def publish() -> None:
            no_store = [odd for odd in NONSENSE if b'"store": "' not in odd]
            stores = [json.dumps({"store": store}).encode() for store in (own, other)]
            for message in (*no_store, *stores, b"no JSON"):
                await asked.publish("broker:tokens:g1", message)

        async with meanwhile(publish, 0.02):
            findings = await found(redis.url, tmp_path, known=own, listen=0.5)
            elsewhere = await found(redis.url, tmp_path, listen=0.3, namespace="other")
    assert only(findings) == [f"another store ({other}) publishes on this namespace's channels"]
    assert only(elsewhere) == []


@pytest.mark.server
async def test_embedded_store(tmp_path: Path) -> None:
    """A check does not start an embedded store that does not run; it queries one that runs."""
    (finding,) = await found("embedded:", tmp_path)
    assert (finding.level, "is not running" in finding.what) == ("ok", True)
    assert list(tmp_path.iterdir()) == []
    async with open_store(Redis(url="embedded:"), Sealer([NEW]), data_dir=tmp_path) as store:
        await store.identify()
        findings = await found("embedded:", tmp_path, known=store.store_id)
        assert only(findings) == []
        assert "its first key opens what is stored" in [finding.what for finding in findings]
