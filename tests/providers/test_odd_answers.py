"""Odd responses, many and fast, without a socket: aioresponses stands in for the server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses

from broker.model import Answered, Busy, InvalidClient, Outcome, Rejected, Unknown
from broker.providers import Endpoint, open_http
from broker.secret import Secret
from broker.settings import Provider

TOKEN_ENDPOINT = "https://as.test/token"


class Response(aiohttp.ClientResponse):
    """A response for aiohttp 3.14: aioresponses 0.7.9 makes them as before, without `stream_writer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", SimpleNamespace(output_size=0))
        super().__init__(*args, **kwargs)


async def ask(status: int, **answer: Any) -> Outcome:
    """Return the outcome of a refresh when the server responds so."""
    provider = Provider(kind="oauth2", client_id="c", client_secret="secret-0123", token_endpoint=TOKEN_ENDPOINT)
    async with open_http(1) as http:
        endpoint = Endpoint.from_settings("as", provider, http, clock=lambda: 1_800_000_000_000)
        with aioresponses() as server:
            server.post(TOKEN_ENDPOINT, status=status, response_class=Response, **answer)
            return await endpoint.refresh(Secret("r1"), timeout=10)


GOOD = {"access_token": "a2", "refresh_token": "r2", "expires_in": 3600}


@pytest.mark.parametrize(
    ("status", "answer", "wanted"),
    [
        (200, {"payload": GOOD}, Answered),
        (201, {"payload": GOOD}, Answered),
        (203, {"payload": GOOD, "content_type": "text/plain"}, Answered),
        (299, {"payload": GOOD}, Answered),
        (226, {"body": b"[]"}, Unknown),
        (300, {"body": b""}, Rejected),
        (304, {"body": b""}, Rejected),
        (402, {"body": b"pay"}, Rejected),
        (418, {"payload": {"error": "teapot"}}, Rejected),
        (423, {"payload": {"error": "unauthorized_client"}}, InvalidClient),
        (400, {"payload": {"error": "temporarily_unavailable"}}, Busy),
        (429, {"body": b"", "headers": {"Retry-After": "7"}}, Busy),
        (451, {"body": b"\xff\xfe"}, Rejected),
        (499, {"payload": {"error": {"code": "x" * 1000}}}, Rejected),
        (520, {"body": b"cloud"}, Unknown),
        (599, {"payload": GOOD}, Unknown),
    ],
)
async def test_odd_answers(status: int, answer: dict[str, Any], wanted: type) -> None:
    """Whatever status a server sends, its response is an outcome of the table."""
    assert isinstance(await ask(status, **answer), wanted)


async def test_response_class_is_still_needed() -> None:
    """When this fails, aioresponses supports aiohttp 3.14: remove `Response` above."""
    async with aiohttp.ClientSession() as session:
        with aioresponses() as server:
            server.post(TOKEN_ENDPOINT, payload=GOOD)
            with pytest.raises(TypeError, match="stream_writer"):
                await session.post(TOKEN_ENDPOINT)
