"""Every fault that can be ordered, as a client meets it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from broker.sandbox import Sandbox, fingerprint

from .relying import until

if TYPE_CHECKING:
    from broker.sandbox import Authority

    from .relying import RelyingParty


@pytest.fixture
def authority(sandbox: Sandbox) -> Authority:
    """Return the strictest authority: it notices what a fault spends."""
    return sandbox.rotating


@pytest.fixture
def refresh(authority: Authority) -> str:
    """Return a valid refresh token."""
    return str(authority.issue().refresh_token)


async def test_status(authority: Authority, client: RelyingParty, refresh: str) -> None:
    """`status` responds as ordered, spends nothing, and ends after so many times."""
    authority.faults.order("status", 2, headers={"Retry-After": "7"}, body={"error": "busy"})
    for _ in range(2):
        answer = await client.refresh(authority, refresh)
        assert answer.error == (503, "busy")
        assert answer.headers["Retry-After"] == "7"
    assert authority.is_live_refresh(refresh)
    assert (await client.refresh(authority, refresh)).status == 200
    outcomes = [(r.fault, r.status, r.processed) for r in authority.token_requests]
    assert outcomes == [("status", 503, False), ("status", 503, False), (None, 200, True)]
    assert {r.token for r in authority.token_requests} == {fingerprint(refresh)}
    assert {r.family for r in authority.token_requests} == {authority.families[0].id}


async def test_refuse(authority: Authority, client: RelyingParty, refresh: str) -> None:
    """`refuse` closes the connection unread."""
    authority.faults.order("refuse")
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await client.refresh(authority, refresh)
    assert authority.is_live_refresh(refresh)
    assert authority.token_requests[0].status is None


@pytest.mark.parametrize("after_rotation", [True, False])
async def test_hang(authority: Authority, client: RelyingParty, refresh: str, *, after_rotation: bool) -> None:
    """`hang` never responds; clearing releases it without a response."""
    fault = authority.faults.order("hang", after_rotation=after_rotation)
    hanging = asyncio.create_task(client.refresh(authority, refresh))
    await until(lambda: fault.taken == 1 and authority.is_live_refresh(refresh) is not after_rotation)
    done, _ = await asyncio.wait({hanging}, timeout=0.1)
    assert not done
    authority.faults.clear()
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await hanging
    assert authority.token_requests[0].status is None


@pytest.mark.parametrize("after_rotation", [True, False])
async def test_reset(authority: Authority, client: RelyingParty, refresh: str, *, after_rotation: bool) -> None:
    """`reset` breaks the connection within a response, before or after the token was spent."""
    authority.faults.order("reset", after_rotation=after_rotation)
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await client.refresh(authority, refresh)
    assert authority.is_live_refresh(refresh) is not after_rotation


async def test_status_after(authority: Authority, client: RelyingParty, refresh: str) -> None:
    """`status_after` spends the token and responds with an error."""
    authority.faults.order("status_after", status=502)
    assert (await client.refresh(authority, refresh)).status == 502
    assert not authority.is_live_refresh(refresh)
    record = authority.token_requests[0]
    assert (record.status, record.processed) == (502, True)


async def test_truncate(authority: Authority, client: RelyingParty, refresh: str) -> None:
    """`truncate` spends the token and ends in the middle of the body."""
    authority.faults.order("truncate")
    with pytest.raises(aiohttp.ClientPayloadError):
        await client.refresh(authority, refresh)
    assert not authority.is_live_refresh(refresh)


async def test_body(authority: Authority, client: RelyingParty, refresh: str) -> None:
    """`body` responds 200 with any bytes, spending nothing."""
    authority.faults.order("body", body="<html>maintenance", content_type="text/html")
    answer = await client.refresh(authority, refresh)
    assert (answer.status, answer.text) == (200, "<html>maintenance")
    assert answer.headers["Content-Type"] == "text/html"
    assert authority.is_live_refresh(refresh)


async def test_members(authority: Authority, client: RelyingParty, refresh: str) -> None:
    """`members` overrides, adds and removes members of the response; an added token becomes a secret."""
    members: dict[str, Any] = {"expires_in": "30", "refresh_token": None, "access_token": "odd", "x": [1]}
    authority.faults.order("members", members=members)
    answer = (await client.refresh(authority, refresh)).json
    assert (answer["expires_in"], answer["access_token"], answer["x"]) == ("30", "odd", [1])
    assert "refresh_token" not in answer
    assert "odd" in authority.secrets()
    authority.faults.order("members", members=members)
    assert (await client.refresh(authority, "dead")).error == (400, "invalid_grant")


async def test_drip(authority: Authority, client: RelyingParty, refresh: str) -> None:
    """`drip` sends the response byte by byte; clearing ends it."""
    authority.faults.order("drip", interval=0.0005)
    answer = await client.refresh(authority, refresh)
    successor = answer.json["refresh_token"]
    assert authority.is_live_refresh(successor)
    fault = authority.faults.order("drip")
    dripping = asyncio.create_task(client.refresh(authority, successor))
    await until(lambda: fault.taken == 1 and not authority.is_live_refresh(successor))
    authority.faults.clear()
    with pytest.raises(aiohttp.ClientError):
        await dripping


@pytest.mark.parametrize("after_rotation", [True, False])
async def test_invalid_client(
    authority: Authority, client: RelyingParty, refresh: str, *, after_rotation: bool
) -> None:
    """`invalid_client` rejects a right secret; one kind of server spends the token on it."""
    authority.faults.order("invalid_client", after_rotation=after_rotation)
    assert (await client.refresh(authority, refresh)).error == (401, "invalid_client")
    assert authority.is_live_refresh(refresh) is not after_rotation


async def test_until_cleared(authority: Authority, client: RelyingParty, refresh: str) -> None:
    """With times=None a fault stays until it is cleared; orders are served in turn."""
    authority.faults.order("status", status=500)
    authority.faults.order("status", None, status=503)
    statuses = [(await client.refresh(authority, refresh)).status for _ in range(4)]
    assert statuses == [500, 503, 503, 503]
    authority.faults.clear()
    assert (await client.refresh(authority, refresh)).status == 200


@pytest.mark.parametrize(
    ("name", "method", "endpoint"),
    [
        ("rotating", "POST", "revoke"),
        ("cameramanager", "DELETE", "logout"),
        ("v3", "GET", "authorize"),
        ("rotating", "GET", "discovery"),
        ("rotating", "GET", "api"),
    ],
)
async def test_other_endpoints(sandbox: Sandbox, client: RelyingParty, name: str, method: str, endpoint: str) -> None:
    """Every endpoint can be made to fail, and the token endpoint is not affected by that."""
    authority = sandbox.authorities[name]
    authority.faults.order("status", endpoint=endpoint)
    token = str(authority.issue().refresh_token)
    assert (await client.refresh(authority, token)).status == 200
    assert (await client.call(method, authority.endpoint(endpoint))).status == 503
    assert (await client.call(method, authority.endpoint(endpoint))).status != 503


@pytest.mark.parametrize("kind", ["truncate", "reset"])
async def test_breaking_an_empty_answer(sandbox: Sandbox, client: RelyingParty, kind: str) -> None:
    """A response without a body, as to a revocation, can be cut too; dripped it arrives at once."""
    authority = sandbox.rotating
    details: dict[str, Any] = {"after_rotation": True} if kind == "reset" else {}
    authority.faults.order(kind, endpoint="revoke", **details)
    token = str(authority.issue().refresh_token)
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await client.token(authority, endpoint="revoke", token=token)
    assert not authority.is_live_refresh(token)
    authority.faults.order("drip", endpoint="revoke")
    assert (await client.token(authority, endpoint="revoke", token=token)).status == 200


@pytest.mark.parametrize(
    ("kind", "times", "details"),
    [
        ("unheard", 1, {}),
        ("status", 0, {}),
        ("hang", 1, {"status": 500}),
        ("status", 1, {"endpoint": "nowhere"}),
        ("status", 1, {"status": "500"}),
        ("body", 1, {"body": 7}),
    ],
)
def test_bad_orders(kind: str, times: int, details: dict[str, Any]) -> None:
    """An order that cannot be performed is rejected when it is given."""
    with pytest.raises(ValueError, match=r"unknown|times|take|wrong type"):
        Sandbox().v3.faults.order(kind, times, **details)


async def test_orders_over_http(sandbox: Sandbox, client: RelyingParty) -> None:
    """Another process orders, reads the ledger and clears."""
    url = f"{sandbox.url}/sandbox/faults"
    token = str(sandbox.v3.issue().refresh_token)
    async with aiohttp.ClientSession() as http:
        order = {"authority": "v3", "kind": "status", "times": None, "status": 429}
        async with http.post(url, json=order) as response:
            assert response.status == 201
        assert (await client.refresh(sandbox.v3, token)).status == 429
        async with http.get(f"{sandbox.url}/sandbox/state") as response:
            state = (await response.json())["v3"]
        assert state["faults"] == [{"kind": "status", "endpoint": "token", "times": None}]
        assert state["families"][0]["refresh_token"] == token
        assert state["token_requests"][0]["status"] == 429
        assert state["reuse"] == 0
        async with http.delete(url) as response:
            assert response.status == 204
        assert (await client.refresh(sandbox.v3, token)).status == 200
        bad_ones: list[object] = [{"authority": "none", "kind": "status"}, {"kind": "status"}, []]
        for bad in bad_ones:
            async with http.post(url, json=bad) as response:
                assert response.status == 400


async def test_latency(authority: Authority, client: RelyingParty, refresh: str) -> None:
    """Latency delays a response."""
    authority.options.latency = 0.1
    began = time.monotonic()
    assert (await client.refresh(authority, refresh)).status == 200
    assert time.monotonic() - began >= 0.1


async def test_a_client_that_gives_up_is_served_all_the_same(
    authority: Authority, client: RelyingParty, refresh: str
) -> None:
    """A client's time-out does not undo its request: the token is spent although nobody reads the response."""
    authority.options.latency = 0.1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.refresh(authority, refresh)
    assert authority.is_live_refresh(refresh)
    await until(lambda: not authority.is_live_refresh(refresh))


@pytest.mark.parametrize("kind", ["refuse", "hang", "reset", "truncate", "drip"])
async def test_faults_on_a_client_that_has_gone(
    authority: Authority,
    client: RelyingParty,
    refresh: str,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Breaking a connection that is already gone does no harm; the next request is served."""
    authority.options.latency = 0.1
    details: dict[str, Any] = {"after_rotation": True} if kind in {"hang", "reset"} else {}
    authority.faults.order(kind, **details)
    with pytest.raises((TimeoutError, aiohttp.ServerDisconnectedError)):
        async with asyncio.timeout(0.05):
            await client.refresh(authority, refresh)
    if kind != "refuse":
        await until(lambda: not authority.is_live_refresh(refresh))
    authority.faults.clear()
    answer = await client.refresh(authority, str(authority.issue().refresh_token))
    assert answer.status == 200
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
