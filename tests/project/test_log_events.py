"""The register of log events: it has every event that is logged, and no other."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

import pytest

from broker.process.log_events import EVENTS
from tests.paths import ROOT

METHODS = {"debug", "info", "warning", "error", "critical", "exception"}
LOGGERS = {"log", "line"}
"""What a logger may be called; a bound one is a line."""


def sources() -> Iterator[tuple[str, ast.AST]]:
    """Yield the broker's modules; the sandbox has its own log, and what services import writes into theirs."""
    for path in (ROOT / "broker").rglob("*.py"):
        if not {"client", "sandbox", "testing"} & set(path.relative_to(ROOT).parts):
            yield path.name, ast.parse(path.read_text("utf-8"))


def literals(node: ast.expr) -> list[str]:
    """Return the event names an argument can be: a text, or a choice between texts."""
    match node:
        case ast.Constant(value=str(name)):
            return [name]
        case ast.IfExp(body=body, orelse=other):
            return [*literals(body), *literals(other)]
        case _:
            raise AssertionError(f"an event's name must be written out: {ast.unparse(node)}")


def logged(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Name and level of every event that a module logs."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
            continue
        logger = node.func.value
        direct = isinstance(logger, ast.Call) and ast.unparse(logger.func) in {"structlog.get_logger", "log.bind"}
        if direct or (isinstance(logger, ast.Name) and logger.id in LOGGERS):
            level = "error" if node.func.attr == "exception" else node.func.attr
            keys = {keyword.arg for keyword in node.keywords}
            assert not keys & {"event", "level", "timestamp"}, f"the line's own key overwrites it: {ast.unparse(node)}"
            yield from ((name, level) for name in literals(node.args[0]))


def test_every_event_is_in_the_register() -> None:
    """No event is logged that is not described, at another level, or under a name that cannot be found by search."""
    found: dict[str, set[str]] = defaultdict(set)
    for _, tree in sources():
        for name, level in logged(tree):
            found[name].add(level)
    assert found, "the search finds nothing"
    assert {name: set(event.levels) for name, event in EVENTS.items()} == found, "see broker/process/log_events.py"


def test_no_logger_hides_from_the_search() -> None:
    """Loggers are called log or line everywhere: what another name logs would not be looked at."""
    for file, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                made = ast.unparse(node.value.func)
                if made.endswith(("get_logger", "log.bind", "line.bind")):
                    assert {ast.unparse(target) for target in node.targets} <= LOGGERS, file
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names}
                assert file == "logs.py" or "logging" not in names, f"{file} logs past structlog"


@pytest.mark.parametrize("name", EVENTS)
def test_words(name: str) -> None:
    """Each says what it means; an error never says that there is nothing to do."""
    event = EVENTS[name]
    assert event.means
    if {"error", "critical"} & set(event.levels):
        assert event.do != "nothing"
