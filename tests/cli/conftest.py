"""The commands as people run them: real processes, against a broker that is a process too."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.sandbox import Sandbox
from tests.conftest import provider_settings
from tests.ports import free_port
from tests.waiting import until

COMMAND = str(Path(sys.executable).with_name("token-broker"))
_PATIENCE = 30


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@dataclass(slots=True)
class Home:
    """A directory with a settings file, and the processes started in it."""

    directory: Path
    url: str
    sandbox: Sandbox
    started: list[subprocess.Popen[Any]]
    env: dict[str, str]
    logs: list[Path] = field(default_factory=list)

    @property
    def settings(self) -> Path:
        return self.directory / "broker.toml"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def write(self, more: str = "", *, http: str = "", redis: str = 'url = "embedded:"', top: str = "") -> None:
        """Write the settings: the sandbox's three providers, and what the test adds."""
        lines = [
            "# M\u00fcnchen",
            top or 'data_dir = "data"',
            "[http]",
            f'listen = ["{self.url.removeprefix("http://")}"]',
            f'public_url = "{self.url}"',
            http or 'drain_delay = "0s"',
            "[redis]",
            redis,
        ]
        for name, provider in provider_settings(self.sandbox).items():
            lines += [f"[providers.{name}]", *(f'{key} = "{value}"' for key, value in provider.items())]
        self.settings.write_text("\n".join([*lines, more]), "utf-8")

    def start(self, *arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command; pipes for all three streams unless *options* say otherwise."""
        streams: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | options
        # SIGINT as a terminal's shell leaves it: tests that run in the background would hand on that it is ignored.
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [COMMAND, *arguments],
            cwd=self.directory,
            env=self.env | (env or {}),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads
            bufsize=0,  # whoever reads lines takes nothing away from whoever reads the rest
            **streams,
        )
        self.started.append(process)
        return process

    async def ended(self, process: subprocess.Popen[bytes], stdin: bytes = b"") -> Done:
        """Wait for a process that was started; the sandbox, in our loop, goes on meanwhile."""
        out, err = await asyncio.to_thread(process.communicate, stdin, _PATIENCE)
        return Done(process.returncode, (out or b"").decode(), (err or b"").decode())

    async def __call__(self, *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Done:
        """Run a command to its end."""
        done = await self.ended(self.start(*arguments, env=env), stdin)
        assert "Traceback" not in done.err, done.err
        return done

    async def each(self, commands: Iterable[Sequence[str]], env: dict[str, str] | None = None) -> list[Done]:
        """Run commands to their ends, few at a time: each has to end in time, on a slow machine too."""
        free = asyncio.Semaphore(3)

        async def one(arguments: Sequence[str]) -> Done:
            async with free:
                return await self(*arguments, env=env)

        return await asyncio.gather(*map(one, commands))

    async def run(self, *, ready: bool = True, **options: Any) -> subprocess.Popen[bytes]:
        """Start `token-broker run`, its log in a file, and wait until it is ready."""
        path = self.directory / f"run{len(self.logs)}.log"
        self.logs.append(path)
        with path.open("wb") as log:
            process = self.start("run", stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)
        if ready:
            await until(lambda: self.status("/readyz", 200, process), timeout=20)
        return process

    async def status(self, path: str, wanted: int, process: subprocess.Popen[bytes] | None = None) -> bool:
        """Whether the broker answers *path* with the status *wanted*."""
        assert process is None or process.poll() is None, self.log()
        return (await self.get(path))[0] == wanted

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text of a GET; 0 when nobody answers."""
        key = self.data / "admin.key"
        headers = {"X-Broker-Key": key.read_text().strip()} | headers if key.exists() else headers
        try:
            async with aiohttp.ClientSession() as session, session.get(self.url + path, headers=headers) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    def log(self) -> str:
        """Everything that any `run` wrote."""
        return "".join(path.read_text() for path in self.logs)

    async def stop(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
        """End a process by a signal; its exit code."""
        process.send_signal(number)
        return await asyncio.to_thread(process.wait, _PATIENCE)

    def left_behind(self) -> list[int]:
        """Return processes that work in our directory."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(self.directory):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


@pytest.fixture
async def home(sandbox: Sandbox, ended: list[subprocess.Popen[Any]]) -> AsyncIterator[Home]:
    """Yield a home with good settings and nothing running; at the end nothing is left, and no secret was logged."""
    directory = Path(tempfile.mkdtemp(prefix="tb-"))  # short: a socket's path is bounded
    others = ("TOKEN_BROKER_", "COLUMNS", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith(others)}
    made = Home(directory, f"http://127.0.0.1:{free_port()}", sandbox, ended, env)
    made.write()
    try:
        yield made
        for process in ended:
            if process.poll() is None:
                await made.stop(process)
        log = made.log()
        leaked = [secret[:6] for secret in sandbox.secrets() if len(secret) > 5 and secret in log]
        assert not leaked, "secrets in the log"
        assert "Traceback" not in log, log
        assert not made.left_behind()
    finally:
        print(made.log())
        for process in ended:
            if process.poll() is None:
                process.kill()
        for pid in made.left_behind():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)


def lines(text: str) -> Sequence[str]:
    """Return the lines of a text, without those that are empty."""
    return [line for line in text.splitlines() if line.strip()]


async def read_until(process: subprocess.Popen[bytes], beginning: str) -> list[str]:
    """Return the lines of a process's standard output up to the first with this *beginning*."""
    assert process.stdout is not None
    read: list[str] = []
    while not (read and read[-1].startswith(beginning)):
        line = (await asyncio.to_thread(process.stdout.readline)).decode()
        assert line, f"it ended without {beginning!r}: {read} {process.stderr.read() if process.stderr else b''!r}"
        read.append(line)
    return read


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def line(home: Home, grant: str, **more: object) -> str:
    """Return a line of an import with a live refresh token."""
    token = home.sandbox.rotating.issue().refresh_token
    return json.dumps({"grant_id": grant, "provider": "acme", "refresh_token": token} | more, ensure_ascii=False) + "\n"
