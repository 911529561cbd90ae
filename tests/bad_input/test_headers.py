"""Headers that are there twice or not at all, and those that every response has."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from broker.sandbox import Sandbox
from broker.secret import key_digest
from tests.bad_input.conftest import READER
from tests.conftest import RunningBroker, StartBroker
from tests.ports import free_port

KEY = {"X-Broker-Key": READER}


async def raw(broker: RunningBroker, text: str) -> bytes:
    """Send *text* as it is; return all that comes back."""
    host, port = broker.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text.encode())
    received = await asyncio.wait_for(reader.read(65536), 10)
    writer.close()
    return received


@pytest.mark.parametrize("name", ["Authorization", "X-Broker-Key"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/grants/good/token"),
        ("GET", "/v1/grants/good/authorization"),
        ("POST", "/oauth2/token"),
        ("GET", "/v1/grants"),
        ("DELETE", "/v1/grants/good"),
    ],
)
async def test_two_credentials(broker: RunningBroker, method: str, path: str, name: str) -> None:
    """A key that is sent twice decides nothing, whichever of them is right, even where both are."""
    value = READER if name == "X-Broker-Key" else f"Bearer {READER}"
    for first, second in ((value, value), (value, "nonsense"), ("nonsense", value)):
        headers = CIMultiDict([(name, first), (name, second)])
        options: dict[str, Any] = {}
        if path == "/oauth2/token":
            options["data"] = {"grant_type": "client_credentials", "scope": "grant:good"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, broker.url + path, headers=headers, **options) as answer,
        ):
            body = await answer.json()
            assert (answer.status, body["error"]) == (400, "invalid_request")
            assert "2 times" in body["error_description"]


async def test_lists_in_several_lines(broker: RunningBroker) -> None:
    """`If-None-Match` in several lines is one list (RFC 9110 §5.3)."""
    generation = (await broker.token("good"))["generation"]
    for tags in (['"1"', f'"{generation}"'], [f'W/"{generation}"', '"1"'], ['"1", "2"', "*"]):
        headers = CIMultiDict([("X-Broker-Key", READER), *(("If-None-Match", tag) for tag in tags)])
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{broker.url}/v1/grants/good/token", headers=headers) as answer,
        ):
            assert answer.status == 304, tags


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_probes_without_a_host(broker: RunningBroker, path: str) -> None:
    """A probe that speaks HTTP/1.0 sends no Host, which no browser leaves out: it is answered on loopback too."""
    assert (await raw(broker, f"GET {path} HTTP/1.0\r\n\r\n")).split(b" ")[1] == b"200"
    wrong = await raw(broker, f"GET {path} HTTP/1.0\r\nHost: rebound.example\r\n\r\n")
    assert wrong.split(b" ")[1] == b"421"


async def test_every_response_has_them(broker: RunningBroker) -> None:
    """No response names a version of the server, and none lets a browser guess its type."""
    asked = [
        ("GET", "/v1/grants/good/token"),
        ("GET", "/v1/grants/good/authorization"),
        ("GET", "/v1/grants/none/token"),
        ("GET", "/v1/nothing"),
        ("POST", "/healthz"),
        ("GET", "/"),
        ("GET", "/page/api.js"),
        ("GET", "/login/good"),
        ("GET", "/callback?code=x"),
        ("GET", "/openapi.json"),
        ("GET", "/metrics"),
    ]
    heads = []
    for method, path in asked:
        for version in ("1.1", "1.0"):
            text = (
                f"{method} {path} HTTP/{version}\r\nHost: localhost\r\nX-Broker-Key: {READER}\r\nConnection: close\r\n"
            )
            heads.append((await raw(broker, text + "\r\n")).partition(b"\r\n\r\n")[0])
    for text in ("GET / HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n", "nonsense\r\n\r\n"):
        heads.append((await raw(broker, text)).partition(b"\r\n\r\n")[0])
    for head in heads:
        lines = [line.lower() for line in head.split(b"\r\n")]
        assert lines.count(b"server: token-broker") == 1, head
        assert lines.count(b"x-content-type-options: nosniff") == 1, head
        assert b"aiohttp" not in head


async def test_short_keys(start_broker: StartBroker, sandbox: Sandbox, tmp_path: Path) -> None:
    """A key under 32 characters opens nothing, although its digest is in the settings."""
    short, long = "a" * 31, "a" * 32
    callers = {name: {"key_sha256": key_digest(name), "read": ["*"]} for name in (short, long)}
    callers = {f"c{len(name)}": rights for name, rights in callers.items()}
    async with start_broker(callers=callers) as broker:
        for key, status in ((short, 401), (long, 404)):
            got, body, _ = await broker.ask("GET", "/v1/grants/none/token", headers={"X-Broker-Key": key})
            assert got == status
            assert status == 404 or "shorter than 32 characters" in body["error_description"]


async def test_a_socket_of_another_broker(start_broker: StartBroker, tmp_path: Path) -> None:
    """A second broker does not take the path of a living one, takes that of a dead one, and removes its own."""
    path = tmp_path / "s"
    async with start_broker(http={"listen": [f"127.0.0.1:{free_port()}", f"unix:{path}"]}):
        with pytest.raises(Exception, match="cannot listen on unix:") as refusal:
            async with start_broker(http={"listen": [f"unix:{path}"]}):
                pass
        assert "Address already in use" in str(refusal.value)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            assert (await session.get("http://localhost/healthz")).status == 200
    await asyncio.to_thread(leave_a_dead_one, path)
    async with (
        start_broker(http={"listen": [f"127.0.0.1:{free_port()}", f"unix:{path}"]}),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
    ):
        assert (await session.get("http://localhost/healthz")).status == 200


def leave_a_dead_one(path: Path) -> None:
    """Leave the file of a socket on which nobody listens, where a broker has removed its own."""
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
