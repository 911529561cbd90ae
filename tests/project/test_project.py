"""The project itself: layers, types, style, and how its pages begin."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.project.pages import blocks, page, tracked

TOP_LEVEL = {
    "pyproject.toml",
    "broker",
    "deploy",
    "tests",
    "docker-compose.yml",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "SECURITY.md",
}

MOST_POSITIONAL = 5
VARIADIC = {"call", "_maybe", "_read", "add_row", "Table", "ReadRequest"}
"""Calls that take any number of arguments (Redis's commands, a table's columns), or that aiohttp defines."""


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "broker", "tests", "deploy"],
        ["ruff", "format", "--check", "broker", "tests", "deploy"],
        ["mypy"],
        ["lint-imports"],
    ],
    ids=["lint", "format", "types", "layers"],
)
@pytest.mark.timeout(300)
def test_checks_pass(command: list[str]) -> None:
    """Lint, format, strict types and the layers between packages hold."""
    tool = shutil.which(command[0], path=str(Path(sys.executable).parent))
    assert tool is not None, f"{command[0]} is part of the test extra"
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_top_level_is_the_agreed_one() -> None:
    """Nothing stands beside the agreed names but dotfiles."""
    assert {name.split("/")[0] for name in tracked() if not name.startswith(".")} <= TOP_LEVEL


def test_no_file_needs_much_scrolling() -> None:
    """No file has over 400 lines: a longer one is two."""
    long = {
        name: len((ROOT / name).read_text("utf-8").splitlines()) for name in tracked() if name.endswith((".py", ".lua"))
    }
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_no_call_needs_counting() -> None:
    """A call passes at most five arguments by position: beyond that nobody sees which is which without counting."""
    found = []
    for path in sorted((ROOT / "broker").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and len(node.args) > MOST_POSITIONAL:
                name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
                if name not in VARIADIC:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert found == []


def test_readme_begins_with_two_lines_that_run() -> None:
    """The first two sh blocks are one line each: the demo, and the tests."""
    demo, tests = (block.strip() for block in blocks(page("README.md"), "sh")[:2])
    assert "\n" not in demo
    assert demo.endswith("token-broker demo")
    assert "\n" not in tests
    assert "pytest" in tests


def test_few_files_at_the_root() -> None:
    """A reader meets at most eight files beside the packages."""
    assert len(list((ROOT / "broker").glob("*.py"))) <= 8


def test_the_formatter_wins() -> None:
    """No line is taken from the formatter."""
    skipped = "fmt: " + "skip"
    assert [name for name in tracked() if name.endswith(".py") and skipped in (ROOT / name).read_text("utf-8")] == []
