"""Responses that aiohttp's parser refuses: the rotated token in them is the only one that still works."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.model import Answered, Unknown
from broker.providers import raw_response

from .asking import BODY, TOKENS, raw, refresh

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.providers import Endpoint
    from tests.scripted_server import Exchange, ScriptedServer

    Serve = Callable[..., Awaitable[ScriptedServer]]
    EndpointAt = Callable[..., Endpoint]

OK = f"HTTP/1.1 200 OK|Content-Length: {len(BODY)}"
HALF = len(BODY) // 2
CHUNKS = b"0x%x\r\n%s\r\n0x%x\r\n%s\r\n0\r\n" % (HALF, BODY[:HALF], len(BODY) - HALF, BODY[HALF:])

REFUSED = {
    "length twice": raw(f"{OK}|Content-Length: {len(BODY)}", BODY),
    "length as a list": raw(f"HTTP/1.1 200 OK|Content-Length: {len(BODY)}, {len(BODY)}", BODY),
    "two lengths": raw(f"{OK}|Content-Length: 3", BODY),
    "length too small": raw("HTTP/1.1 200 OK|Content-Length: 3", BODY),
    "length that is no number": raw("HTTP/1.1 200 OK|Content-Length: many", BODY),
    "length and chunks": raw("HTTP/1.1 200 OK|Content-Length: 3|Transfer-Encoding: chunked", CHUNKS),
    "chunked, but is not": raw("HTTP/1.1 200 OK|Transfer-Encoding: chunked", BODY),
    "chunk sizes with 0x": raw("HTTP/1.1 200 OK|Transfer-Encoding: chunked", CHUNKS),
    "no colon": raw(f"{OK}|this is no header", BODY),
    "no name": raw(f"{OK}|: x", BODY),
    "blank before the colon": raw(f"{OK}|X : y", BODY),
    "name in UTF-8": raw(f"{OK}|X\u00e9: y", BODY),
    "NUL in a value": raw(f"{OK}|X: a\0b", BODY),
    "lower case": raw(OK.lower(), BODY),
    "HTTP/2": raw(OK.replace("HTTP/1.1", "HTTP/2"), BODY),
    "3,000 header lines": raw(OK + "|Set-Cookie: a=b" * 3_000, BODY),
    "100 before it": raw("HTTP/1.1 100 Continue") + raw(f"{OK}|no colon", BODY),
    "bytes after the body": raw(OK, BODY + b"\0\0\0"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_whole_object_is_read(serve: Serve, endpoint_at: EndpointAt, name: str) -> None:
    """The rotated token is kept, at once, though the server holds the connection open and sends in two segments."""
    done = asyncio.Event()

    async def step(exchange: Exchange) -> None:
        head, body = REFUSED[name].split(BODY[:HALF])
        await exchange.send(head)
        await asyncio.sleep(0.01)
        await exchange.send(BODY[:HALF] + body)
        await done.wait()

    server = await serve(step)
    outcome = await refresh(endpoint_at(server.url), limit=20.0)
    done.set()
    assert isinstance(outcome, Answered), outcome
    assert outcome.answer.refresh_token is not None
    assert outcome.answer.refresh_token.reveal() == TOKENS["refresh_token"]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        raw(f"HTTP/1.1 400 No|Content-Length: {len(BODY)}|no colon", b'{"error": "invalid_grant"}'),
        raw("HTTP/1.1 200 OK|no colon", BODY[:HALF]),
        raw("HTTP/1.1 200 OK|no colon", b"<html>"),
        raw("HTTP/1.1 200 OK|no colon", b'{"a":' * 50_000),
    ],
    ids=["refusal", "cut", "page", "nested"],
)
async def test_all_else_stays_unknown(serve: Serve, endpoint_at: EndpointAt, answer: bytes) -> None:
    """A refusal in a broken response ends no grant, and half an object is none."""

    async def step(exchange: Exchange) -> None:
        await exchange.send(answer)

    outcome = await refresh(endpoint_at((await serve(step)).url), limit=20.0)
    assert isinstance(outcome, Unknown)
    assert outcome.code == "malformed"


def test_headers_are_kept() -> None:
    """The Date of such a response still bounds a token's life, and what is no header is passed over."""
    found = raw_response.reread(raw(f"{OK}|no colon|Date: today|: x", BODY))
    assert found is not None
    assert (found[0], dict(found[1]), found[2]) == (200, {"Content-Length": str(len(BODY)), "Date": "today"}, BODY)


async def test_a_response_in_small_segments_costs_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends half a megabyte byte by byte does not have it read anew at each of them."""
    sizes = list[int]()

    class Refusing:
        """A parser that refuses whatever it is given."""

        def feed_data(self, data: bytes) -> None:
            raise ValueError(data)

    monkeypatch.setattr(raw_response, "reread", lambda given: sizes.append(len(given)))
    handler = raw_response.KeepingHandler(loop=asyncio.get_running_loop())
    handler._parser = Refusing()  # type: ignore[assignment]
    kept = handler.keep()
    parser = handler._parser
    assert parser is not None
    parser.feed_data(raw("HTTP/1.1 200 OK|no colon"))
    while kept.raw is not None and len(kept.raw) < raw_response.MAX_RAW:
        parser.feed_data(b"}")
    with pytest.raises(ValueError, match="HTTP"):
        parser.feed_data(b"}")
    assert sum(sizes) < 10 * raw_response.MAX_RAW


async def test_each_request_has_bytes_of_its_own() -> None:
    """A request that gets the connection of another one before that was judged neither sees its bytes nor ends them."""
    handler = raw_response.KeepingHandler(loop=asyncio.get_running_loop())
    handler.set_response_params()
    first = handler.keep()
    handler.data_received(raw(OK, BODY))
    handler.set_response_params()
    second = handler.keep()
    handler.data_received(raw(f"{OK}|no colon", BODY))
    assert bytes(first.raw or b"") == raw(OK, BODY)
    assert not first.refused
    assert bytes(second.raw or b"") == raw(f"{OK}|no colon", BODY)
    assert second.refused
