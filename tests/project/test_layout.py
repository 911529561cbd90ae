"""The layout of the tests: what they share stands in helper modules, and the map names every folder."""

from __future__ import annotations

import ast
import importlib
from typing import TYPE_CHECKING

import pytest

from tests import redis_server
from tests.cli.conftest import Home
from tests.paths import ROOT
from tests.regressions.process import broker_process
from tests.server_marker import starts_process
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TESTS = ROOT / "tests"


def imported_modules(file: Path) -> Iterator[str]:
    """Yield every module that *file* imports, and every name imported from one, which may be a module."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"{'.' * node.level}{node.module or ''}"
            yield module
            if module.startswith((".", "tests")):
                yield from (f"{module}.{alias.name}" for alias in node.names if alias.name.islower())


def test_no_test_file_is_imported() -> None:
    """What two files need stands in a `conftest.py` or a helper module: a `test_*.py` is read by pytest alone."""
    importers = {
        f"{file.relative_to(ROOT)} imports {module}"
        for file in TESTS.rglob("*.py")
        for module in imported_modules(file)
        if module.startswith((".", "tests")) and any((TESTS / path).is_file() for path in _test_files(module, file))
    }
    assert importers == set()


def _test_files(module: str, file: Path) -> Iterator[str]:
    """Yield the test file that *module* would be, as a path below `tests`."""
    parts = module.removeprefix("tests.").lstrip(".").split(".")
    if parts[-1].startswith("test_"):
        folder = file.parent.relative_to(TESTS).parts if module.startswith(".") else ()
        yield "/".join((*folder, *parts)) + ".py"


def test_tests_that_start_processes_are_marked() -> None:
    """`-m "not server"` leaves out what starts a process, by whatever helper; what only waits for one needs none."""
    assert starts_process(redis_server.running_redis)
    assert starts_process(broker_process)
    assert starts_process(Home)
    assert not starts_process(until)


def test_unmarked_test_starts_no_process() -> None:
    """A process that the derivation did not foresee is refused, with the mark that is missing."""
    start = vars(importlib.import_module("subprocess"))["Popen"]  # named so that this very test stays unmarked
    with pytest.raises(AssertionError, match=r"pytest\.mark\.server"):
        start(["true"])


def test_map_names_every_folder_and_helper() -> None:
    """tests/README.md names each folder, and each helper module that stands beside them."""
    text = (TESTS / "README.md").read_text("utf-8")
    folders = {folder.parent.name for folder in TESTS.glob("*/__init__.py")}
    helpers = {file.name for file in TESTS.glob("*.py") if file.name != "__init__.py"}
    assert {name for name in folders | helpers if f"]({name})" not in text} == set()
