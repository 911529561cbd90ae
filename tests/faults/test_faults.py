"""The table of faults in its bounded form: a few seconds of each."""

from __future__ import annotations

import pytest

from tests.faults.run import run
from tests.faults.table import FAULTS, Fault
from tests.faults.world import Plan


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.bounded], ids=lambda fault: fault.title)
async def test_fault(fault: Fault) -> None:
    """Nothing is redeemed twice, nothing that reached us is lost, and no read waits while a valid token exists."""
    row = await run(fault, Plan())
    print(row)
    assert not row.problems, "\n".join(row.problems)
