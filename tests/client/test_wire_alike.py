"""The fake broker responds like the real one: status, headers and members of each response, side by side."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from broker.sandbox import Sandbox
from broker.secret import key_digest
from broker.testing import FakeBroker
from tests.conftest import RunningBroker, StartBroker

_COMPARED = (
    "Allow",
    "Cache-Control",
    "Content-Type",
    "ETag",
    "Preference-Applied",
    "Retry-After",
    "Vary",
    "WWW-Authenticate",
)


KEY = "fake-broker-key-of-32-characters-0"
READER = "reader-key-of-32-characters-00000"
ASKED: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "/v1/grants/g1/token", {}),
    ("GET", "/v1/grants/g1/token", {"Prefer": "wait=3"}),
    ("GET", "/v1/grants/g1/token", {"X-Broker-Key": "", "Authorization": f"Bearer {KEY}"}),
    ("GET", "/v1/grants/g1/token", {"If-None-Match": '"GENERATION"'}),
    ("GET", "/v1/grants/g1/token", {"If-None-Match": '"1764000000000"', "Prefer": "wait=1"}),
    ("GET", "/v1/grants/g1/token", {"If-None-Match": '"GENERATION"', "Prefer": "wait=1"}),
    ("GET", "/v1/grants/g1/token", {"X-Broker-Key": ""}),
    ("GET", "/v1/grants/g1/token", {"X-Broker-Key": "nobody's"}),
    ("GET", "/v1/grants/g9/token", {}),
    ("GET", "/v1/grants/g1/token?min_ttl=60", {}),
    ("GET", "/v1/grants/g1/token?min_ttl=1.5", {}),
    ("GET", "/v1/grants/g1/token?min_ttl=-1", {}),
    ("GET", "/v1/grants/g1/token?min_ttl=7200", {}),
    ("DELETE", "/v1/grants/g1/token", {}),
    ("GET", "/v1/grants/g1/refresh", {}),
    ("GET", "/v1/grants/g1/other", {}),
    ("POST", "/v1/grants/g1/refresh", {}),
    ("POST", "/v1/grants/g1/refresh", {"If-Match": "GENERATION"}),
    ("POST", "/v1/grants/g1/refresh", {"If-Match": '"GENERATION"'}),
    ("POST", "/v1/grants/g1/refresh", {"If-Match": '"1764000000000"'}),
    ("POST", "/v1/grants/g1/refresh", {"If-Match": '"1764000000000"', "Prefer": "return=minimal, wait=2"}),
    ("POST", "/v1/grants/g9/refresh", {"If-Match": '"1764000000000"'}),
]


class Shape(NamedTuple):
    """A response without what differs from one broker to another."""

    status: int
    headers: dict[str, str]
    members: list[str]
    error: str | None


@pytest.fixture
def fake_broker() -> Iterator[FakeBroker]:
    """Yield a fake with a key that the real broker accepts too."""
    with FakeBroker(key=KEY) as running:
        yield running


@pytest.fixture
async def real(start_broker: StartBroker, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[RunningBroker]:
    """Start a broker with g1, whose caller the fake knows too."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
    callers = {
        "svc": {"key_sha256": key_digest(KEY), "read": ["g*"], "refresh": ["g*"]},
        "reader": {"key_sha256": key_digest(READER), "read": ["g*"]},
    }
    async with start_broker(data_dir=tmp_path / "own", callers=callers) as running:
        await running.import_("g1", "acme", sandbox.rotating.issue(scope="read").refresh_token or "")
        yield running


async def shape(session: aiohttp.ClientSession, url: str, method: str, path: str, headers: dict[str, str]) -> Shape:
    """Return the response to a request whose headers have the current generation for `GENERATION`."""
    key = {"X-Broker-Key": KEY}
    async with session.get(f"{url}/v1/grants/g1/token", headers=key) as answer:
        etag = answer.headers.get("ETag", "")
    sent = {name: value.replace('"GENERATION"', etag) for name, value in {**key, **headers}.items() if value}
    async with session.request(method, url + path, headers=sent) as answer:
        body: Any = await answer.json() if answer.content_type == "application/json" else {}
        received = {name: answer.headers[name] for name in _COMPARED if name in answer.headers}
        if answer.status == 304 or not body:
            received.pop("Content-Type", None)
        received["Content-Type"] = received.get("Content-Type", "").partition(";")[0]
        received["ETag"] = re.sub(r'"[0-9]{13}"', "ETAG", received.get("ETag", ""))
        if "Retry-After" in received:
            received["Retry-After"] = "SECONDS"
        return Shape(answer.status, received, sorted(body), body.get("error"))


async def test_a_living_grant(real: RunningBroker, fake_broker: FakeBroker) -> None:
    """A token, no change, and every error are alike."""
    fake_broker.add("g1").min_interval = 60
    async with aiohttp.ClientSession() as session:
        real_ones, fake_ones = await asyncio.gather(
            *(asyncio.gather(*(shape(session, url, *row) for row in ASKED)) for url in (real.url, fake_broker.url))
        )
    for row, real_one, fake_one in zip(ASKED, real_ones, fake_ones, strict=True):
        assert fake_one == real_one, row
    assert {shape.status for shape in real_ones} == {200, 204, 304, 400, 401, 404, 405, 428, 429}


async def test_a_reader(real: RunningBroker, fake_broker: FakeBroker) -> None:
    """A caller without the right `refresh` can neither ask for more lifetime, nor report."""
    fake_broker.add("g1").refreshable = False
    async with aiohttp.ClientSession() as session:
        for method, path, headers in (
            ("GET", "/v1/grants/g1/token?min_ttl=60", {}),
            ("POST", "/v1/grants/g1/refresh", {"If-Match": '"GENERATION"'}),
        ):
            real_one = await shape(session, real.url, method, path, {**headers, "X-Broker-Key": READER})
            assert await shape(session, fake_broker.url, method, path, headers) == real_one
            assert real_one.status == 403


@pytest.mark.parametrize(
    ("status", "fault"),
    [(409, {"status": 400, "body": {"error": "invalid_grant"}}), (503, {"status": 503, "body": {}})],
    ids=["dead", "down"],
)
async def test_nothing_valid(
    real: RunningBroker, fake_broker: FakeBroker, sandbox: Sandbox, status: int, fault: dict[str, Any]
) -> None:
    """A grant without a token is alike: dead, and while its provider is down."""
    grant = fake_broker.add("g2", lifetime=1)
    grant.provider_up = False
    sandbox.rotating.options.access_lifetime = 1
    for _ in range(30):
        sandbox.rotating.faults.order("status", **fault)
    put = {"provider": "acme", "refresh_token": sandbox.rotating.issue().refresh_token}
    await real.ask("PUT", "/v1/grants/g2", json=put)
    if status == 409:
        grant.kill()
    grant.expire()
    path, headers = "/v1/grants/g2/token", {"Prefer": "wait=2"}
    async with aiohttp.ClientSession() as session:
        real_one = await shape(session, real.url, "GET", path, headers)
        fake_one = await shape(session, fake_broker.url, "GET", path, headers)
    assert fake_one == real_one
    assert fake_one.status == status
