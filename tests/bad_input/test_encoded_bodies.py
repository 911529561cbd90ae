"""Compressed request bodies: refused on every route and listener before any of it is inflated."""

from __future__ import annotations

import gzip
import os
import time
import zlib

import aiohttp
import pytest

from tests.bad_input.conftest import READER
from tests.conftest import RunningBroker, StartBroker
from tests.ports import free_port

BOMB = gzip.compress(bytes(100_000_000), 9)
"""100 kB that would be 100 MB: three tenths of a second of the loop, many of them in one connection."""
ROUTES = [
    ("PUT", "/v1/grants/g1"),
    ("POST", "/v1/import"),
    ("POST", "/v1/grants/good/refresh"),
    ("POST", "/oauth2/token"),
    ("POST", "/session"),
    ("POST", "/v1/sealing/reseal"),
    ("GET", "/v1/grants/good/token"),
    ("POST", "/v1/grants/good/authorization"),
    ("POST", "/healthz"),
    ("POST", "/no/such/route"),
]


async def refused(url: str, method: str, path: str, body: bytes, coding: str) -> None:
    """Send a compressed body, with a key and without: each time 415 in JSON, and the connection ends."""
    for headers in ({}, {"X-Broker-Key": READER}):
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url + path, data=body, headers={"Content-Encoding": coding, **headers}) as answer,
        ):
            assert answer.status == 415, (method, path)
            assert (await answer.json())["error"] == "invalid_request"
            assert answer.headers["Connection"].lower() == "close"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "x-gzip", "gzip, gzip", "identity, gzip"])
async def test_every_coding_is_refused(broker: RunningBroker, coding: str) -> None:
    """Whatever the coding, known here or not."""
    for method, path in ROUTES:
        await refused(broker.url, method, path, zlib.compress(b"{}"), coding)


async def test_a_bomb_costs_no_more_than_its_size(start_broker: StartBroker) -> None:
    """A bomb costs this process, which is broker and sender, about as much as noise of its size: it is not inflated."""
    public = f"127.0.0.1:{free_port()}"
    async with start_broker(http={"public_listen": [public]}) as broker:
        listeners = ((broker.url, ROUTES), (f"http://{public}", [("POST", "/callback"), ("POST", "/login/x")]))

        async def cost(body: bytes) -> float:
            began = time.process_time()
            for url, paths in listeners:
                for method, path in paths:
                    await refused(url, method, path, body, "gzip")
            return time.process_time() - began

        noise, bomb = await cost(os.urandom(len(BOMB))), await cost(BOMB)
    assert bomb < 5 * noise, (bomb, noise)


async def test_identity_is_no_coding(broker: RunningBroker) -> None:
    """A client that says `identity`, or nothing, is served."""
    for coding in ({"Content-Encoding": "identity"}, {"Content-Encoding": ""}, {}):
        async with broker.session.get(broker.url + "/readyz", headers=coding) as answer:
            assert answer.status == 200
