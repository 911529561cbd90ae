"""The answers that are asked for all the time, to every kind of request and connection."""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import Any

import pytest

from broker.api.cached_responses import Content, RawResponse, ResponseCache
from broker.model import Token
from broker.sandbox import Sandbox
from broker.secret import Secret
from tests.callers.conftest import KEY
from tests.conftest import RunningBroker

FORM = "grant_type=client_credentials&scope=grant:g1"
ASKED = {
    "token": ("GET", "/v1/grants/g1/token", {}, ""),
    "unchanged": ("GET", "/v1/grants/g1/token", {"If-None-Match": "*"}, ""),
    "authorization": ("GET", "/v1/grants/g1/authorization", {}, ""),
    "standard": ("POST", "/oauth2/token", {"Content-Type": "application/x-www-form-urlencoded"}, FORM),
}


def port_of(broker: RunningBroker) -> int:
    """Where it listens."""
    return int(broker.url.rpartition(":")[2])


def ask(port: int, kind: str, version: int, *connection: str) -> tuple[int, dict[str, str], bytes, bool]:
    """Status, headers, body, and whether the connection answers again, as a client reads them that frames strictly."""
    method, path, headers, body = ASKED[kind]
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    link._http_vsn, link._http_vsn_str = version, f"HTTP/1.{version - 10}"  # type: ignore[attr-defined]
    sent = {
        **headers,
        "Host": "localhost",
        "X-Broker-Key": KEY,
        **({"Connection": connection[0]} if connection else {}),
    }
    try:
        link.request(method, path, body or None, sent)
        answer = link.getresponse()
        read = answer.read()
        again = link.sock is not None
        if again:
            link.request(method, path, body or None, sent)
            assert link.getresponse().read() == read
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, read, again
    finally:
        link.close()


async def test_the_prompt_of_a_terminal_begins_a_line(broker: RunningBroker) -> None:
    """JSON ends with one end of line: tokens, which are cached, lists, errors, and the description of the API."""
    for path in ("/v1/grants/g1/token", "/v1/grants", "/v1/grants/none/token", "/nowhere", "/openapi.json", "/healthz"):
        async with broker.session.get(broker.url + path, headers={"X-Broker-Key": KEY}) as response:
            text = await response.text()
        assert (text[-2:], response.content_type) == ("}\n", "application/json"), path
        assert response.headers["Content-Length"] == str(len(text.encode())), path


@pytest.mark.parametrize("kind", ASKED)
async def test_every_connection_gets_the_same(broker: RunningBroker, kind: str) -> None:
    """HTTP/1.1 and 1.0, kept and closed: one status, one body, the same headers but for the connection's own."""
    port = port_of(broker)
    kept = await asyncio.to_thread(ask, port, kind, 11)
    closed = await asyncio.to_thread(ask, port, kind, 11, "close")
    old = await asyncio.to_thread(ask, port, kind, 10)
    old_kept = await asyncio.to_thread(ask, port, kind, 10, "keep-alive")
    assert [answer[3] for answer in (kept, closed, old, old_kept)] == [True, False, False, True]
    assert closed[1].pop("connection") == "close"
    assert old_kept[1].pop("connection") == "keep-alive"
    for status, headers, body, _ in (closed, old, old_kept):
        assert status == kept[0]
        assert stripped(headers) == stripped(kept[1])
        assert stripped_body(body) == stripped_body(kept[2])
    assert kept[1]["date"].endswith("GMT")


def stripped(headers: dict[str, str]) -> dict[str, str]:
    """Without what a second changes."""
    return {name: value for name, value in headers.items() if name not in {"date", "content-length"}}


def stripped_body(body: bytes) -> dict[str, Any]:
    """Return the members without the life that is left."""
    return {name: value for name, value in json.loads(body or b"{}").items() if name != "expires_in"}


async def test_head_has_no_body(broker: RunningBroker) -> None:
    """HEAD on each gets the headers of GET, and the next answer on the connection begins where it should."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(broker))
    for path in ("/v1/grants/g1/token", "/v1/grants/g1/authorization"):
        for method in ("HEAD", "GET"):
            writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Broker-Key: {KEY}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert head.startswith("HTTP/1.1 200 OK\r\n"), head
            length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
            body = await reader.readexactly(length) if method == "GET" else b""
            assert (b"access_token" in body) == (method == "GET" and path.endswith("/token"))
    writer.close()


async def test_a_new_token_is_said_at_once(broker: RunningBroker, sandbox: Sandbox) -> None:
    """What was made for one token is never said of the next."""
    before = await broker.token("g1")
    said_before = await asyncio.to_thread(ask, port_of(broker), "token", 11)
    assert before["access_token"] in said_before[2].decode()
    await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
    news = {"If-None-Match": f'"{before["generation"]}"', "Prefer": "wait=10"}
    after = await broker.get("/v1/grants/g1/token", headers=news)
    for kind in ("token", "authorization", "standard"):
        _, headers, body, _ = await asyncio.to_thread(ask, port_of(broker), kind, 11)
        said = headers.get("authorization", "") + body.decode()
        assert after["access_token"] in said
        assert before["access_token"] not in said


class Kept:
    """As much of a request on a kept connection as an answer looks at."""

    version = (1, 1)
    keep_alive = True
    method = "GET"


def test_seconds_are_counted_down() -> None:
    """An answer is kept within one second of its token's life, and made anew in the next."""
    now, made = [0], []

    def content(token: Token, answer: dict[str, Any]) -> Content:
        made.append(answer["expires_in"])
        return Content(200, {}, b"")

    token = Token("g1", "p", 1, Secret("a"), "bearer", None, 1_000_000, 1_010_500, 1_008_000, 1_010_500)
    kind = ResponseCache(lambda: now[0], content)
    for now[0] in range(1_000_000, 1_003_000, 100):
        kind.respond(Kept(), token)  # type: ignore[arg-type]
    assert made == [10, 9, 8, 7]


@pytest.mark.parametrize("odd", ["a\r\nSet-Cookie: x=1", "a\nb", "a\0b", "a\x7fb"])
def test_no_header_is_smuggled(odd: str) -> None:
    """A token with control codes becomes no header."""
    with pytest.raises(ValueError, match="control"):
        RawResponse(Content(200, {"Authorization": f"Bearer {odd}"}, b""))
