"""A broker as a process of its own, where a case needs a clock, a time zone, or an environment of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.process.data_dir import sealing_keys
from broker.secret import Sealer, new_sealing_key
from broker.settings import Settings
from broker.settings import file as settings_file
from broker.store import open_store
from tests.ports import free_port
from tests.scripted_server import AuthorizationServer
from tests.waiting import until


def missing(what: str) -> None:
    """Skip where a tool of the tests is missing; in CI that is a fault."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI has no {what}")
    pytest.skip(f"no {what} here")


@dataclass(slots=True)
class Process:
    """A running `token-broker run`, and an admin who asks it."""

    popen: subprocess.Popen[bytes]
    folder: Path
    url: str
    session: aiohttp.ClientSession
    admin_key: str = ""
    secrets: set[str] = field(default_factory=set)
    killed: bool = False

    def kill(self) -> None:
        """SIGKILL: it gets no chance to finish anything."""
        self.killed = True
        self.popen.kill()
        self.popen.wait()

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any], Any]:
        """Status, JSON and headers of one request as admin."""
        headers = {"X-Broker-Key": self.admin_key, **options.pop("headers", {})}
        async with self.session.request(method, self.url + path, headers=headers, **options) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else {"text": text}, answer.headers

    async def get(self, path: str) -> dict[str, Any]:
        """JSON of a GET that must succeed."""
        status, body, _ = await self.ask("GET", path)
        assert status == 200, body
        return body

    async def put(self, grant: str, refresh_token: str, provider: str = "as") -> None:
        """Import a grant, without waiting for its first token."""
        body = {"provider": provider, "refresh_token": refresh_token}
        ends = time.monotonic() + 15
        while True:
            status, answer, _ = await self.ask("PUT", f"/v1/grants/{grant}", json=body)
            # The disk under Redis may keep it waiting for longer than a call may take; it is safe to say again.
            if answer.get("error") != "store_unavailable" or time.monotonic() > ends:
                break
        assert status in {200, 201}, answer

    async def has_token(self, grant: str) -> bool:
        """Whether a grant is at rest with a token."""
        state = await self.get(f"/v1/grants/{grant}")
        return state["expires_at"] is not None and state["state"] == "due"

    async def metrics(self) -> dict[tuple[str, str], float]:
        """All samples by name and the values of their labels, in the order of the labels' names."""
        text = (await self.ask("GET", "/metrics"))[1]["text"]
        return {
            (sample.name, " ".join(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def rss(self) -> int:
        """Bytes of memory it holds."""
        return int(Path(f"/proc/{self.popen.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """CPU time used so far."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log so far."""
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines() if line.startswith("{")]

    async def logged(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the lines of an event once there are *count*: a thread writes them, after what they tell of."""
        return list(await until(lambda: len(lines := self.lines(event)) >= count and lines))

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of an event so far; another may be on its way to the file."""
        return [line for line in self.log if line["event"] == event]

    async def hang_up(self, event: str = "settings.reloaded") -> dict[str, Any]:
        """Send SIGHUP; return what it logs of it."""
        before = len(self.lines(event))
        self.popen.send_signal(signal.SIGHUP)
        return (await self.logged(event, before + 1))[-1]

    async def keeps(self, auth_server: AuthorizationServer) -> None:
        """Nothing was reused at *auth_server*, and what is stored is what lives there."""
        settings = await asyncio.to_thread(settings_file.load, self.folder / "broker.toml")
        await until(lambda: stored_is_live(settings, auth_server))
        assert auth_server.reuse == 0
        self.secrets |= auth_server.secrets()

    async def check_secrets(self) -> None:
        """Check that it lives, and that no secret stands in its log, its metrics or its arguments."""
        assert self.popen.poll() is None, (self.folder / "log").read_text()[-2000:]
        assert (await self.ask("GET", "/healthz"))[0] == 200
        metrics = (await self.ask("GET", "/metrics"))[1]["text"]
        log = (self.folder / "log").read_text()
        arguments = Path(f"/proc/{self.popen.pid}/cmdline").read_text()
        leaked = [
            s[:6] for s in {*self.secrets, self.admin_key} if any(s in text for text in (metrics, log, arguments))
        ]
        assert not leaked
        assert "Traceback" not in log


def write_settings(folder: Path, tables: Mapping[str, Mapping[str, Any]], top: Mapping[str, Any]) -> Path:
    """Return a settings file; JSON's scalars and lists are TOML's too."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in top.items()]
    for table, values in tables.items():
        lines += ["", f"[{table}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    path = folder / "broker.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


async def stored_is_live(settings: Settings, *servers: AuthorizationServer) -> bool:
    """Whether the refresh tokens in the store are the servers' live ones, but for those nobody could hear of."""
    async with open_store(settings.redis, Sealer(sealing_keys(settings)), data_dir=settings.data_dir) as store:
        for server in servers:
            for grant in server.live.keys() - server.unheard:
                held = await store.grants.refresh_token(grant)
                if held is None or held[1].reveal().encode("utf-8", "surrogateescape") != server.live[grant]:
                    print(f"{grant}: what is stored is not the authorization server's live refresh token")
                    return False
    return True


@contextlib.asynccontextmanager
async def broker_process(
    folder: Path,
    redis_url: str,
    providers: Mapping[str, Mapping[str, Any]],
    *,
    env: Mapping[str, str] | None = None,
    through: Sequence[str] = (),
    refresh: Mapping[str, Any] | None = None,
    http: Mapping[str, Any] | None = None,
    namespace: str = "broker",
    module: str = "broker",
) -> AsyncIterator[Process]:
    """Run a broker with these settings, this environment and, if wanted, *through* another program."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = folder.parent / "sealing.keys"
    if not keys.exists():
        keys.write_text(new_sealing_key() + "\n")
    port = free_port()
    tables: dict[str, Mapping[str, Any]] = {
        "http": {
            "listen": [f"127.0.0.1:{port}"],
            "public_url": f"http://127.0.0.1:{port}",
            "drain_delay": "0s",
            **(http or {}),
        },
        "redis": {"url": redis_url, "namespace": namespace},
        "sealing": {"keys_file": str(keys)},
        "refresh": {"request_timeout": "5s", "lease": "11s", **(refresh or {})},
        "log": {"format": "json"},
        **{f"providers.{name}": provider for name, provider in providers.items()},
    }
    settings = write_settings(folder, tables, {"data_dir": str(folder / "data")})
    command = [*through, sys.executable, "-m", module, "run", "--config", str(settings)]
    with (folder / "log").open("wb") as log:
        popen = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(env or {})})
    try:
        # A server whose clock jumps must not look like one that closes kept connections.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            process = Process(popen, folder, f"http://127.0.0.1:{port}", session)

            async def ready() -> bool:
                assert popen.poll() is None, (folder / "log").read_text()[-2000:]
                try:
                    return (await process.ask("GET", "/readyz"))[0] == 200
                except aiohttp.ClientError:
                    return False

            await until(ready, 60, 0.05)
            process.admin_key = (folder / "data" / "admin.key").read_text().strip()
            yield process
            if not process.killed:
                await process.check_secrets()
    finally:
        print((folder / "log").read_text()[-6000:])  # pytest shows it where a test failed
        popen.terminate()
        try:
            await until(lambda: popen.poll() is not None, 30)
        finally:
            popen.kill()
            popen.wait()


async def command(broker: Process, *arguments: str, through: tuple[str, ...] = (), **options: Any) -> tuple[int, str]:
    """Run a command of ours beside a broker; its exit code and all that it said."""
    process = await asyncio.create_subprocess_exec(
        *[*through, sys.executable, "-m", "broker", *arguments, "--config", str(broker.folder / "broker.toml")],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        **options,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, out.decode("utf-8", "replace")
