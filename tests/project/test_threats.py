"""The threats of SECURITY.md: every attacker has some, and every line names a test that there is."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.paths import ROOT
from tests.project.pages import page

ATTACKERS = {
    "A stranger on the public listener",
    "A stranger on the internal listener",
    "A caller",
    "A scoped admin",
    "A consumer on Redis",
    "A writer of Redis",
    "A host beside this one, or another user of it",
    "A provider gone bad",
    "A Sentinel",
    "A backup thief",
}
HEADER = ["They try to", "What stops them", "What does not", "Test"]
NO_TEST = "no test"
NOTHING = "nothing"
"""In the place of what stops them."""


def _threats() -> dict[str, list[list[str]]]:
    """Return the rows of each attacker's table, its header first."""
    text = page("SECURITY.md").partition("\n## Threats\n")[2].partition("\n## ")[0]
    found = {}
    for part in text.split("\n### ")[1:]:
        rows = [line.strip("|").split("|") for line in part.splitlines() if re.match(r"\|(?! -)", line)]
        found[part.splitlines()[0]] = [[cell.strip() for cell in row] for row in rows]
    return found


THREATS = _threats()


@cache
def _functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text("utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_attacker_has_threats() -> None:
    """Nobody is left out, and each table says what stops them, what does not, and which test shows it."""
    assert set(THREATS) == ATTACKERS
    for who, (header, *rows) in THREATS.items():
        assert header == HEADER, who
        assert len(rows) >= 3, who


@pytest.mark.parametrize("who", THREATS)
def test_every_line_names_a_test(who: str) -> None:
    """The named test exists; where there is none, or nothing stops them, the line says what is left."""
    for row in THREATS[who][1:]:
        threat, stopped, left, test = row
        assert threat, row
        assert stopped, row
        assert left != "–" or not {NO_TEST, NOTHING} & {test, stopped}, row
        if test == NO_TEST:
            continue
        named = re.fullmatch(r"`([a-z_/]+\.py)::(test_[a-z0-9_]+)`", test)
        assert named is not None, row
        assert named[2] in _functions(named[1]), row
