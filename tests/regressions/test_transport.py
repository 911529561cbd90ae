"""Transport: codings, cuts, drips, redirects, firewalls, addresses, as the wire between two hosts does them."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from email.utils import formatdate
from typing import Any

import pytest

from tests.regressions.conftest import MakeGround
from tests.scripted_server import (
    AuthorizationServer,
    Exchange,
    Step,
    authorization_server,
    http,
    rotated,
    says,
    success,
)
from tests.waiting import until


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a body in chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def coded(head: str, code: Any) -> Step:
    """Return a rotation whose JSON went through *code*, under these header lines."""
    return rotated(lambda body: f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + code(body))


def raw_deflate(body: bytes) -> bytes:
    """Deflate without the zlib head, as some servers send it."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            coded("Content-Encoding: gzip, gzip\r\nConnection: close", lambda b: gzip.compress(gzip.compress(b))),
            id="gzip-twice",
        ),
        pytest.param(coded("Content-Encoding: x-gzip\r\nConnection: close", gzip.compress), id="x-gzip"),
        pytest.param(coded("Content-Encoding: deflate\r\nConnection: close", raw_deflate), id="deflate-raw"),
        pytest.param(
            coded("Transfer-Encoding: gzip, chunked", lambda b: chunked(gzip.compress(b))), id="transfer-gzip"
        ),
        pytest.param(
            coded(
                "Transfer-Encoding: chunked", lambda b: chunked(b[:9], b[9:], end=b"0\r\nX-Sum: 1\r\nX-N: 2\r\n\r\n")
            ),
            id="trailers",
        ),
        pytest.param(coded("Transfer-Encoding: chunked", lambda b: chunked(b[:9], b[9:], end=b"")), id="no-last-chunk"),
        pytest.param(coded("Content-Encoding: gzip\r\nConnection: close", lambda b: b), id="not-gzip"),
    ],
)
async def test_readable_in_odd_wrapping(make_ground: MakeGround, answer: Step) -> None:
    """What can be decoded, and JSON that is whole, counts; nothing hangs; the wish for plain bytes was said."""
    async with make_ground("g1") as ground:
        ground.auth_server.script.append(answer)
        assert (await ground.falls_due(timeout=4))["last"]["outcome"] == "refreshed"
        assert ground.auth_server.requests[-1].headers["accept-encoding"] == "identity"
        assert (await ground.falls_due())["last"]["outcome"] == "refreshed"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(coded("Content-Encoding: br\r\nConnection: close", lambda b: b"\x8b" + b), id="br"),
        pytest.param(coded("Transfer-Encoding: chunked", lambda b: chunked(b[:30], end=b"")), id="half-a-chunk"),
        pytest.param(coded("Transfer-Encoding: chunked", lambda b: b"zz\r\n" + b), id="no-chunk"),
    ],
)
async def test_unreadable_is_unknown(make_ground: MakeGround, answer: Step) -> None:
    """A rotation that nobody can read is unknown, never dead, and not repeated while a token lives."""
    async with make_ground("g1") as ground:

        async def lost(exchange: Exchange) -> None:
            await answer(exchange)
            exchange.lose_rotation()

        ground.auth_server.script.append(lost)
        state = await ground.falls_due(timeout=4)
        assert (state["state"], state["last"]["outcome"]) == ("due", "unknown")
        await ground.falls_due()
        assert len(ground.auth_server.requests_of("g1")) == 2


async def test_a_byte_now_and_then(make_ground: MakeGround, other: AuthorizationServer) -> None:
    """A dripping server is left at the time for one request, and keeps nobody else from being refreshed."""

    async def drip(exchange: Exchange) -> None:
        for byte in http({"access_token": "never"}):
            await exchange.send(bytes([byte]))
            await asyncio.sleep(0.1)

    async with make_ground("g1", refresh={"request_timeout": "2s", "lease": "8s"}) as ground:
        grants = [f"n{number}" for number in range(32)]
        for grant in grants:
            await ground.broker.import_(grant, "other", other.issue(grant))
        for grant in grants:
            await until(lambda: ground.has_token(grant))
        ground.auth_server.script.append(drip)
        count = len(ground.auth_server.requests)

        async def others_first() -> None:
            await ground.due("g1")
            await until(lambda: len(ground.auth_server.requests) > count)
            await ground.due(*grants, provider="other")
            await until(lambda: all(len(other.requests_of(grant)) == 2 for grant in grants))
            assert (await ground.state_of("g1"))["state"] == "leased", "the others waited for it"

        state = await ground.recorded("g1", others_first())
        assert 1.8 < time.monotonic() - ground.auth_server.requests[-1].at < 4, "request_timeout is for all of it"
        assert (state["state"], state["last"]["outcome"]) == ("due", "unknown")
        assert state["last"]["detail"].startswith("timeout")


async def test_redirects(make_ground: MakeGround) -> None:
    """A redirect is refused, not followed: nobody else hears the refresh token, and one does not suspend a provider."""
    async with authorization_server() as thief, make_ground("g1") as ground:
        for status, location in ((302, "/login?ticket=loc-secret"), (307, thief.url), (308, thief.url)):
            ground.auth_server.script.extend(
                [success(), success(), says(b"", status, f"Location: {location}/token?code=loc-secret")]
            )
            assert (await ground.retried())["last"]["outcome"] == "refreshed"
            assert (await ground.falls_due())["last"]["outcome"] == "refreshed"
            state = await ground.falls_due()
            assert (state["state"], state["last"]["detail"].split(":")[0]) == ("due", f"http_{status}")
            assert (await ground.provider())["suspended"] is None
        assert (await ground.retried())["last"]["outcome"] == "refreshed"
        assert thief.requests == []
        assert "loc-secret" not in ground.broker.log.getvalue()
        assert not [request for request in ground.auth_server.requests if request.target != "/token"]


async def test_web_firewall(make_ground: MakeGround) -> None:
    """A stable User-Agent is sent; a firewall's blip parks nobody, costs a handful of requests, and ends by itself."""

    async def firewall(exchange: Exchange) -> bool | None:
        if exchange.request.headers.get("user-agent"):
            return await success()(exchange)
        return await says(b"<html>Forbidden</html>", 403, kind="text/html")(exchange)

    grants = [f"g{number}" for number in range(10)]
    async with make_ground(*grants) as ground:
        ground.auth_server.usual = firewall
        for grant in grants:
            await ground.falls_due(grant)
        assert len({request.headers["user-agent"] for request in ground.auth_server.requests}) == 1
        ground.auth_server.usual = says(b"<html>Forbidden</html>", 403, kind="text/html")
        count = len(ground.auth_server.requests)
        await ground.due(*grants)
        await until(lambda: len(ground.auth_server.requests) >= count + 4)
        await asyncio.sleep(2)
        state = await ground.provider()
        assert (state["grants"]["parked"], state["suspended"]) == (0, None)
        assert len(ground.auth_server.requests) <= count + len(grants) + 2
        ground.auth_server.usual = success()
        await ground.due(*grants)
        for grant in grants:
            await until(lambda: _refreshed(ground, grant))


async def _refreshed(ground: Any, grant: str) -> bool:
    state = await ground.state_of(grant)
    return bool(state["state"] == "due" and state["last"]["outcome"] == "refreshed" and state["failures"] == 0)


YEAR = 31_536_000


@pytest.mark.parametrize(
    ("status", "headers", "least", "most"),
    [
        pytest.param(429, ["DATE 90"], 88, 92, id="date"),
        pytest.param(503, ["DATE 90"], 88, 92, id="date-503"),
        pytest.param(429, ["DATE -90"], 1, 3, id="past-date"),
        pytest.param(503, ["1.5"], 1.5, 3.5, id="fraction"),
        pytest.param(429, ["-1"], 1, 3, id="negative"),
        pytest.param(503, [str(YEAR)], 86_000, 86_400, id="year"),
        pytest.param(429, ["soon"], 1, 3, id="word"),
        pytest.param(503, ["1", "2"], 2, 4, id="twice"),
    ],
)
async def test_retry_after(make_ground: MakeGround, status: int, headers: list[str], least: float, most: float) -> None:
    """`Retry-After` in any dress never raises, never spins, is honoured within bounds, and an operator can end it."""
    lines = [f"Retry-After: {_dated(value)}" for value in headers]
    async with make_ground("g1") as ground:
        ground.auth_server.script.append(says(b"", status, *lines))
        described = await ground.falls_due()
        busy = ground.auth_server.requests[-1].at
        assert (described["state"], described["last"]["outcome"]) == ("due", "busy")
        state = await ground.provider()
        if least > 10:
            assert least - 2 <= state["not_before"] - time.time() <= most
        else:
            assert (await ground.redis.zscore("broker:{0}:due:as", "g1") or 0) <= (time.time() + most) * 1000
        assert (await ground.broker.token("g1"))["access_token"] == ground.auth_server.access["g1"]
        if most > 10:
            await ground.due("g1")
            assert (await ground.provider())["not_before"] == state["not_before"]
            await ground.resume()
            assert (await ground.falls_due())["last"]["outcome"] == "refreshed"
        else:
            await until(lambda: len(ground.auth_server.requests_of("g1")) == 3)
            assert least - 0.05 < ground.auth_server.requests[-1].at - busy


def _dated(value: str) -> str:
    word, _, ahead = value.partition(" ")
    return formatdate(time.time() + int(ahead), usegmt=True) if word == "DATE" else value
