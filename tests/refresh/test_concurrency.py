"""How many requests of a lane may be in flight, and how many begin together: what a provider has shown to bear."""

from __future__ import annotations

import pytest

from broker.refresh.concurrency import CLOSED_AFTER, QUICK, BatchSize, ConcurrencyLimit

HIGHEST = 32


def answered(batch_size: BatchSize, times: int, took: float) -> None:
    """So many answers that each *took* so many seconds."""
    for _ in range(times):
        batch_size.answered(100.0, 100.0 + took)


def test_a_failure_halves_it_and_several_close_it() -> None:
    """Requests that were in flight together are one failure; after several in a row one at a time is left."""
    limit = ConcurrencyLimit(HIGHEST)
    assert int(limit) == HIGHEST
    limit.failed(began=1, now=2)
    limit.failed(began=1, now=2.1)
    assert int(limit) == HIGHEST // 2
    limit.failed(began=3, now=4)
    assert CLOSED_AFTER == 3
    assert int(limit) == 1


def test_it_grows_again_as_requests_succeed() -> None:
    """By one for each up to where it went wrong, then ever more slowly, never beyond the highest."""
    limit = ConcurrencyLimit(HIGHEST)
    for began in (1, 3, 5):
        limit.failed(began, began + 1)
    assert int(limit) == 1
    limit.succeeded(began=5)
    assert int(limit) == 1, "what was under way says nothing of the new limit"
    limits = []
    for _ in range(HIGHEST * HIGHEST):
        limit.succeeded(began=7)
        limits.append(int(limit))
    assert limits[:6] == [2, 3, 4, 4, 4, 4], "it went wrong at 4"
    assert limits == sorted(limits)
    assert limits[-1] == HIGHEST


@pytest.mark.parametrize(
    ("took", "size"),
    [(0.0, 16), (QUICK / 2, 16), (QUICK * 1.5, 10), (0.05, 10), (5.0, 10)],
)
def test_batches(took: float, size: int) -> None:
    """Halves of a lane where a server answers at once, thirds where it takes its time."""
    batch_size = BatchSize()
    answered(batch_size, 60, took)
    assert batch_size.within(HIGHEST) == size


def test_answers_that_wait_for_the_cpu_are_no_slow_server() -> None:
    """Of a burst that a quick server answers at once, the last wait for the CPU: the first say what it took."""
    batch_size = BatchSize()
    for _ in range(20):
        for nth in range(15):
            answered(batch_size, 1, QUICK * (0.2 + nth / 10))
    assert batch_size.within(HIGHEST) == HIGHEST // 2


def test_a_server_that_slows_down_shows_soon() -> None:
    """A few answers show it, and one quick answer among slow ones shows nothing."""
    batch_size = BatchSize()
    answered(batch_size, 60, QUICK / 5)
    assert batch_size.within(HIGHEST) == HIGHEST // 2
    answered(batch_size, 5, 0.05)
    assert batch_size.within(HIGHEST) == HIGHEST // 3
    for _ in range(20):
        answered(batch_size, 9, 0.02)
        answered(batch_size, 1, QUICK / 5)
        assert batch_size.within(HIGHEST) == HIGHEST // 3


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_narrow_lane_has_batches_of_one(limit: int) -> None:
    """A batch is never empty."""
    assert BatchSize().within(limit) == 1
