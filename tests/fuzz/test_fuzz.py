"""Each target for a second or so, with a fixed seed; `python -m tests.fuzz` goes on from there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import strategies as st

from broker.api import app
from tests.fuzz import answers, documents, headers, lines, served
from tests.fuzz.fuzzing import Result, Target, fuzz

PURE = (*answers.TARGETS, *documents.TARGETS, *lines.TARGETS, *headers.TARGETS)


def _require_no_crash(target: Target) -> None:
    result = Result(target.name)
    fuzz(target, result, seed=1, inputs=target.in_suite)
    assert result.inputs >= target.in_suite
    for place, crash in result.crashes.items():
        pytest.fail(f"{place}\nseed {crash.seed}, input {crash.shown[:2000]}\n{crash.error}")


@pytest.mark.parametrize("target", PURE, ids=lambda target: target.name)
def test_nothing_crashes_a_reader(target: Target) -> None:
    """Whatever is read is read, or refused by the error that is meant for it."""
    _require_no_crash(target)


@pytest.fixture(scope="module")
def running() -> Iterator[served.Served]:
    """Yield a broker in a thread, for all tests here."""
    with served.serving() as running:
        yield running


@pytest.fixture
def broker(running: served.Served) -> served.Served:
    """Return it, with the log of this test in its hands: the one before gave it back."""
    running.take_log()
    return running


@pytest.mark.parametrize("number", [0, 1], ids=["fast-reads", "wire"])
def test_nothing_crashes_a_broker(broker: served.Served, number: int) -> None:
    """The fast path of reads answers as the router does, and no bytes are a bug to the broker."""
    _require_no_crash(served.targets(broker)[number])


def test_no_route_does_what_is_not_described(broker: served.Served) -> None:
    """Without a key every route answers as the OpenAPI document says; `tests/callers/test_openapi.py` has one."""
    result = Result(served.ROUTES)
    served.fuzz_routes(broker, result, seed=1, examples=2, key=None, phases="examples,fuzzing")
    assert result.inputs > 50
    assert [crash.error for crash in result.crashes.values()] == []


def test_a_crash_is_found_and_shown() -> None:
    """A check that fails for one kind of input is noted once, with its smallest input and its seed; others go on."""

    def check(text: str) -> None:
        assert "x" not in text, "an x"

    result = Result("planted")
    fuzz(Target("planted", st.text("abx", max_size=20), check), result, seed=5, inputs=300)
    [crash] = result.crashes.values()
    assert (crash.seed, crash.shown) == (5, "'x'")
    assert "an x" in crash.error
    assert crash.times >= 2
    assert result.next_seed > 6


def test_a_difference_between_fast_path_and_router_is_found(
    broker: served.Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that the router has no route for, and the fast path serves, is a crash of that target."""
    genuine = app.find_read

    def lenient(method: str, path: str) -> object:
        return genuine(method, path.replace("%", "", 1))

    monkeypatch.setattr(app, "find_read", lenient)
    [target, _] = served.targets(broker)
    request = f"GET /v1/grants/g%1/token HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Broker-Key: {served.KEY}\r\n"
    with pytest.raises(AssertionError):
        target.check(f"{request}Connection: close\r\n\r\n".encode())


def test_a_bug_of_the_broker_is_found(broker: served.Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that fails is a crash of the wire's target by its answer, and by the log alone."""

    async def broken(*_: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(app, "find_read", lambda *_: broken)
    [_, target] = served.targets(broker)
    request = b"GET /v1/grants/g1/token HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with pytest.raises(AssertionError, match="500 Internal Server Error"):
        target.check(request)
    with pytest.raises(AssertionError, match=r"request\.failed"):
        broker.require_sound()
