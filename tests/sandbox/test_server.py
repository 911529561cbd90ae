"""The sandbox as a server: where it listens, how it stops, and its command line."""

from __future__ import annotations

import ast
import asyncio
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

import broker.sandbox
from broker.sandbox import Sandbox
from broker.sandbox.__main__ import main, run

from .relying import until

if TYPE_CHECKING:
    from .relying import RelyingParty


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "localhost", "example.com", ""])
def test_loopback_only(host: str) -> None:
    """It refuses to listen anywhere but on a loopback address."""
    with pytest.raises(ValueError, match="loopback"):
        Sandbox(host=host)


async def test_stops_quickly_with_hanging_requests(client: RelyingParty) -> None:
    """Stopping takes less than a second whatever hangs, drips or waits."""
    async with Sandbox() as sandbox:
        fault = sandbox.v3.faults.order("hang", None)
        drip = sandbox.rotating.faults.order("drip", None)
        sandbox.cameramanager.options.latency = 60
        tokens = {name: str(a.issue().refresh_token) for name, a in sandbox.authorities.items()}
        calls = [
            asyncio.create_task(client.refresh(authority, tokens[name]))
            for name, authority in sandbox.authorities.items()
        ]
        await until(lambda: bool(fault.taken and drip.taken and sandbox.cameramanager.token_requests))
        began = time.monotonic()
    assert time.monotonic() - began < 1
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, aiohttp.ClientError)


async def test_stops_and_starts_on_the_same_port(sandbox: Sandbox, client: RelyingParty) -> None:
    """While it does not listen, connections are refused, kept ones too; afterwards everything is as before."""
    token, url = str(sandbox.rotating.issue().refresh_token), sandbox.url
    token = (await client.refresh(sandbox.rotating, token)).json["refresh_token"]
    await sandbox.stop_listening()
    await sandbox.stop_listening()
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.refresh(sandbox.rotating, token)
    await sandbox.start_listening()
    await sandbox.start_listening()
    assert sandbox.url == url
    assert (await client.refresh(sandbox.rotating, token)).status == 200
    assert len(sandbox.rotating.token_requests) == 2


async def test_taken_port(sandbox: Sandbox) -> None:
    """A port that is taken is an error, and leaves nothing behind."""
    port = int(sandbox.url.rpartition(":")[2])
    with pytest.raises(OSError, match="address already in use"):
        await Sandbox(port=port).start_listening()


async def test_a_chosen_issuer_stays(client: RelyingParty) -> None:
    """An issuer set by a test survives a restart."""
    async with Sandbox() as sandbox:
        sandbox.rotating.issuer = "https://elsewhere.example"
        await sandbox.stop_listening()
        await sandbox.start_listening()
        answer = await client.call("GET", sandbox.rotating.endpoint("discovery"))
        assert answer.json["issuer"] == "https://elsewhere.example"


async def test_fractional_lifetimes_are_stated(client: RelyingParty) -> None:
    """Whole lifetimes are stated in whole seconds, a configured fraction verbatim, None not at all."""
    async with Sandbox(access_lifetime=0.5) as sandbox:
        token = str(sandbox.rotating.issue().refresh_token)
        answer = (await client.refresh(sandbox.rotating, token)).json
        assert answer["expires_in"] == 0.5
        sandbox.rotating.options.access_lifetime = None
        answer = (await client.refresh(sandbox.rotating, answer["refresh_token"])).json
        assert "expires_in" not in answer


def test_stands_apart() -> None:
    """It imports the standard library, aiohttp and itself: nothing of the broker."""
    allowed = sys.stdlib_module_names | {"aiohttp", "yarl"}
    for path in Path(broker.sandbox.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            for name in names:
                assert name.split(".")[0] in allowed or name.startswith("broker.sandbox"), (path.name, name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_command_line(number: signal.Signals) -> None:
    """`python -m broker.sandbox` prints its URLs and ends cleanly on a signal."""
    command = [sys.executable, "-m", "broker.sandbox", "--port", "0", "--access-lifetime", "30"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        lines = [(await process.stdout.readline()).decode() for _ in range(3)]
        process.send_signal(number)
        rest, errors = await process.communicate()
    assert lines[0].startswith("Sandbox: http://127.0.0.1:")
    assert "cameramanager-client" in lines[2]
    assert b"/rotating/.well-known/openid-configuration" in rest
    assert (process.returncode, errors) == (0, b"")


async def test_run(capsys: pytest.CaptureFixture[str]) -> None:
    """It names every endpoint and what a client needs, and ends on SIGTERM."""
    running = asyncio.create_task(run(0, None, offline_by_consent=True))
    printed: list[str] = []

    def is_described() -> bool:
        printed.append(capsys.readouterr().out)
        return "Faults:" in printed[-1]

    await until(is_described)
    signal.raise_signal(signal.SIGTERM)
    await running
    sandbox = Sandbox()
    for authority in sandbox.authorities.values():
        for expected in (authority.client_id, authority.client_secret, *authority.dialect.paths.values()):
            assert expected in printed[-1]


def test_command_line_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments it serves on port 9000 with each server's own lifetimes, and exits 0."""
    given: list[object] = []

    async def serve(port: int, access_lifetime: float | None, *, offline_by_consent: bool) -> None:
        given.extend((port, access_lifetime, offline_by_consent))

    monkeypatch.setattr("broker.sandbox.__main__.run", serve)
    assert main([]) == 0
    assert given == [9000, None, False]


def test_command_line_with_a_taken_port(capsys: pytest.CaptureFixture[str]) -> None:
    """A taken port is reported in one line, with exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    assert capsys.readouterr().err.startswith(f"sandbox: cannot listen on port {port}: ")
