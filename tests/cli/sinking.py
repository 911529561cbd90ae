"""Steps of the sink's tests: ask the broker as an administrator, start a sink, read what it logs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import aiohttp

from broker.cli.sink.hook import DEBOUNCE
from tests.cli.conftest import Home
from tests.waiting import until


async def ask(home: Home, method: str, path: str, **options: Any) -> dict[str, Any]:
    """Send an admin's request that must succeed; return its body."""
    headers = {"X-Broker-Key": (home.data / "admin.key").read_text().strip()}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, home.url + path, **options) as answer,
    ):
        assert answer.status < 300, await answer.text()
        return json.loads(await answer.text())  # type: ignore[no-any-return]


async def take_in(home: Home, grant: str) -> str:
    """Import a grant; its first access token."""
    token = home.sandbox.rotating.issue().refresh_token
    await ask(home, "PUT", f"/v1/grants/{grant}", json={"provider": "acme", "refresh_token": token})
    return await current(home, grant)


async def current(home: Home, grant: str) -> str:
    """Return the access token as the broker serves it."""
    return str((await ask(home, "GET", f"/v1/grants/{grant}/token"))["access_token"])


async def refresh(home: Home, grant: str) -> str:
    """Have the grant refreshed; its new access token."""
    before = await current(home, grant)
    await ask(home, "POST", f"/v1/grants/{grant}/retry")

    async def newer() -> str | None:
        token = await current(home, grant)
        return token if token != before else None

    return str(await until(newer))


def sinking(home: Home, *arguments: str, umask: int = -1, **options: Any) -> subprocess.Popen[bytes]:
    """Start a sink whose events go to sink.log."""
    with (home.directory / "sink.log").open("ab") as log:
        return home.start("sink", *arguments, stdin=subprocess.DEVNULL, stderr=log, umask=umask, **options)


def events(home: Home, name: str) -> list[dict[str, Any]]:
    """Events of that name that any sink of the test logged."""
    events_so_far = [json.loads(line) for line in (home.directory / "sink.log").read_text().splitlines()]
    return [line for line in events_so_far if line["event"] == name]


def holds(path: Path, text: str) -> bool:
    """Whether the file is there and holds just that."""
    return path.exists() and path.read_text() == text


def inodes(*paths: Path) -> list[int]:
    """Which files these are: another one after each rename."""
    return [path.stat().st_ino for path in paths]


def hooks(one: Path, other: Path) -> int:
    """How often the hook of two files runs: once, but where the machine kept one of them long behind the other."""
    apart = abs(one.stat().st_mtime - other.stat().st_mtime)
    return 1 if apart < DEBOUNCE * 0.8 else 2
