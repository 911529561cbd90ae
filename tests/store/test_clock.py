"""The clock follows Redis's, and an answer that was long on its way does not move it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.store import clock as clock_module
from broker.store.clock import Clock, uptime

REDIS = 1_700_000_000_000.0
"""What Redis's clock shows (epoch ms) when the local monotonic one shows 0."""


class Monotonic:
    """Our monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def clock_gettime(self, _: int) -> float:
        return self.seconds

    def time(self) -> float:
        return REDIS / 1000 - 3600 + self.seconds  # the wall clock is an hour behind


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    moved = Monotonic()
    monkeypatch.setattr(clock_module, "time", moved)
    return moved


def ask(clock: Clock, moved: Monotonic, there_ms: float, back_ms: float, ahead_ms: float = 0) -> None:
    """One request: *there_ms* until Redis reads its clock, which is *ahead_ms* ahead, *back_ms* until the reply."""
    asked = moved.seconds
    moved.seconds += there_ms / 1000
    read = int(REDIS + ahead_ms + moved.seconds * 1000)
    moved.seconds += back_ms / 1000
    clock.observe(read, asked)


def error_ms(clock: Clock, moved: Monotonic, ahead_ms: float = 0) -> float:
    return clock() - (REDIS + ahead_ms + moved.seconds * 1000)


def test_the_first_answer_is_believed(monotonic: Monotonic) -> None:
    clock = Clock()
    assert not clock.observed
    ask(clock, monotonic, 1, 1)
    assert clock.observed
    assert -2.1 <= error_ms(clock, monotonic) <= 2.1


@settings(deadline=None)  # a busy machine is no failure of the clock
@given(slow=st.lists(st.tuples(st.floats(0, 3000), st.floats(0, 3000)), max_size=8))
def test_a_slow_answer_does_not_move_a_time_that_may_be_right(slow: list[tuple[float, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        moved = Monotonic()
        patch.setattr(clock_module, "time", moved)
        clock = Clock()
        ask(clock, moved, 0.1, 0.1)
        for there, back in slow:
            ask(clock, moved, there, back)
            assert -2.2 <= error_ms(clock, moved) <= 1.1


@pytest.mark.parametrize("leap", [-3_600_000, 3_600_000, -50, 50])
def test_a_leap_is_followed_as_closely_as_the_answer_tells(monotonic: Monotonic, leap: float) -> None:
    clock = Clock()
    ask(clock, monotonic, 0.1, 0.1)
    ask(clock, monotonic, 1, 1, leap)
    assert -2.2 <= error_ms(clock, monotonic, leap) <= 2.2


def test_a_wait_begun_during_slow_answers_ends_no_sooner_than_asked(monotonic: Monotonic) -> None:
    """What a provider asks for (`Retry-After`) is stored by the local estimate and ends on Redis's clock."""
    clock = Clock()
    ask(clock, monotonic, 0.1, 0.1)
    ask(clock, monotonic, 0, 80)
    ends = clock() + 2000
    waited = ends - (REDIS + monotonic.seconds * 1000)
    assert waited >= 1998


def test_the_local_clock_is_monotonic() -> None:
    clock = Clock()
    clock.observe(5_000_000, uptime())
    assert 5_000_000 <= clock() <= 5_000_500


@pytest.mark.parametrize(("steps", "offset"), [([-7200], -7200), ([86400, -86400], 0), ([-1] * 12, -12), ([1] * 3, 0)])
def test_steps_add_up(monotonic: Monotonic, steps: list[int], offset: int) -> None:
    """Small steps that come together count as one; smaller ones are drift."""
    clock, ahead = Clock(), 0
    ask(clock, monotonic, 0.1, 0.1)
    assert clock.compare(None, moved_at=0, anchor=None, seen_at=None) is None
    for step in steps:
        ahead += step * 1000
        monotonic.seconds += 2
        ask(clock, monotonic, 1, 1, ahead)
    assert clock.offset / 1000 == pytest.approx(offset, abs=5)


def test_drift_is_no_step(monotonic: Monotonic) -> None:
    """Two clocks that drift apart by 0.02 % are a minute apart after four days, and no token is moved."""
    clock = Clock()
    ask(clock, monotonic, 0.1, 0.1)
    clock.compare(None, moved_at=0, anchor=None, seen_at=None)
    for _ in range(1000):
        monotonic.seconds += 300
        ask(clock, monotonic, 1, 1, -0.0002 * monotonic.seconds * 1000)
    assert clock.offset == 0


def test_a_slow_answer_is_no_step(monotonic: Monotonic) -> None:
    """An answer that took a minute proves no step."""
    clock = Clock()
    ask(clock, monotonic, 0.1, 0.1)
    clock.compare(None, moved_at=0, anchor=None, seen_at=None)
    for there, back in ((60_000, 0), (0, 60_000), (30_000, 30_000)):
        ask(clock, monotonic, there, back)
        assert clock.offset == 0
