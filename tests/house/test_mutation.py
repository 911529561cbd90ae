"""The list of deliberate faults fits the tree: each can still be put in, and the page says what the list says."""

from __future__ import annotations

import ast
import re

import pytest

from tests import mutation

FAULTS = mutation.load()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_put_in(fault: mutation.Fault) -> None:
    """Its old lines stand in its file exactly once, the new ones differ and are still Python or Lua to the eye."""
    faulty = fault.applied((mutation.ROOT / fault.file).read_text("utf-8"))
    assert fault.new != fault.old
    if fault.file.endswith(".py"):
        ast.parse(faulty)
    assert fault.breaks.endswith(".")
    for tests in fault.tests:
        assert (mutation.ROOT / tests).exists(), tests


def test_there_are_forty() -> None:
    """No fault leaves the list unnoticed."""
    assert len(FAULTS) == 40


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.gap], ids=lambda fault: fault.name)
def test_a_gap_is_closed_by_a_test_that_is_there(fault: mutation.Fault) -> None:
    """The test that notices now what none noticed before exists, among those that are run for its fault."""
    file, _, name = fault.gap.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (mutation.ROOT / file).read_text("utf-8"), re.MULTILINE)
    assert any(file.startswith(tests) for tests in fault.tests)


def test_old_lines_that_are_not_there_once_are_an_error() -> None:
    """A fault that no longer fits, or fits twice, is named; it is never tried in silence."""
    fault = mutation.Fault("some-fault", "some.py", "old", "new", "A promise.", ())
    assert fault.applied("an old line") == "an new line"
    for text in ("none", "old and old"):
        with pytest.raises(mutation.BrokenList, match="some-fault"):
            fault.applied(text)


def test_the_page_says_what_the_list_says() -> None:
    """`python -m tests.mutation --write` would change nothing."""
    text = mutation.PAGE.read_text("utf-8")
    assert mutation.page(text, FAULTS) == text
