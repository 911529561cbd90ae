"""A process that stalls by itself: the time that it stood still is no time in which the server did not answer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from broker.model import Answered, Unknown
from broker.providers import time_limit
from broker.providers.time_limit import TimeLimit
from tests.waiting import until

from .asking import TOKENS, refresh
from .conftest import http_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.providers import Endpoint
    from tests.scripted_server import Exchange, ScriptedServer

    Serve = Callable[..., Awaitable[ScriptedServer]]
    EndpointAt = Callable[..., Endpoint]

LIMIT = 0.3
"""Seconds of one request."""


def stall(seconds: float) -> None:
    """Let nothing else run in this process."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


async def in_the_socket(exchange: Exchange) -> bool:
    """Answer, and let nobody read for three times the limit."""
    exchange.writer.write(http_answer(TOKENS))
    stall(3 * LIMIT)
    return True


async def in_two_parts(exchange: Exchange) -> bool:
    """Send the head, stall beyond the limit, and send the body a little later."""
    head, _, body = http_answer(TOKENS).partition(b"\r\n\r\n")
    exchange.writer.write(head + b"\r\n\r\n")
    stall(3 * LIMIT)
    await asyncio.sleep(0.1)
    exchange.writer.write(body)
    return True


async def late_in_the_limit(exchange: Exchange) -> bool:
    """Stall for most of the limit, and answer after a time that would have fitted without that."""
    stall(LIMIT * 0.8)
    await asyncio.sleep(LIMIT / 2)
    exchange.writer.write(http_answer(TOKENS))
    return True


async def again_and_again(exchange: Exchange) -> bool:
    """Stall before each part of the answer."""
    answer = http_answer(TOKENS)
    for start in range(0, len(answer), 40):
        exchange.writer.write(answer[start : start + 40])
        stall(LIMIT / 2)
        await asyncio.sleep(0.01)
    return True


@pytest.mark.parametrize("step", [in_the_socket, in_two_parts, late_in_the_limit, again_and_again])
async def test_an_answer_that_came_while_the_process_stood_still_is_read(
    serve: Serve, endpoint_at: EndpointAt, step: object
) -> None:
    """However long the stall, what the server sent is the outcome: an unknown one would present the token again."""
    server = await serve(step)
    outcome = await refresh(endpoint_at(server.url), LIMIT)
    assert isinstance(outcome, Answered), outcome
    assert len(server.requests) == 1


async def test_a_server_that_is_silent_is_not_waited_for_longer(serve: Serve, endpoint_at: EndpointAt) -> None:
    """A process that runs believes the end of the time, and one that stalls all the time ends, too."""

    async def silent(_: Exchange) -> bool:
        await asyncio.sleep(20)
        return False

    server = await serve(silent, silent)
    began = time.monotonic()
    assert await refresh(endpoint_at(server.url), LIMIT) == Unknown(
        "timeout", "no complete response within the time for one request"
    )
    assert time.monotonic() - began < 5
    asking = asyncio.create_task(refresh(endpoint_at(server.url), LIMIT))
    await until(lambda: len(server.requests) == 2)
    for _ in range(time_limit.MOST_STALLS * 3):
        if asking.done():
            break
        stall(0.1)
        await asyncio.sleep(0)
    assert isinstance(await asking, Unknown)


async def test_a_stall_does_not_let_a_request_last_for_hours() -> None:
    """A host that slept adds the limit once more, and no more."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    watch = TimeLimit(asyncio.timeout(None), 5)
    watch._due = began - 3600
    watch._look()
    watch.cancel()
    assert began + 5 < watch._end <= began + 10 + 0.1
