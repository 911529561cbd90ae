"""HTTP that is allowed and rare: `Expect`, `Upgrade`, absolute targets, long lines, raw bytes; JSON or a page."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from tests.bad_input.conftest import raw
from tests.conftest import RunningBroker

HTML = b"Content-Type: text/html"
JSON = b"Content-Type: application/json"


def head(line: str, *fields: str) -> bytes:
    """Return a request's head."""
    return "\r\n".join((f"{line} HTTP/1.1", "Host: localhost", *fields, "", "")).encode("latin-1")


def statuses(answer: bytes) -> list[int]:
    """Return the status of each response in *answer*."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", answer)]


@pytest.mark.parametrize(
    ("line", "fields", "status"),
    [
        ("PUT /v1/grants/new", ["X-Broker-Key: nobody's"], 401),
        ("PUT /v1/grants/new", [], 401),
        ("POST /v1/import", ["X-Broker-Key: nobody's"], 401),
        ("POST /v1/import", ["X-Broker-Key: ADMIN", "Content-Encoding: gzip"], 415),
        ("PUT /v1/grants/new", ["X-Broker-Key: ADMIN", "Content-Length: 70000"], 413),
        ("POST /oauth2/token", ["Content-Length: 70000"], 413),
        ("POST /callback", ["Content-Length: 70000"], 413),
        ("POST /v1/nothing", [], 404),
        ("PATCH /v1/grants/new", ["X-Broker-Key: ADMIN"], 405),
        ("POST /v1/grants/good/authorization", ["X-Broker-Key: ADMIN"], 200),
    ],
)
async def test_refused_before_the_body(broker: RunningBroker, line: str, fields: list[str], status: int) -> None:
    """Who waits for a 100 before the body gets the refusal instead, and the connection ends with it."""
    fields = [field.replace("ADMIN", broker.admin_key) for field in fields]
    if not any(field.startswith("Content-Length") for field in fields):
        fields.append("Content-Length: 10")
    answer = await raw(broker, head(line, *fields, "Expect: 100-continue"))
    assert statuses(answer) == [status]
    assert b"Connection: close" in answer


@pytest.mark.parametrize("version", ["", " HTTP/0.9", " HTTP/2.0"])
async def test_other_versions(broker: RunningBroker, version: str) -> None:
    """A version that is not served gets 505 by one that is, with a token's path too, and the connection ends."""
    for path in ("/v1/grants/good/token", "/healthz", "/login/x", f"/{'a' * 600}"):
        fields = ("Host: localhost", f"X-Broker-Key: {broker.admin_key}", "", "")
        answer = await raw(broker, "\r\n".join((f"GET {path}{version}", *fields)).encode())
        assert statuses(answer) == [505], answer
        assert answer.startswith(b"HTTP/1.0 505"), answer
        assert b"access_token" not in answer


async def test_continue(broker: RunningBroker) -> None:
    """A request that nothing speaks against gets the 100 once, and its response after the body."""
    host, port = broker.url.removeprefix("http://").split(":")
    body = b'{"provider": "acme", "refresh_token": "x"}'
    for line, expect in (
        ("PUT /v1/grants/new", "100-Continue"),
        ("POST /v1/import", "100-continue, 100-continue"),
        ("POST /callback", "100-continue"),
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        key = f"X-Broker-Key: {broker.admin_key}"
        writer.write(head(line, key, f"Content-Length: {len(body)}", f"Expect: {expect}"))
        async with asyncio.timeout(5):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n", line
            writer.write(body)
            assert (await reader.readuntil(b"\r\n\r\n")).split()[1] in {b"200", b"201", b"400"}
        writer.close()


@pytest.mark.parametrize("expect", ["nonsense", "100-continue, nonsense", "\xe9\xff", "200-maybe", ","])
@pytest.mark.parametrize("line", ["GET /v1/grants/good/token", "PUT /v1/grants/new", "GET /callback?code=x", "GET /"])
async def test_other_expectations(broker: RunningBroker, line: str, expect: str) -> None:
    """Another expectation is 417: JSON for programs, a page where only browsers are sent to."""
    answer = await raw(broker, head(line, f"Expect: {expect}", "Content-Length: 2") + b"{}")
    assert statuses(answer) == [417]
    assert (HTML if "callback" in line else JSON) in answer
    assert expect.encode("latin-1") not in answer or expect == ",", "it repeats what was sent"


FIELDS = [
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "Authorization",
    "Cache-Control",
    "Connection",
    "Content-Encoding",
    "Content-Type",
    "Cookie",
    "Expect",
    "Forwarded",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "Origin",
    "Prefer",
    "Purpose",
    "Range",
    "Referer",
    "Sec-Fetch-Site",
    "Sec-Purpose",
    "TE",
    "Transfer-Encoding",
    "Upgrade",
    "User-Agent",
    "X-Broker-Key",
    "X-Broker-Page",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Prefix",
]


@pytest.mark.parametrize("name", [*FIELDS, "Host"])
async def test_raw_bytes(broker: RunningBroker, name: str) -> None:
    """A header of bytes that are no text breaks no route."""
    paths = (await broker.get("/openapi.json"))["paths"]
    for template, operations in paths.items():
        path = template.replace("{id}", "good").replace("{name}", "acme").replace("{file}", "main.js")
        for method in {"get", "post", "put"} & set(operations):
            fields = [f"{name}: \xe9\xff"]
            fields += [] if name == "X-Broker-Key" else [f"X-Broker-Key: {broker.admin_key}"]
            fields += ["Connection: close"] if name != "Connection" else []
            answer = head(f"{method.upper()} {path}", *fields, "Content-Length: 2") + b"{}"
            if name == "Host":
                answer = answer.replace(b"Host: localhost\r\n", b"", 1)
            if name == "Transfer-Encoding":
                answer = answer.replace(b"Content-Length: 2\r\n", b"", 1)
            if template.endswith("/report") or method == "delete":
                continue
            got = statuses(await raw_until_closed(broker, answer))
            assert got, (method, template)
            assert all(status < 500 or status in {502, 503} for status in got), (method, template, got)


async def raw_until_closed(broker: RunningBroker, request: bytes) -> bytes:
    """Return the first response, without waiting where the connection is kept alive."""
    host, port = broker.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read(65536)
    writer.transport.abort()
    return answer


UPGRADES = ["h2c", "websocket", "TLS/1.0, HTTP/1.1", "WebSocket", "HTTP/2.0"]


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("cut", [None, 30, -3, "head", "every"])
async def test_upgrade(broker: RunningBroker, upgrade: str, cut: object) -> None:
    """Requests that follow one with `Upgrade` in the same bytes are answered, however the bytes come."""
    fields = [f"X-Broker-Key: {broker.admin_key}", "Connection: Upgrade", f"Upgrade: {upgrade}"]
    first = head("GET /v1/grants/good/token", *fields)
    body = json.dumps({"provider": "acme", "refresh_token": "x\r\n\r\n"}).encode()
    second = head("PUT /v1/grants/new", *fields, f"Content-Length: {len(body)}") + body
    chunked = b"2\r\n{}\r\n0\r\n\r\n"
    third = head("PUT /v1/grants/new", fields[0], *fields[1:], "Transfer-Encoding: chunked") + chunked
    last = head("GET /v1/nothing", fields[0], "Connection: close")
    sent = first + second + third + last
    pieces = {
        None: [sent],
        "head": [first[:-2], first[-2:] + second + third + last],
        "every": [sent[at : at + 1] for at in range(len(sent))],
    }.get(cut, [sent[:cut], sent[cut:]] if isinstance(cut, int) else [])  # type: ignore[call-overload]
    host, port = broker.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0 if len(pieces) > 2 else 0.05)
    async with asyncio.timeout(10):
        answer = await reader.read(-1)
    writer.close()
    assert statuses(answer)[0] == 200
    assert statuses(answer)[-1] == 404
    assert len(statuses(answer)) == 4, statuses(answer)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost", 200),
        ("http://localhost/", 200),
        ("http://localhost?x", 200),
        ("HTTP://localhost:1/healthz", 200),
        ("http://localhost/healthz?x=/y", 200),
        ("http://localhost/v1/grants/good/token", 200),
        ("http://localhost/v1/grants/good/token?min_ttl=1", 200),
        ("http://localhost/nothing", 404),
        ("/healthz?to=http://localhost/nothing", 200),
    ],
)
async def test_absolute_targets(broker: RunningBroker, target: str, status: int) -> None:
    """A target in absolute form (RFC 9112 section 3.2.2) is the path in it."""
    answer = await raw_until_closed(broker, head(f"GET {target}", f"X-Broker-Key: {broker.admin_key}"))
    assert statuses(answer) == [status]


async def test_long_lines(broker: RunningBroker) -> None:
    """A line of 60 kB is read; a longer one, and many long ones, are refused, for programs and browsers alike."""
    key = f"X-Broker-Key: {broker.admin_key}"
    cookie = f"Cookie: a={'x' * 60_000}"
    for path in ("/v1/grants/good/token", "/v1/grants/good/authorization", "/v1/grants", "/login/x"):
        answer = await raw_until_closed(broker, head(f"GET {path}", key, cookie))
        assert statuses(answer) == [400 if path == "/login/x" else 200], path
    for size in (20_000, 60_000, 100_000, 200_000):
        answer = await raw_until_closed(broker, head(f"GET /callback?state=x&code={'c' * size}"))
        assert (statuses(answer), HTML in answer) == ([400], True), size
        answer = await raw_until_closed(broker, head(f"GET /v1/grants/good/token?x={'c' * size}", key))
        assert (statuses(answer), JSON in answer) == ([200 if size < 65_000 else 400], True), size
    for path, kind in (("/v1/grants/good/token", JSON), ("/callback?code=x", HTML)):
        answer = await raw_until_closed(broker, head(f"GET {path}", key, *[f"X: {'x' * 60_000}"] * 3))
        assert statuses(answer) == [200 if kind is JSON else 400]
        answer = await raw(broker, head(f"GET {path}", key, *[f"X: {'x' * 60_000}"] * 12)[:-2])
        assert (statuses(answer), kind in answer, b"Connection: close" in answer) == ([431], True, True)


@pytest.mark.parametrize(
    ("line", "accept", "status", "kind"),
    [
        ("GET /nothing", "text/html,*/*", 404, HTML),
        ("GET /nothing", "*/*", 404, JSON),
        ("GET /v1/nothing", "text/html", 404, JSON),
        ("PUT /", "text/html", 405, HTML),
        ("POST /login/x", "*/*", 405, HTML),
        ("DELETE /callback", "*/*", 405, HTML),
        ("POST /session", "text/html", 403, JSON),
        ("GET /metrics/x", "text/html", 404, HTML),
        ("GET /page/nothing", "text/html", 404, JSON),
        ("POST /healthz", "text/html", 405, JSON),
    ],
)
async def test_who_reads_it(broker: RunningBroker, line: str, accept: str, status: int, kind: bytes) -> None:
    """The API answers in JSON whatever is accepted; what a browser is sent to, or asks for, is a page."""
    answer = await raw_until_closed(broker, head(line, f"Accept: {accept}"))
    assert (statuses(answer), kind in answer) == ([status], True), answer
    assert b"Cache-Control: no-store" in answer
    foreign = head(line, f"Accept: {accept}").replace(b"localhost", b"rebound.test")
    answer = await raw_until_closed(broker, foreign)
    assert (statuses(answer), kind in answer) == ([421], True), answer


@pytest.mark.parametrize("wrong", [b"X Y: z\r\n", b"X: \0\r\n", b"Content-Length: -1\r\n"])
async def test_heads_that_cannot_be_read(broker: RunningBroker, wrong: bytes) -> None:
    """A browser is shown a page even where the rest of its request cannot be read."""
    for target, kind in (("/callback?code=x", HTML), ("/login/x", HTML), ("/v1/grants", JSON), ("/", JSON)):
        request = head(f"GET {target}")[:-2] + wrong + b"\r\n"
        answer = await raw_until_closed(broker, request)
        assert (statuses(answer), kind in answer) == ([400], True), answer
