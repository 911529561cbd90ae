"""Compressed request bodies: refused on every route and listener before any of it is inflated."""

from __future__ import annotations

import gzip
import os
import time
import zlib

import aiohttp
import pytest

from tests.conftest import RunningBroker, StartBroker
from tests.ports import free_port

BOMB = gzip.compress(bytes(100_000_000), 9)
"""100 kB that would be 100 MB: three tenths of a second of the loop, many of them in one connection."""
READERS = [
    ("PUT", "/v1/grants/g1"),
    ("POST", "/v1/import"),
    ("POST", "/v1/grants/good/login"),
    ("POST", "/v1/grants/good/login/complete"),
    ("POST", "/oauth2/token"),
    ("POST", "/v1/sealing/reseal"),
]
"""Routes that read a body."""
OTHERS = [
    ("GET", "/v1/grants/good/token"),
    ("GET", "/v1/grants/good/authorization"),
    ("POST", "/v1/grants/good/authorization"),
    ("POST", "/v1/grants/good/retry"),
    ("POST", "/healthz"),
    ("POST", "/no/such/route"),
]
"""Routes that read none: proxies send them the headers of somebody's upload."""


async def send(url: str, method: str, path: str, body: bytes, **headers: str) -> tuple[int, str, str]:
    """Send a body on a connection of its own; give the status, the error and what becomes of the connection."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url + path, data=body, headers=headers) as answer,
    ):
        code = (await answer.json()).get("error", "") if answer.content_type == "application/json" else ""
        return answer.status, code, answer.headers.get("Connection", "")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "x-gzip", "gzip, gzip", "identity, gzip"])
async def test_every_coding_is_refused_where_a_body_is_read(broker: RunningBroker, coding: str) -> None:
    """Whatever the coding, known here or not: 415 in JSON, and the connection ends."""
    for method, path in READERS:
        sent = {"Content-Encoding": coding, "X-Broker-Key": broker.admin_key}
        status, code, connection = await send(broker.url, method, path, zlib.compress(b"{}"), **sent)
        assert (status, code, connection.lower()) == (415, "invalid_request", "close"), path


async def test_the_coding_of_an_upload_behind_a_proxy_is_no_concern(broker: RunningBroker) -> None:
    """A route that reads no body answers as ever, with a body or without: nginx and Caddy pass on the header alone."""
    for method, path in OTHERS:
        for body in (b"", zlib.compress(b"{}")):
            headers = {"X-Broker-Key": broker.admin_key}
            plain, *_ = await send(broker.url, method, path, b"", **headers)
            coded, *_ = await send(broker.url, method, path, body, **headers, **{"Content-Encoding": "gzip"})
            assert coded == plain, (method, path, body)


async def test_a_bomb_costs_no_more_than_its_size(start_broker: StartBroker) -> None:
    """A bomb costs this process, which is broker and sender, about as much as noise of its size: it is not inflated."""
    public = f"127.0.0.1:{free_port()}"
    async with start_broker(http={"public_listen": [public]}) as broker:
        listeners = (
            (broker.url, READERS + OTHERS),
            (f"http://{public}", [("POST", "/callback"), ("POST", "/login/x")]),
        )

        async def cost(body: bytes) -> float:
            began = time.process_time()
            for url, paths in listeners:
                for method, path in paths:
                    for headers in ({}, {"X-Broker-Key": broker.admin_key}):
                        await send(url, method, path, body, **headers, **{"Content-Encoding": "gzip"})
            return time.process_time() - began

        noise, bomb = await cost(os.urandom(len(BOMB))), await cost(BOMB)
    assert bomb < 5 * noise, (bomb, noise)


async def test_identity_is_no_coding(broker: RunningBroker) -> None:
    """A client that says `identity`, or nothing, is served."""
    for coding in ({"Content-Encoding": "identity"}, {"Content-Encoding": ""}, {}):
        headers = {"X-Broker-Key": broker.admin_key, **coding}
        status, code, _ = await send(broker.url, "PUT", "/v1/grants/g1", b"{}", **headers)
        assert (status, code) == (400, "invalid_request")
