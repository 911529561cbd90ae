"""How callers ask, as they were seen to: HEAD, lists of kinds, spellings of the key, preferences."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.regressions.conftest import Ground

HEADS = ["/healthz", "/readyz", "/metrics", "/", "/v1/grants/g1/token", "/v1/grants/g1/authorization"]


async def test_head(ground: Ground) -> None:
    """HEAD has GET's status and headers and not a byte more: the next answer of the link can be read."""
    broker, asked = ground.broker, len(ground.auth_server.requests_of("g1"))
    host, port = broker.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    mine = f"Host: localhost\r\nX-Broker-Key: {broker.admin_key}\r\n\r\n"

    async def head(method: str, path: str) -> tuple[str, dict[str, str]]:
        writer.write(f"{method} {path} HTTP/1.1\r\n{mine}".encode())
        lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        if method == "GET":
            await reader.readexactly(int(fields["content-length"]))
        for changing in ("date", "content-length", "x-request-id"):  # of /metrics, of expires_in, of each request
            fields.pop(changing, None)
        return lines[0], fields

    for path in HEADS:
        assert await head("HEAD", path) == await head("GET", path), path
    writer.close()
    assert len(ground.auth_server.requests_of("g1")) == asked, "a look starts no refresh"
    for method, path in (("HEAD", "/v1/grants/g1/refresh"), ("HEAD", "/v1/import"), ("TRACE", "/v1/grants/g1/token")):
        status, _, headers = await broker.ask(method, path)
        assert (status, bool(headers["Allow"])) == (405, True), path


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
ACCEPTS = {
    "text/plain;q=0.5, application/json": "json",
    "application/json;q=0.5, text/plain": "text",
    "application/json;q=0.5,text/plain;q=0.4": "json",
    "text/plain": "text",
    "TEXT/PLAIN": "text",
    "text/*": "json",
    "*/*": "json",
    BROWSER: "json",
    "text/plain;q=0": "json",
    "text/plain;q=0, */*": "json",
    "application/problem+json": "json",
    "": "json",
    "text/" * 800: "json",
    ",;q=,;;" * 600: "json",
}


@pytest.mark.parametrize("accept", ACCEPTS, ids=lambda accept: accept[:30])
async def test_accept(ground: Ground, accept: str) -> None:
    """JSON, unless text/plain truly wins; 304 has no body that could be of the other kind."""
    await _said(ground, ACCEPTS[accept], [("Accept", accept)])


async def test_accept_in_two_lines(ground: Ground) -> None:
    """A list may stand in several lines (RFC 9110 §5.3)."""
    await _said(ground, "text", [("Accept", "application/json;q=0.5"), ("Accept", "text/plain")])
    await _said(ground, "json", [("Accept", "text/plain;q=0.5"), ("Accept", "application/json")])


async def _said(ground: Ground, kind: str, headers: list[tuple[str, str]]) -> None:
    broker = ground.broker
    mine = [*headers, ("X-Broker-Key", broker.admin_key)]
    async with broker.session.get(f"{broker.url}/v1/grants/g1/token", headers=mine) as answer:
        text, etag = await answer.text(), answer.headers["ETag"]
        assert answer.status == 200
        assert answer.headers["Vary"] == "Accept"
        assert answer.content_type == {"json": "application/json", "text": "text/plain"}[kind]
        assert (text if kind == "text" else json.loads(text)["access_token"]) == ground.auth_server.access["g1"]
    mine.append(("If-None-Match", etag))
    async with broker.session.get(f"{broker.url}/v1/grants/g1/token", headers=mine) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
        assert answer.headers["Vary"] == "Accept"


SPELLINGS = {
    "bearer {}": 200,
    "BEARER {}": 200,
    "Bearer  {}": 200,
    "Bearer\t{}": 200,
    "Bearer {} ": 200,
    " Bearer {}": 200,
    "Bearer{}": 401,
    "Token {}": 401,
    "name:{}": 401,
    "Bearer, {}": 401,
    "{}": 401,
}


@pytest.mark.parametrize("path", ["/v1/grants/g1/token", "/v1/grants/g1/authorization", "/v1/grants/g1"])
async def test_spellings_of_the_scheme(ground: Ground, path: str) -> None:
    """The scheme is case-blind and blanks do not count; anything else is 401, and the key in no log."""
    for spelling, expected in SPELLINGS.items():
        status, body, headers = await _raw(ground, path, f"Authorization: {spelling.format(ground.broker.admin_key)}")
        assert status == expected, spelling
        if expected == 401:
            assert set(json.loads(body)) == {"error", "error_description"}
            assert "www-authenticate: bearer" in headers.lower()
    status, _, _ = await _raw(ground, path, "Authorization: Basic OmtleQ==")
    assert status == 401


async def _raw(ground: Ground, path: str, *lines: str) -> tuple[int, str, str]:
    host, port = ground.broker.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write("\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""]).encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 5)).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body, head


PREFERENCES: dict[str, str | None] = {
    "wait=300": "wait=55",
    "wait=0": "wait=0",
    "wait=-1": None,
    "wait=abc": None,
    "wait=5, respond-async": "wait=5",
    "respond-async, wait=5": "wait=5",
    'wait="7"': "wait=7",
    "WAIT=3": "wait=3",
    "wait=1.5": None,
    "wait": None,
}


@pytest.mark.parametrize("preference", PREFERENCES)
async def test_preferences(ground: Ground, preference: str) -> None:
    """A wait is cut to less than proxies have patience for, and said; nonsense is passed over, not waited for."""
    status, _, headers = await ground.ask("GET", "/v1/grants/g1/token", headers={"Prefer": preference})
    assert (status, headers.get("Preference-Applied")) == (200, PREFERENCES[preference])
    if PREFERENCES[preference] in {None, "wait=0"}:
        mine: dict[str, Any] = {"Prefer": preference, "If-None-Match": headers["ETag"]}
        async with asyncio.timeout(2):
            assert (await ground.ask("GET", "/v1/grants/g1/token", headers=mine))[0] == 304
