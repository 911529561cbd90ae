"""How many requests of a lane may be in flight, and how many begin together: what a provider has shown to bear."""

from __future__ import annotations

import pytest

from broker.refresh.concurrency import CLOSED_AFTER, ConcurrencyLimit, batch_size

HIGHEST = 32


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


@pytest.mark.parametrize(("limit", "size"), [(1, 1), (2, 1), (3, 1), (4, 1), (32, 10), (1024, 341)])
def test_a_lane_is_filled_in_three_batches(limit: int, size: int) -> None:
    """A third of what may be in flight begins together, and a batch is never empty."""
    assert batch_size(limit) == size
