"""A grant's token in requests of aiohttp, httpx, httpx2 and requests: where it is sent, and what follows a 401."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import aiohttp
import httpx
import pytest

from broker.client import Broker, InvalidConfiguration, ReauthorizationRequired, SyncBroker
from broker.testing import FakeBroker
from tests.client.conftest import Api
from tests.client.senders import SENDERS, TLS, Sender, stream_for
from tests.waiting import until


@pytest.fixture(params=SENDERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sender(name: str) -> Sender:
    return SENDERS[name]


def reports(fake: FakeBroker) -> int:
    """Return how many times the broker received a report."""
    return sum(asked.method == "POST" for asked in fake.requests)


async def test_the_token_goes_to_its_origin_alone(
    sender: Sender, fake: FakeBroker, api: Api, elsewhere: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """Without an origin it is that of the first request, and a request elsewhere is sent without the token."""
    async with sender() as send:
        assert (await send("GET", api.url + "/a"))[0] == 200
        assert (await send("GET", elsewhere.url + "/b"))[0] == 401
        assert (await send("GET", api.url + "/c"))[0] == 200
    assert [came.authorization for came in elsewhere.came] == [None]
    assert reports(fake) == 0, "a 401 to a request without the token says nothing about the token"
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert "a token of g1 is not sent to" in warned[0]


async def test_a_pinned_origin(sender: Sender, api: Api, elsewhere: Api) -> None:
    """With an origin, the first request elsewhere is sent without the token too."""
    async with sender(api.url.upper().replace("HTTP", "http") + "/some/path") as send:
        assert (await send("GET", elsewhere.url + "/b"))[0] == 401
        assert (await send("GET", api.url + "/a"))[0] == 200
    assert [came.authorization for came in elsewhere.came] == [None]


async def test_a_redirect_elsewhere_takes_no_token_along(
    sender: Sender, fake: FakeBroker, api: Api, elsewhere: Api
) -> None:
    """A redirect to another origin carries no token, and neither does the retry after that origin's 401."""
    api.redirects["/out"] = elsewhere.url + "/b"
    async with sender() as send:
        assert (await send("GET", api.url + "/out"))[0] == 401
    assert [came.authorization for came in elsewhere.came] == [None]
    assert reports(fake) == 0
    assert len(api.came) == 1


async def test_a_redirect_within_the_origin_keeps_it(sender: Sender, api: Api) -> None:
    """The API's own redirects are followed with the token."""
    api.redirects["/old"] = "/new"
    async with sender() as send:
        assert (await send("GET", api.url + "/old"))[0] == 200
    assert [came.path for came in api.came] == ["/old", "/new"]


async def test_what_was_served_is_not_sent_again(sender: Sender, fake: FakeBroker, api: Api) -> None:
    """A POST that was served and redirects elsewhere (303) is not served again when the second request is rejected."""
    api.redirects["/jobs"], api.takes = "/jobs/1", lambda _: False
    api.see_other.add("/jobs")
    async with sender() as send:
        assert (await send("POST", api.url + "/jobs", b"x"))[0] == 401
        await until(lambda: reports(fake) == 1)
    assert [came.path for came in api.came].count("/jobs") == 1


async def test_there_and_back_again(sender: Sender, fake: FakeBroker, api: Api, elsewhere: Api) -> None:
    """A redirect back from another origin causes no report: the request may have been sent without the token."""
    api.redirects["/out"], elsewhere.redirects["/b"] = elsewhere.url + "/b", api.url + "/back"
    async with sender() as send:
        await send("GET", api.url + "/out")
    assert elsewhere.came[0].authorization is None
    assert reports(fake) == 0
    assert [came.path for came in api.came] == ["/out", "/back"]


@pytest.mark.parametrize("body", [None, b"z" * 300_000], ids=["no body", "bytes"])
async def test_a_401_is_reported_and_the_request_sent_again(
    sender: Sender, fake: FakeBroker, api: Api, body: bytes | None
) -> None:
    """The API rejects the held token: the broker has it refreshed, and the caller does not notice."""
    grant = fake.grants["g1"]
    async with sender() as send:
        await send("POST", api.url + "/warm", body)
        refused = grant.token
        api.takes = lambda token: token == grant.token != refused
        status, text = await send("POST", api.url + "/a", body)
    assert status == 200
    assert json.loads(text) == {"length": len(body or b"")}
    assert reports(fake) == 1
    assert grant.refreshes == 1
    assert api.tokens[-2:] == [refused, grant.token]


async def test_a_file_is_sent_again_from_where_it_began(
    name: str, sender: Sender, fake: FakeBroker, api: Api, tmp_path: Path
) -> None:
    """A file that can be rewound is a body that can be sent again; httpx sends it as a stream, once."""
    if name in {"httpx", "httpx2"}:
        pytest.skip("an AsyncClient takes no open file")
    path = tmp_path / "body"
    path.write_bytes(b"-" + b"y" * 200_000)
    grant = fake.grants["g1"]
    refused = grant.token
    api.takes = lambda token: token == grant.token != refused
    async with sender() as send:
        with path.open("rb") as file:
            if not name.startswith("httpx"):  # which sends the rest under the length of the whole
                file.read(1)
            status, text = await send("POST", api.url + "/a", file)
        if name.startswith("httpx"):
            assert status == 401
        else:
            assert (status, json.loads(text)) == (200, {"length": 200_000})
        assert (await send("GET", api.url + "/b"))[0] == 200
    assert reports(fake) == 1


async def test_what_has_gone_by_is_not_sent_again(name: str, sender: Sender, fake: FakeBroker, api: Api) -> None:
    """A stream cannot be sent twice: the caller gets its 401 at once, and the report helps the next request."""
    grant = fake.grants["g1"]
    refused = grant.token
    api.takes = lambda token: token == grant.token != refused
    async with sender() as send:
        status, _ = await send("POST", api.url + "/a", stream_for(name, 100_000))
        assert status == 401
        assert len(api.came) == 1
        assert len(api.came[0].body) == 100_000
        assert (await send("GET", api.url + "/b"))[0] == 200
    assert reports(fake) == 1


@pytest.mark.parametrize("streamed", [False, True], ids=["bytes", "stream"])
async def test_a_rotation_while_a_request_is_under_way(
    name: str, sender: Sender, fake: FakeBroker, api: Api, streamed: bool
) -> None:
    """When a newer token is held at the 401 the request is sent again, if it can be, and nothing is reported."""
    grant = fake.grants["g1"]
    old, api.hesitation = grant.token, 0.3

    def takes(token: str) -> bool:
        if token == grant.token == old:
            grant.rotate()
        return token == grant.token

    async with sender() as send:
        await send("GET", api.url + "/warm")
        await asyncio.sleep(0.05)
        api.takes = takes
        status, _ = await send("POST", api.url + "/a", stream_for(name, 100) if streamed else b"x" * 100)
    assert status == (401 if streamed else 200)
    assert len(api.came) == (2 if streamed else 3)
    assert reports(fake) == 0


async def test_an_api_that_always_refuses(sender: Sender, fake: FakeBroker, api: Api) -> None:
    """A 401 that repeats causes two requests and one report, never a loop; during the broker's pause one and none."""
    grant = fake.grants["g1"]
    grant.min_interval = 0.3
    api.takes = lambda _: False
    async with sender() as send:
        await asyncio.sleep(0.4)
        assert (await send("GET", api.url + "/a"))[0] == 401
        assert (len(api.came), reports(fake), grant.refreshes) == (2, 1, 1)
        for _ in range(10):
            assert (await send("GET", api.url + "/a"))[0] == 401
        assert (len(api.came), reports(fake), grant.refreshes) == (12, 2, 1), "the second report gets: too fresh"


async def test_many_refused_at_once(sender: Sender, fake: FakeBroker, api: Api) -> None:
    """However many requests got the 401, there is one report and one refresh."""
    grant = fake.grants["g1"]
    refused = grant.token
    async with sender() as send:
        await send("GET", api.url + "/warm")
        api.takes = lambda token: token == grant.token != refused
        answers = await asyncio.gather(*(send("GET", api.url + "/a") for _ in range(100)))
    assert {status for status, _ in answers} == {200}
    assert grant.refreshes == 1
    assert reports(fake) == 1


async def test_without_the_right_to_refresh(sender: Sender, fake: FakeBroker, api: Api) -> None:
    """A caller that may only read gets its 401 without a wait."""
    fake.grants["g1"].refreshable = False
    api.takes = lambda _: False
    async with sender() as send:
        for _ in range(5):
            assert (await send("GET", api.url + "/a"))[0] == 401
    assert (len(api.came), reports(fake)) == (5, 1)


async def test_a_dead_grant_is_an_error_with_a_link(sender: Sender, fake: FakeBroker, api: Api) -> None:
    """Before the request as after its 401, the error names where a person must log in."""
    grant = fake.grants["g1"]
    async with sender() as send:
        await send("GET", api.url + "/a")
        api.takes = lambda _: False
        grant.dead = True
        with pytest.raises(ReauthorizationRequired) as dead:
            await send("GET", api.url + "/a")
    assert dead.value.login_url == f"{fake.url}/#search=g1"
    grant.kill()
    async with sender() as send:
        with pytest.raises(ReauthorizationRequired):
            await send("GET", api.url + "/a")
    assert len(api.came) == 2


async def test_an_error_of_aiohttp_does_not_show_the_token(fake: FakeBroker, client: Broker, api: Api) -> None:
    """`raise_for_status` keeps the request's headers, and its text does not show the token."""
    api.takes = lambda _: False
    fake.grants["g1"].refreshable = False
    async with aiohttp.ClientSession(middlewares=[client.grant("g1").aiohttp()], raise_for_status=True) as session:
        with pytest.raises(aiohttp.ClientResponseError) as refused:
            await session.get(api.url)
    assert refused.value.request_info.headers["Authorization"] == f"Bearer {fake.grants['g1'].token}"
    assert fake.grants["g1"].token not in repr(refused.value) + str(refused.value) + repr(refused.value.request_info)


@pytest.mark.parametrize("origin", ["api.example.com", "ftp://api.example.com", "https://", "https://a:x", ""])
def test_no_origin(origin: str) -> None:
    """A malformed origin is rejected when the service starts, with an example."""
    with pytest.raises(InvalidConfiguration, match=r"https://api\.example\.com"):
        Broker("http://127.0.0.1:1", "key").grant("g1").aiohttp(origin)


async def test_the_wrong_twin(fake: FakeBroker, api: Api) -> None:
    """A Broker's grant in a synchronous client is rejected, and the reverse; the error names the other class."""
    broker, sync = Broker.from_env(), SyncBroker.from_env()
    with (
        httpx.Client(auth=broker.grant("g1").httpx(), verify=TLS) as client,
        pytest.raises(InvalidConfiguration, match="use SyncBroker"),
    ):
        await asyncio.to_thread(client.get, api.url)
    async with httpx.AsyncClient(auth=sync.grant("g1").httpx(), verify=TLS) as async_client:
        with pytest.raises(InvalidConfiguration, match="use Broker"):
            await async_client.get(api.url)
    assert api.came == []
