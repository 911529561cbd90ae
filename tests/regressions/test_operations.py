"""How hosts were seen to be: locales, read-only roots, IPv6, swapped secrets, files without locks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.conftest import StartBroker
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.regressions.conftest import provider_at
from tests.regressions.process import Process, broker_process, command, missing
from tests.scripted_server import CLIENT_SECRET, AuthorizationServer, Exchange, says, success
from tests.waiting import until

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
Start = Callable[..., contextlib.AbstractAsyncContextManager[Process]]


@pytest.fixture
def start(tmp_path: Path, shared_redis: RedisServer, redis: Redis, auth_server: AuthorizationServer) -> Start:
    """Return a broker process whose provider is a scripted authorization server."""

    @contextlib.asynccontextmanager
    async def started(*, provider: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Process]:
        providers = {"as": provider_at(auth_server, **(provider or {}))}
        async with broker_process(tmp_path / "broker", shared_redis.url, providers, **options) as broker:
            yield broker

    return started


async def test_c_locale(start: Start, redis: Redis, auth_server: AuthorizationServer, tmp_path: Path) -> None:
    """In a C locale everything is read as UTF-8 and printed; what a server says in Japanese is no fault."""
    env = {**os.environ, **C_LOCALE}
    async with start(env=C_LOCALE, provider={"scope": "z\u00fcrich"}, refresh={"import_spread": "0s"}) as broker:
        text = (broker.folder / "broker.toml").read_text()
        (broker.folder / "broker.toml").write_text("# Z\u00fcrich\n" + text, "utf-8")
        line = {"grant_id": "g1", "provider": "as", "refresh_token": auth_server.issue("g1"), "note": "Z\u00fcrich"}
        (tmp_path / "lines").write_text(json.dumps(line, ensure_ascii=False) + "\n", "utf-8")
        assert await command(broker, "import", str(tmp_path / "lines"), env=env) == (0, "1 created\n")
        await until(lambda: broker.has_token("g1"))
        refused = {"error": "invalid_grant", "error_description": "\u8981\u6c42\u304c\u7121\u52b9\u3067\u3059 \u2028"}
        auth_server.script.append(says(json.dumps(refused, ensure_ascii=False), 400))
        await redis.zadd("broker:{0}:due:as", {"g1": 0.0})
        await until(lambda: _state(broker, "g1", "parked"))
        asked = (("explain", "g1"), ("status",), ("status", "--json"))
        for code, said in await asyncio.gather(*(command(broker, *words, env=env) for words in asked)):
            assert "Traceback" not in said
            assert "UnicodeEncodeError" not in said
            assert code in {0, 77}, said
        await broker.logged("grant.parked")


async def _state(broker: Process, grant: str, state: str) -> bool:
    return bool((await broker.get(f"/v1/grants/{grant}"))["state"] == state)


async def test_read_only_root(start: Start, redis: Redis, auth_server: AuthorizationServer, tmp_path: Path) -> None:
    """With nothing writable but data_dir, no HOME and a user without a name, run, check and the others work."""
    if shutil.which("bwrap") is None:
        missing("bwrap")
    data = tmp_path / "broker" / "data"
    data.mkdir(parents=True, mode=0o700)
    through = (
        *["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--ro-bind"],
        *[str(tmp_path), str(tmp_path), "--bind", str(data), str(data)],
        *[
            "--remount-ro",
            "/dev",
            "--unsetenv",
            "HOME",
            "--unshare-user",
            "--uid",
            "12345",
            "--gid",
            "12345",
            "--die-with-parent",
        ],
    )
    if (await asyncio.to_thread(subprocess.run, [*through, "true"], capture_output=True)).returncode:
        missing("user namespaces")
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(data)}
    async with start(through=through) as broker:
        await broker.put("g1", auth_server.issue("g1"))
        await until(lambda: broker.has_token("g1"))
        settings = [command(broker, *words, through=through) for words in (("check",), ("health",), ("status",))]
        alone = [_outside(through, broker, "caller", "new", "wall"), _outside(through, broker, "demo")]
        *good, (demo, words) = await asyncio.gather(*settings, *alone)
        for code, said in good:
            assert code == 0, said
        assert (demo, "TMPDIR" in words, "Traceback" in words) == (78, True, False), words
    new = {path for path in tmp_path.rglob("*") if not path.is_relative_to(data)} - before
    assert {path.name for path in new} <= {"broker.toml", "log", "sealing.keys"}, "the tests' own files alone"


async def _outside(through: tuple[str, ...], broker: Process, *arguments: str) -> tuple[int, str]:
    """Run a command that takes no settings; return its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *[*through, sys.executable, "-m", "broker", *arguments],
        cwd=broker.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode is not None
    return process.returncode, out.decode()


LISTENS = {
    "[::]:{port}": ["[::1]"],
    "[::1]:{port} 127.0.0.1:{port}": ["[::1]", "127.0.0.1"],
    "[::]:{port} 0.0.0.0:{port}": ["[::1]", "127.0.0.1"],
    "localhost:{port}": ["localhost"],
    "[::1]:{port}": ["[::1]"],
}


@pytest.mark.parametrize("listen", LISTENS)
async def test_ipv6(start_broker: StartBroker, auth_server: AuthorizationServer, tmp_path: Path, listen: str) -> None:
    """IPv4 and IPv6 as the addresses say, both on one port; Host may be [::1], and `health` finds the way."""
    if not Path("/proc/net/if_inet6").exists():
        missing("IPv6")
    port, hosts = free_port(), LISTENS[listen]
    addresses = listen.format(port=port).split()
    http = {"listen": [f"127.0.0.1:{free_port()}", *addresses], "allow_plain_http": True}
    async with start_broker(http=http, providers={"as": provider_at(auth_server)}) as broker:
        for host in hosts:
            async with broker.session.get(f"http://{host}:{port}/healthz") as answer:
                assert answer.status == 200, host
        if hosts == ["[::1]"]:
            with pytest.raises(aiohttp.ClientError):
                await broker.session.get(f"http://127.0.0.1:{port}/healthz")
            settings = tmp_path / "v6.toml"
            lines = ["[http]", "allow_plain_http = true", f'listen = ["{addresses[0]}"]', '[redis]\nurl = "embedded:"']
            settings.write_text("\n".join(lines))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "broker", "health", "--config", str(settings), stdout=asyncio.subprocess.DEVNULL
            )
            assert await process.wait() == 0


async def test_no_ipv6(tmp_path: Path) -> None:
    """Where there is no IPv6, an address of it is named, with what to do: exit 78."""
    if shutil.which("unshare") is None:
        missing("unshare")
    settings = tmp_path / "broker.toml"
    settings.write_text(
        f'data_dir = "{tmp_path}/data"\n[http]\nlisten = ["[::1]:8080"]\n[redis]\nurl = "embedded:"\n', "utf-8"
    )
    off = "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 && ip link set lo up"
    script = f"{off} || exit 99; exec {sys.executable} -m broker run --config {settings}"
    process = await asyncio.create_subprocess_exec(
        "unshare", "-rn", "sh", "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    if process.returncode == 99:
        missing("a network namespace without IPv6")
    assert process.returncode == 78, out
    assert b"http.listen: cannot listen on [::1]:8080" in out
    assert b"Traceback" not in out


def swap(folder: Path, generation: str, **files: str) -> None:
    """Mount secrets as Kubernetes does: a directory beside, and a link that is renamed over the old one."""
    (folder / generation).mkdir(parents=True)
    for name, text in files.items():
        (folder / generation / name).write_text(text + "\n")
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..new").symlink_to(generation)
    (folder / "..new").replace(folder / "..data")


@pytest.mark.parametrize("hang_up", [False, True])
async def test_mounted_secrets_are_swapped(
    start: Start, redis: Redis, auth_server: AuthorizationServer, tmp_path: Path, hang_up: bool
) -> None:
    """A new client secret is taken up by the next request or probe, a caller's new key by SIGHUP."""
    secrets = tmp_path / "secrets"
    swap(secrets, "..1", client=CLIENT_SECRET, caller="first-key-0123456789-0123456789-0123456789")
    accepted = [CLIENT_SECRET]
    usual = success()

    async def checked(exchange: Exchange) -> bool | None:
        form = exchange.request.parameters
        if form.get("client_secret") == accepted[0]:
            return await usual(exchange)
        return await says({"error": "invalid_client"}, 401)(exchange)

    auth_server.usual = checked
    provider = {
        "client_secret": None,
        "client_secret_file": str(secrets / "client"),
        "token_endpoint_auth_method": "client_secret_post",
    }
    async with start(provider=provider) as broker:
        text = (broker.folder / "broker.toml").read_text()
        caller = f'\n[callers.wall]\nkey_file = "{secrets}/caller"\nread = ["*"]\n'
        (broker.folder / "broker.toml").write_text(text + caller)
        await broker.hang_up()
        await broker.put("g1", auth_server.issue("g1"))
        await until(lambda: broker.has_token("g1"))
        accepted[0] = "another-client-secret-0123456789"
        broker.secrets |= {
            accepted[0],
            CLIENT_SECRET,
            "first-key-0123456789-0123456789-0123456789",
            "second-key-0123456789-0123456789-0123456789",
        }
        swap(secrets, "..2", client=accepted[0], caller="second-key-0123456789-0123456789-0123456789")
        if hang_up:
            await broker.hang_up()
        asked = len(auth_server.requests_of("g1"))
        await redis.zadd("broker:{0}:due:as", {"g1": 0.0})
        await until(
            lambda: (
                len(auth_server.requests_of("g1")) > asked
                and auth_server.requests_of("g1")[-1].parameters["client_secret"] == accepted[0]
            ),
            15,
        )
        await until(lambda: broker.has_token("g1"))
        for key, status in (
            ("first-key-0123456789-0123456789-0123456789", 401 if hang_up else 200),
            ("second-key-0123456789-0123456789-0123456789", 200 if hang_up else 401),
        ):
            headers = {"X-Broker-Key": key}
            assert (await broker.ask("GET", "/v1/grants/g1/token", headers=headers))[0] == status
        await broker.keeps(auth_server)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("error=ENOLCK", "No locks available"),
        ("error=ENOSYS", "Function not implemented"),
        ("retval=0", "succeeds"),
    ],
)
async def test_files_that_do_not_lock(tmp_path: Path, fault: str, words: str) -> None:
    """A file system that cannot lock, or says yes to everybody, is named with its directory: exit 78."""
    if shutil.which("strace") is None:
        missing("strace")
    settings = tmp_path / "broker.toml"
    listen = f"127.0.0.1:{free_port()}"
    settings.write_text(
        f'data_dir = "{tmp_path}/data"\n[http]\nlisten = ["{listen}"]\npublic_url = "http://{listen}"\n'
        '[redis]\nurl = "embedded:"\n'
    )
    (tmp_path / "data").mkdir(mode=0o700)

    async def traced(asked: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *["strace", "-f", "-qq", "-o", str(tmp_path / asked), "-e", "trace=flock", "-e", f"inject=flock:{fault}"],
            sys.executable,
            "-m",
            "broker",
            asked,
            "--config",
            str(settings),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 25)
        return process.returncode, out.decode()

    for code, said in await asyncio.gather(traced("run"), traced("check")):
        if "ptrace" in said:
            missing("ptrace")
        assert code == 78, said
        assert f"{tmp_path}/data" in said
        assert words in said
        assert "Traceback" not in said


_REWRITING = """
import os, random, signal, sys, time
from pathlib import Path
from broker.process.data_dir import write_private
path, texts = Path(sys.argv[1]), ("long " * 5000, "short")
write_private(path, texts[0])
for _ in range(100):
    child = os.fork()
    if not child:
        while True:
            for text in texts:
                write_private(path, text)
    time.sleep(random.uniform(0, 0.01))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert path.read_text() in texts, "a mixture"
    assert path.stat().st_mode & 0o777 == 0o600
"""


async def test_killed_while_rewriting(tmp_path: Path) -> None:
    """A file of ours is one whole text or another, at whatever moment its writer is killed."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _REWRITING, str(tmp_path / "admin.key"))
    assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_two_replicas_on_one_data_dir(
    start: Start, start_broker: StartBroker, redis: Redis, auth_server: AuthorizationServer
) -> None:
    """Replicas that share a data_dir never write one journal file."""
    async with start() as one:
        settings = {"providers": {"as": provider_at(auth_server)}, "data_dir": one.folder / "data"}
        keys = one.folder.parent / "sealing.keys"
        async with start_broker(sealing={"keys_file": keys}, **settings) as two:
            for grant in ("g1", "g2", "g3"):
                await one.put(grant, auth_server.issue(grant))
                await until(lambda: one.has_token(grant))
            assert (await two.token("g1"))["access_token"] == auth_server.access["g1"]
            journals = [path for path in (one.folder / "data" / "journal").iterdir() if path.suffix != ".lock"]
            assert len(journals) >= 2
            two.secrets |= auth_server.secrets()
        await one.keeps(auth_server)
