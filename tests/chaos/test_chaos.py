"""The table of faults in its bounded form: a few seconds of each."""

from __future__ import annotations

import pytest

from tests.chaos.neighbours import neighbours
from tests.chaos.run import run
from tests.chaos.table import FAULTS, Fault
from tests.chaos.world import Plan


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.bounded], ids=lambda fault: fault.title)
async def test_fault(fault: Fault) -> None:
    """Nothing is redeemed twice, nothing that reached us is lost, and no read waits while a valid token exists."""
    row = await run(fault, Plan())
    print(row)
    assert not row.problems, "\n".join(row.problems)


async def test_a_neighbour_that_hangs() -> None:
    """64 grants of a provider that hangs delay none of the 64 of another that fall due with them."""
    late = await neighbours()
    print(late)
    assert late.hung > 0
    assert late.most < 1
