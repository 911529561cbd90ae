"""The list of deliberate faults fits the code, and the page shows what the list holds."""

from __future__ import annotations

import ast
import threading
from typing import TYPE_CHECKING

import pytest

from tests import mutation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FAULTS = mutation.load()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_put_in(fault: mutation.Fault) -> None:
    """Its file contains the old lines exactly once, the new ones differ, and a Python file still parses."""
    faulty = fault.applied((mutation.ROOT / fault.file).read_text("utf-8"))
    assert fault.new != fault.old
    if fault.file.endswith(".py"):
        ast.parse(faulty)
    assert fault.breaks.endswith(".")
    for tests in fault.tests:
        assert (mutation.ROOT / tests).exists(), tests


def test_there_are_forty() -> None:
    """The list keeps its forty faults: none is dropped unnoticed."""
    assert len(FAULTS) == 40


def test_a_gap_is_closed_by_a_test_that_is_there(tmp_path: Path) -> None:
    """The test that the list names for a gap exists among the tests of its fault; another name is an error."""
    text = mutation.LIST.read_text("utf-8")
    gap = next(fault.gap for fault in FAULTS if fault.gap).partition("::")[2]
    wrong = tmp_path / "mutation.toml"
    wrong.write_text(text.replace(gap, "test_nobody_wrote"))
    with pytest.raises(mutation.BrokenList, match="test_nobody_wrote"):
        mutation.load(wrong)


def test_old_lines_that_are_not_there_once_are_an_error() -> None:
    """A fault whose old lines occur never or twice is an error that names it."""
    fault = mutation.Fault("some-fault", "some.py", "old", "new", "A promise.", ())
    assert fault.applied("an old line") == "an new line"
    for text in ("none", "old and old"):
        with pytest.raises(mutation.BrokenList, match="some-fault"):
            fault.applied(text)


def test_the_page_says_what_the_list_says() -> None:
    """`python -m tests.mutation --write` would change nothing."""
    text = mutation.PAGE.read_text("utf-8")
    assert mutation.page(text, FAULTS) == text


class Scripted(mutation.Tree):
    """A copy whose test runs end as scripted: pytest's exit code, and the test that failed, if one did."""

    def __init__(self, root: Path, *runs: tuple[int | None, str]) -> None:
        super().__init__(root, threading.Event())
        self._runs = iter(runs)
        self._failed = ""
        self.runs: list[list[str]] = []

    def run(self, tests: Sequence[str], timeout: float) -> tuple[int | None, str]:
        self.runs.append([*tests, "faulty" if "4" in (self.root / "broker/__init__.py").read_text() else "sound"])
        code, self._failed = next(self._runs)
        return code, "output"

    def failed(self) -> list[str]:
        return [self._failed] if self._failed else []


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small checkout that stands in for this one."""
    root = tmp_path / "checkout"
    (root / "broker").mkdir(parents=True)
    (root / "broker" / "__init__.py").write_text("limit = 3\n")
    (root / "test_it.py").write_text("from broker import limit\ndef test_it(): assert limit == 3\n")
    monkeypatch.setattr(mutation, "ROOT", root)
    return root


FAULT = mutation.Fault("f", "broker/__init__.py", "limit = 3", "limit = 4", "A promise.", ("test_it.py",))


@pytest.mark.parametrize(
    ("runs", "verdict", "detail"),
    [
        ([(1, "a"), (1, "a"), (0, "")], mutation.Verdict.KILLED, "a"),
        ([(0, "")], mutation.Verdict.SURVIVED, "no test noticed"),
        ([(None, "")], mutation.Verdict.TIMED_OUT, "no end after 5 s"),
        ([(2, "")], mutation.Verdict.BROKEN, "output"),
        ([(1, "a"), (1, "a"), (1, "a")], mutation.Verdict.BROKEN, "a fails without the fault too:\noutput"),
        ([(1, "a"), (0, ""), (0, "")], mutation.Verdict.SURVIVED, "no test noticed; unsteady: a"),
        ([(1, "a"), (0, ""), (5, "")], mutation.Verdict.SURVIVED, "no test noticed; unsteady: a"),
        ([(1, "a"), (0, ""), (1, "b"), (1, "b"), (0, "")], mutation.Verdict.KILLED, "b"),
    ],
)
def test_verdicts(
    tmp_path: Path, checkout: Path, runs: list[tuple[int | None, str]], verdict: mutation.Verdict, detail: str
) -> None:
    """A fault is killed only by a test that fails with it twice and passes without it."""
    tree = Scripted(tmp_path / "copy", *runs)
    judgement = mutation.judge(tree, FAULT, 5)
    assert (judgement.verdict, judgement.detail) == (verdict, detail)
    assert len(tree.runs) == len(runs)
    assert tree.runs[0] == ["test_it.py", "faulty"]
    if verdict is mutation.Verdict.KILLED:
        assert tree.runs[-1] == [detail, "sound"]
    for root in (checkout, tree.root):
        assert (root / "broker" / "__init__.py").read_text() == "limit = 3\n"


def test_the_copy_is_what_is_tested(tmp_path: Path, checkout: Path) -> None:
    """Tests in the copy import the copy with its fault, never the checkout."""
    tree = mutation.Tree(tmp_path / "copy", threading.Event())
    assert tree.imported_from().is_relative_to(tmp_path / "copy")
    judgement = mutation.judge(tree, FAULT, 50)
    assert (judgement.verdict, judgement.detail) == (mutation.Verdict.KILLED, "test_it.py::test_it")
    assert (checkout / "broker" / "__init__.py").read_text() == "limit = 3\n"


def test_tests_that_do_not_end_are_ended(tmp_path: Path, checkout: Path) -> None:
    """A run that exceeds its timeout is ended, with the processes that it started."""
    (checkout / "test_it.py").write_text("import time\ndef test_it(): time.sleep(60)\n")
    tree = mutation.Tree(tmp_path / "copy", threading.Event())
    assert mutation.judge(tree, FAULT, 1).verdict is mutation.Verdict.TIMED_OUT
