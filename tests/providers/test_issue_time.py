"""The life of a token counts from when it was issued, however late its response is read."""

from __future__ import annotations

import time
from email.utils import formatdate
from itertools import product
from typing import TYPE_CHECKING

import pytest

from broker.model import Answered, Commit, TokenResponse
from broker.providers.issue_time import clock_ahead_ms, earliest
from broker.refresh import policy
from broker.secret import Secret
from tests.refresh.claims import claim
from tests.scripted_server import Exchange, http

from .asking import TOKENS, refresh

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.model import Outcome
    from broker.providers import Endpoint
    from tests.scripted_server import ScriptedServer

    Serve = Callable[..., Awaitable[ScriptedServer]]
    EndpointAt = Callable[..., Endpoint]

FROZEN = 1.2
"""Seconds for which this process stands still while a response waits in its socket."""


@pytest.mark.parametrize(
    ("sent_at", "date", "ahead", "issued_at"),
    [
        (None, None, 0, 100_000),
        (None, 90_000, 0, 100_000),
        (78_000, None, 0, 78_000),
        (78_500, 78_000, 0, 78_500),  # whole seconds, rounded down
        (78_000, 78_000, 0, 78_000),
        (78_000, 99_000, 0, 99_000),  # the server worked on it for long
        (78_000, 100_000, 0, 100_000),
        (78_000, 101_000, 0, 78_000),  # a clock that is ahead
        (78_000, 4_000_000, 0, 78_000),
        (78_000, 10_000, 0, 78_000),  # one that is behind
        (78_000, 0, 0, 78_000),
        (78_000, 83_000, 5_000, 78_000),  # ahead by what earlier responses showed
        (78_000, 99_000, 5_000, 94_000),
        (78_000, 99_000, -5_000, 99_000),
        (78_000, 99_000, 3_600_000, 78_000),
        (100_000, 99_000, 0, 100_000),
        (101_000, 100_000, 0, 100_000),  # this host's clock was set back meanwhile
        (7_200_000, None, 0, 100_000),
    ],
)
def test_order_of_the_clocks(sent_at: int | None, date: int | None, ahead: int, issued_at: int) -> None:
    """A response that is read at 100 s."""
    assert earliest(100_000, sent_at, date, ahead) == issued_at


def test_no_order_of_the_clocks_leaves_the_bounds() -> None:
    """It is never before the request was sent and never after the response was read."""
    times = range(0, 8_000, 1_000)
    for now, sent_at, date, ahead in product(times, times, times, (0, 1_000, 5_000)):
        issued_at = earliest(now, sent_at, date, ahead)
        assert min(sent_at, now) <= issued_at <= now
        assert issued_at <= max(sent_at, date) or sent_at > now


def test_a_clock_that_is_ahead() -> None:
    """Only a Date after the reading proves it."""
    assert [clock_ahead_ms(10_000, date) for date in (None, 0, 10_000, 13_000)] == [0, 0, 0, 3_000]


def wall() -> int:
    """Return this host's time (epoch ms)."""
    return int(time.time() * 1000)


def freezing(seconds: float, *, work: float = 0, date: Callable[[float], float] | None = None) -> object:
    """Return a step that works, answers, and then lets nobody in this process read for *seconds*."""

    async def step(exchange: Exchange) -> bool:
        ends = time.monotonic() + work
        while time.monotonic() < ends:  # the other side does not run meanwhile, either
            pass
        head = () if date is None else (f"Date: {formatdate(date(time.time()), usegmt=True)}",)
        exchange.writer.write(http({**TOKENS, "expires_in": 30}, 200, *head))
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            pass
        return True

    return step


async def exchange(endpoint: Endpoint) -> Outcome:
    """Redeem a code."""
    return await endpoint.exchange_code(Secret("c"), redirect_uri="https://b.test/", code_verifier=None, timeout=9)


async def redeem(endpoint: Endpoint) -> Outcome:
    """Redeem a refresh token."""
    return await refresh(endpoint, 9)


@pytest.mark.parametrize("ask", [redeem, exchange])
@pytest.mark.parametrize(
    ("work", "date"),
    [
        pytest.param(0, None, id="no date"),
        pytest.param(0, lambda now: now, id="right"),
        pytest.param(0, lambda now: now + 3600, id="an hour ahead"),
        pytest.param(0, lambda now: now - 3600, id="an hour behind"),
        pytest.param(2.1, lambda now: now, id="slow server"),
    ],
)
async def test_life_of_a_response_that_is_read_late(
    serve: Serve,
    endpoint_at: EndpointAt,
    ask: Callable[[Endpoint], Awaitable[Outcome]],
    work: float,
    date: Callable[[float], float] | None,
) -> None:
    """A process that was frozen sells what is left: by the sending, or by the Date of a server that works for long."""
    server = await serve(freezing(FROZEN, work=work, date=date))
    began = wall()
    outcome = await ask(endpoint_at(server.url, clock=wall))
    assert isinstance(outcome, Answered)
    now = wall()
    expires_at, refresh_at = policy.plan(outcome.answer, endpoint_at(server.url).dialect, now, 0.5)
    assert now + 30_000 - expires_at >= FROZEN * 1000  # nothing is sold that was over before the reading
    assert expires_at >= began + 30_000 + max(0, work - 1) * 1000  # nor is what the Date shows to be left withheld
    assert now < refresh_at < expires_at


async def test_a_server_known_to_be_ahead(serve: Serve, endpoint_at: EndpointAt) -> None:
    """A clock that is two seconds ahead does not add two seconds once a quick response has shown it."""
    ahead = [freezing(seconds, date=lambda now: now + 2) for seconds in (0, 2.5)]
    server = await serve(*ahead)
    endpoint = endpoint_at(server.url, clock=wall)
    await redeem(endpoint)
    sent = wall()
    outcome = await redeem(endpoint)
    assert isinstance(outcome, Answered)
    assert sent <= outcome.answer.counts_from(wall()) <= sent + 1_100


@pytest.mark.parametrize("name", ["expires_at", "expires_on"])
async def test_a_point_in_time_without_a_date(serve: Serve, endpoint_at: EndpointAt, name: str) -> None:
    """An answer that says when its token ends is taken at its word, however late it is read."""
    ends = int(time.time()) + 60

    async def step(exchange: Exchange) -> bool:
        body = {"access_token": "a", "refresh_token": "r", name: ends}
        exchange.writer.write(http(body))
        thawed = time.monotonic() + FROZEN
        while time.monotonic() < thawed:
            pass
        return True

    server = await serve(step)
    endpoint = endpoint_at(server.url, clock=wall)
    outcome = await redeem(endpoint)
    assert isinstance(outcome, Answered)
    assert policy.plan(outcome.answer, endpoint.dialect, wall(), 0.5)[0] == ends * 1000


def answer_issued(at: int | None, life: int = 30_000) -> TokenResponse:
    """Return an answer whose token was issued *at*."""
    return TokenResponse(Secret("a2"), Secret("r2"), "Bearer", life, None, None, {}, issued_at=at)


def test_what_is_kept_counts_from_the_issue(endpoint_at: EndpointAt) -> None:
    """Issue, end and refresh of a token move together; one that ended meanwhile is refreshed soon, not in a loop."""
    dialect, now = endpoint_at("https://a.test").dialect, 1_800_000_000_000

    def kept(issued_at: int | None) -> Commit:
        step = policy.decide(claim(), Answered(answer_issued(issued_at)), dialect, now, 0.5)
        assert isinstance(step, Commit)
        return step

    prompt, late, over = kept(None).token, kept(now - 10_000).token, kept(now - 60_000).token
    assert prompt is not None
    assert late is not None
    assert over is not None
    assert (prompt.issued_at, prompt.expires_at) == (now, now + 30_000)
    assert (late.issued_at, late.expires_at, late.refresh_at) == (
        now - 10_000,
        now + 20_000,
        prompt.refresh_at - 10_000,
    )
    assert (over.expires_at, over.refresh_at) == (now - 30_000, now + policy.LEAST_LIFE)
    assert kept(now + 7_200_000).token == prompt  # a clock that was set back adds nothing
