"""What must hold on every route, tried on each that `/openapi.json` tells of: those of tomorrow too."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.bad_input.conftest import READER, Refused, raw
from tests.conftest import RunningBroker

PARAMETERS = {"{id}": "good", "{ticket}": "x", "{name}": "acme", "{suffix}": "a/b", "{file}": "main.js"}
METHODS = {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "QUERY"}
FORM = "application/x-www-form-urlencoded"
PAGES = {"/login/{ticket}", "/callback", "/callback/{name}"}
"""What answers a browser, in HTML."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the OpenAPI document: its path template, and its operations by method."""

    template: str
    operations: dict[str, dict[str, Any]]

    def path(self, **parameters: str) -> str:
        """Its path with values in it."""
        path = self.template
        for name, value in (PARAMETERS | {f"{{{name}}}": value for name, value in parameters.items()}).items():
            path = path.replace(name, value)
        return path

    @property
    def any(self) -> bool:
        """Whether it takes every method."""
        return "trace" in self.operations

    def keyed(self) -> list[str]:
        """Return the methods that ask for a key."""
        return [method for method, operation in self.operations.items() if operation["security"]]


@pytest.fixture
async def every_route(broker: RunningBroker) -> list[Route]:
    """All there are."""
    paths = (await broker.get("/openapi.json"))["paths"]
    return [Route(path, operations) for path, operations in paths.items()]


async def answer(broker: RunningBroker, method: str, path: str, **options: Any) -> tuple[int, bytes, Any]:
    """Status, body and headers, without any key but what *options* say."""
    alone = aiohttp.TCPConnector(force_close=True)  # a body that cannot be read ends its connection
    async with (
        aiohttp.ClientSession(connector=alone) as session,
        session.request(method, broker.url + path, allow_redirects=False, **options) as got,
    ):
        return got.status, await got.read(), got.headers


async def test_other_methods(every_route: list[Route], refused: Refused, broker: RunningBroker) -> None:
    """A method that a route does not have is 405, and `Allow` is what is told; with a key or without one."""
    for route in every_route:
        if route.any:
            continue
        has = {method.upper() for method in route.operations}
        has |= {"HEAD"} if "GET" in has else set()
        for method in METHODS - has - {"HEAD"}:
            if route.template in PAGES:
                status, text, headers = await answer(broker, method, route.path())
                assert (status, headers["Content-Type"]) == (405, "text/html; charset=utf-8")
                assert b"<h1>" in text
            else:
                _, headers = await refused(405, method, route.path())
            assert set(headers["Allow"].split(", ")) == has, (method, route.template)
        if "HEAD" not in has:
            assert (await answer(broker, "HEAD", route.path()))[0] == 405


async def test_without_a_key(every_route: list[Route], broker: RunningBroker) -> None:
    """Where a key is asked for, without one all grants are alike: 401, word for word the same, whatever is sent."""
    for route in every_route:
        for method in route.keyed():
            said = set()
            for grant, body in (("good", None), ("nobody-knows", None), ("good", b"{"), ("good", b"{}" * 40_000)):
                for headers in ({}, {"X-Broker-Key": "x"}, {"Authorization": "Bearer x"}):
                    form = {"Content-Type": FORM} if route.template == "/oauth2/token" else {}
                    status, text, fields = await answer(
                        broker, method, route.path(id=grant), headers=headers | form, data=body
                    )
                    if status == 413 and route.template == "/oauth2/token":
                        continue  # its key may stand in the body
                    assert status == 401, (method, route.template, headers, body, text)
                    assert fields["WWW-Authenticate"]
                    said.add((text, bool(headers)))
            assert len(said) <= 2, said


async def test_without_the_right(every_route: list[Route], broker: RunningBroker) -> None:
    """A known caller without the right hears the same of a grant that is there and of one that is not."""
    for route in every_route:
        if "{id}" not in route.template:
            continue
        for method in route.keyed():
            operation = route.operations[method]
            if "the right `read`" in operation["description"]:
                grants = ("nobody-knows", "other")  # READER may read good*
                await broker.ask("PUT", "/v1/grants/other", json={"provider": "acme", "refresh_token": "spent"})
            else:
                grants = ("good", "nobody-knows")
            said = set()
            for grant in grants:
                for data in (None, b"{", b"{}", b'{"provider": "acme", "refresh_token": "x"}'):
                    for more in ({}, {"If-Match": '"1"'}, {"If-None-Match": "*"}):
                        got = await answer(
                            broker, method, route.path(id=grant), headers={"X-Broker-Key": READER, **more}, data=data
                        )
                        said.add(got[:2])
            assert [status for status, _ in said] == [403], (method, route.template, said)
    form = {"grant_type": "client_credentials", "client_id": "reader", "client_secret": READER}
    said = {
        (await answer(broker, "POST", "/oauth2/token", data=form | {"scope": f"grant:{grant}"}))[:2]
        for grant in ("nobody-knows", "other")
    }
    assert [json.loads(text)["error"] for _, text in said] == ["invalid_scope"]


BODIES: dict[str, tuple[bytes, dict[str, str]]] = {
    "a form": (b"provider=acme&refresh_token=x", {"Content-Type": FORM}),
    "many parts": (b"--b\r\n\r\nx\r\n--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}),
    "no such type": (b"x", {"Content-Type": "\u00e4;;=/"}),
    "no such charset": (b"x", {"Content-Type": "application/json; charset=klingon"}),
    "no gzip": (b"{}", {"Content-Encoding": "gzip"}),
    "no such coding": (b"{", {"Content-Encoding": "x-secret"}),
    "too long": (b" " * 70_000, {}),
    "a bomb": (gzip.compress(b" " * 4_000_000), {"Content-Encoding": "gzip"}),
    "two bombs": (gzip.compress(gzip.compress(b" " * 4_000_000)), {"Content-Encoding": "gzip, gzip"}),
}


async def test_bodies_of_other_kinds(every_route: list[Route], broker: RunningBroker) -> None:
    """A body of another kind than is told is a 4xx in JSON where one is taken; elsewhere nobody looks at it."""
    for route in every_route:
        for method, operation in route.operations.items():
            for kind, (body, headers) in BODIES.items():
                sent = {"X-Broker-Key": broker.admin_key, "If-Match": '"1"', **headers}
                if method in {"get", "delete"}:
                    continue
                status, text, fields = await answer(broker, method, route.path(id="new"), data=body, headers=sent)
                assert status < 500, (method, route.template, kind, status, text)
                if "Content-Encoding" in headers and status == 415:
                    assert fields["Connection"] == "close"
                if "Content-Encoding" in headers and "requestBody" in operation:
                    assert status in {415, 403}, "the session's door asks first whether the status page sends this"
                    assert route.template in PAGES or set(json.loads(text)) == {"error", "error_description"}
                elif route.template == "/v1/import":
                    outcomes = [json.loads(line) for line in text.splitlines()]
                    assert {outcome["status"] for outcome in outcomes} == {"refused"}, (kind, text)
                    assert all(outcome["error_description"] for outcome in outcomes)
                elif "requestBody" in operation and route.template not in PAGES:
                    assert status >= 400, (method, route.template, kind, status, text)
                    assert set(json.loads(text)) == {"error", "error_description"}
                if kind == "too long" and "requestBody" in operation and route.template != "/v1/import":
                    assert status in {413, 403}, "the session's door asks first whether the status page sends this"


async def test_a_bug_in_a_streamed_answer(broker: RunningBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the middle of an import's answer breaks it off: no second answer is written into the first."""

    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("broker.api.routes.imports._import", broken)
    head = f"POST /v1/import HTTP/1.1\r\nHost: localhost\r\nX-Broker-Key: {broker.admin_key}\r\n"
    got = await raw(broker, f"{head}Content-Length: 3\r\n\r\n{{}}\n".encode())
    assert got.count(b"HTTP/1.1") == 1
    assert b"server_error" not in got
    assert not got.endswith(b"0\r\n\r\n"), "it looks whole"
    assert len(broker.events("request.failed")) == 1
    broker.log.truncate(0)
    broker.log.seek(0)


HEADERS: list[dict[str, str]] = [
    {"Accept": "\u00e4/*;q=x,,;"},
    {"Accept-Encoding": "x;q=-1, *;q=2"},
    {"If-None-Match": "\u00e4"},
    {"If-Modified-Since": "yesterday"},
    {"Range": "bytes=9999999999-"},
    {"Expect": "200-maybe"},
    {"Cookie": "a" * 4000 + "=\u00e4; =; ;"},
    {"Origin": "\u00e4"},
    {"Sec-Fetch-Site": "\u00e4"},
    {"X-HTTP-Method-Override": "DELETE"},
    {"X-Forwarded-Host": "evil.test", "Forwarded": "for=\u00e4"},
    {"Upgrade": "websocket", "Connection": "Upgrade"},
    {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "\u00e4"},
    {"Prefer": 'wait="' * 200},
    {f"X-{n}": "x" for n in range(90)},
]


async def test_garbage_in_headers(every_route: list[Route], broker: RunningBroker) -> None:
    """Headers that no client sends change nothing, or are a 4xx; no route fails at them."""
    for route in every_route:
        for method in route.operations:
            if method in {"post", "put", "delete"} and not route.any:
                continue
            for headers in HEADERS:
                sent = {"X-Broker-Key": broker.admin_key, **headers}
                status, text, _ = await answer(broker, method, route.path(), headers=sent)
                assert status < 500, (method, route.template, headers, status)
                assert (
                    status != 400 or route.template in PAGES or set(json.loads(text)) == {"error", "error_description"}
                )


async def test_queries(every_route: list[Route], broker: RunningBroker) -> None:
    """A query of garbage is a 4xx or is passed over."""
    for route in every_route:
        for method in route.operations:
            if method in {"post", "put", "delete", "options", "patch", "trace"}:
                continue
            for query in ("?", "?=", "?a=%FF&a=%00", "?a" * 400, "?state=%FF", "?limit=%D9%A1", "?%GG", "?cursor[]=1"):
                status, _, _ = await answer(
                    broker, method, route.path() + query, headers={"X-Broker-Key": broker.admin_key}
                )
                assert status < 500, (method, route.template, query)


async def test_http_1_0_everywhere(every_route: list[Route], broker: RunningBroker) -> None:
    """HTTP/1.0 is answered as HTTP/1.1 is, and its connection closed, unless a body is chunked, which it cannot be."""
    for route in every_route:
        for method in route.operations:
            if method == "delete" and not route.any:
                continue
            head = (
                f"{method.upper()} {route.path()} HTTP/1.0\r\nHost: localhost\r\nX-Broker-Key: {broker.admin_key}\r\n"
            )
            got = await raw(broker, f"{head}Content-Length: 0\r\n\r\n".encode())
            status = int(got.split()[1])
            assert 200 <= status < 500, (method, route.template, got)
            assert b"chunked" not in got.partition(b"\r\n\r\n")[0].lower(), (method, route.template)
