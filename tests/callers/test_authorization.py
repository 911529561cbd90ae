"""`/v1/grants/{id}/authorization`: what reverse proxies ask before they pass a request on."""

from __future__ import annotations

import asyncio

import pytest

from tests.bad_input.conftest import raw
from tests.callers.conftest import KEY
from tests.conftest import RunningBroker

PATH = "/v1/grants/g1/authorization"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("suffix", ["", "/", "/cameras/7?a=b&c", "/a%20b/%C3%A4", "?min_ttl=x"])
async def test_any_method_and_suffix(broker: RunningBroker, method: str, suffix: str) -> None:
    """Whatever the end user asked, the answer is 200, empty, with the token in a header nobody may store."""
    token = await broker.token("g1")
    status, body, headers = await broker.ask(method, PATH + suffix)
    assert (status, body) == (200, {"text": ""})
    assert headers["Authorization"] == f"Bearer {token['access_token']}"
    assert headers["Cache-Control"] == "no-store"
    assert headers["ETag"] == f'"{token["generation"]}"'


async def test_head(broker: RunningBroker) -> None:
    """HEAD has the same headers."""
    status, _, headers = await broker.ask("HEAD", PATH)
    assert status == 200
    assert headers["Authorization"].startswith("Bearer ")


async def test_the_end_users_authorization_is_not_a_key(broker: RunningBroker) -> None:
    """Proxies forward the end user's Authorization: `X-Broker-Key` wins over it, and without one it is refused."""
    async with broker.session.get(
        broker.url + PATH, headers={"Authorization": "Bearer of-the-end-user", "X-Broker-Key": KEY}
    ) as answer:
        assert answer.status == 200
        assert "of-the-end-user" not in answer.headers["Authorization"]
    async with broker.session.get(broker.url + PATH, headers={"Authorization": "Bearer of-the-end-user"}) as answer:
        assert answer.status == 401
        assert "X-Broker-Key" in await answer.text()
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    async with broker.session.get(broker.url + PATH, headers={"X_Broker_Key": KEY}) as answer:
        assert answer.status == 401, "a name with underscores is another name"


async def test_who_may_not_learns_nothing(broker: RunningBroker) -> None:
    """A grant that is not the caller's is refused alike, whether it exists or not."""
    await broker.ask("PUT", "/v1/grants/other", json={"provider": "acme", "refresh_token": "x" * 20})
    answers = []
    for grant in ("other", "nowhere"):
        async with broker.session.get(
            f"{broker.url}/v1/grants/{grant}/authorization", headers={"X-Broker-Key": KEY}
        ) as answer:
            answers.append((answer.status, await answer.text()))
    assert answers[0] == answers[1]
    assert answers[0][0] == 403
    assert (await broker.ask("GET", "/v1/grants/nowhere/authorization"))[0] == 404
    assert (await broker.ask("GET", "/v1/grants/-x/authorization"))[0] == 400


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_no_request(broker: RunningBroker, chunked: bool) -> None:
    """A body that looks like a request is never run: the next answer belongs to the next request of the link."""
    smuggled = b"GET /v1/grants/other/token HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20_000
    key = f"X-Broker-Key: {KEY}\r\nHost: localhost\r\n".encode()
    if chunked:
        head = b"Transfer-Encoding: chunked\r\n\r\n"
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(smuggled), smuggled)
    else:
        head, body = b"Content-Length: %d\r\n\r\n" % len(smuggled), smuggled
    after = b"GET /v1/grants/g1/token HTTP/1.1\r\nConnection: close\r\n" + key + b"\r\n"
    answer = await raw(broker, b"PUT " + PATH.encode() + b" HTTP/1.1\r\n" + key + head + body + after)
    assert answer.count(b"HTTP/1.1 200") in {1, 2}, "drained, or closed"
    assert answer.count(b"HTTP/1.1") == answer.count(b"HTTP/1.1 200")
    assert answer.startswith(b"HTTP/1.1 200")


async def test_it_waits_as_a_read_does(broker: RunningBroker) -> None:
    """Without a valid token it has one made and waits as `Prefer` says, then 503 with Retry-After."""
    await broker.ask("PUT", "/v1/grants/dead", json={"provider": "acme", "refresh_token": "never-issued-" + "x" * 20})
    async with asyncio.timeout(8):
        status, body, headers = await broker.ask("GET", "/v1/grants/dead/authorization", headers={"Prefer": "wait=1"})
    assert status in {409, 503}
    assert body["error_description"]
    assert status == 409 or int(headers["Retry-After"]) >= 1
