"""How many requests of a lane may be in flight, and how many begin together: what a provider has shown to bear."""

from __future__ import annotations

import pytest

from broker.refresh.concurrency import CLOSED_AFTER, QUICK, Width

WIDEST = 32


def answered(width: Width, times: int, took: float) -> None:
    """So many answers that each *took* so many seconds."""
    for _ in range(times):
        width.answered(100.0, 100.0 + took)


def test_a_failure_halves_it_and_several_close_it() -> None:
    """Requests that were in flight together are one failure; after several in a row one at a time is left."""
    width = Width(WIDEST)
    assert int(width) == WIDEST
    width.failed(began=1, now=2)
    width.failed(began=1, now=2.1)
    assert int(width) == WIDEST // 2
    width.failed(began=3, now=4)
    assert CLOSED_AFTER == 3
    assert int(width) == 1
    assert width.portion == 1


def test_it_widens_again_as_requests_succeed() -> None:
    """One for each up to where it went wrong, then ever more slowly, never beyond the widest."""
    width = Width(WIDEST)
    for began in (1, 3, 5):
        width.failed(began, began + 1)
    assert int(width) == 1
    width.succeeded(began=5)
    assert int(width) == 1, "what was under way says nothing of the new width"
    widths = []
    for _ in range(WIDEST * WIDEST):
        width.succeeded(began=7)
        widths.append(int(width))
    assert widths[:6] == [2, 3, 4, 4, 4, 4], "it went wrong at 4"
    assert widths == sorted(widths)
    assert widths[-1] == WIDEST


@pytest.mark.parametrize(
    ("took", "portion"),
    [(0.0, 16), (QUICK / 2, 16), (QUICK * 1.5, 10), (0.05, 10), (5.0, 10)],
)
def test_portions(took: float, portion: int) -> None:
    """Halves where a server answers at once, thirds where it takes its time."""
    width = Width(WIDEST)
    answered(width, 60, took)
    assert width.portion == portion


def test_what_waits_for_us_is_no_slow_server() -> None:
    """Of a burst that a quick server answers at once, the last wait for our own CPU: the first say what it took."""
    width = Width(WIDEST)
    for _ in range(20):
        for nth in range(15):
            answered(width, 1, QUICK * (0.2 + nth / 10))
    assert width.portion == WIDEST // 2


def test_a_server_that_slows_down_shows_soon() -> None:
    """A few answers tell, and one quick answer among slow ones tells nothing."""
    width = Width(WIDEST)
    answered(width, 60, QUICK / 5)
    assert width.portion == WIDEST // 2
    answered(width, 5, 0.05)
    assert width.portion == WIDEST // 3
    for _ in range(20):
        answered(width, 9, 0.02)
        answered(width, 1, QUICK / 5)
        assert width.portion == WIDEST // 3


@pytest.mark.parametrize("widest", [1, 2, 3])
def test_a_narrow_lane_has_portions_of_one(widest: int) -> None:
    """Never none."""
    assert Width(widest).portion == 1
