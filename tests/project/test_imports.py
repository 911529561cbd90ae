"""How the product's files import each other: without cycles, and inside a function only to defer a heavy library."""

from __future__ import annotations

import ast
import re
import tomllib
from typing import TYPE_CHECKING

import grimp

from tests.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(name for extra in PROJECT["optional-dependencies"].values() for name in extra),
]
LIBRARIES = {re.split(r"[^A-Za-z0-9-]", requirement)[0].replace("-", "_") for requirement in REQUIREMENTS}
"""What the broker and its client can use, by the names they are imported by."""


def cycles(graph: grimp.ImportGraph) -> Iterator[list[str]]:
    """Yield one shortest cycle for each module that begins one with modules not seen in another."""
    seen: set[str] = set()
    for module in sorted(graph.modules):
        chains = [
            graph.find_shortest_chain(module, before) for before in graph.find_modules_that_directly_import(module)
        ]
        found = min((chain for chain in chains if chain), key=len, default=None)
        if found is not None and not seen & {*found}:
            seen |= {*found}
            yield [*found, module]


def test_no_import_cycle() -> None:
    """No file imports, at run time and over however many others, itself: each can be read after those it needs."""
    graph = grimp.build_graph("broker", exclude_type_checking_imports=True, cache_dir=None)
    found = [" -> ".join(cycle) for cycle in cycles(graph)]
    assert found == []


Function = ast.FunctionDef | ast.AsyncFunctionDef


def deferred_imports(file: Path) -> dict[ast.Import | ast.ImportFrom, str]:
    """Return each import inside a function, and what its line's comment and the functions around it say."""
    text = file.read_text("utf-8")
    lines, found = text.splitlines(), dict[ast.Import | ast.ImportFrom, str]()
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, Function):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    comments = [lines[n - 1].partition("#")[2] for n in (node.lineno, node.end_lineno or node.lineno)]
                    said = [found.get(node, ""), ast.get_docstring(function) or "", *comments]
                    found[node] = " ".join(said)
    return found


def names_deferred_library(words: str) -> bool:
    """Return whether *words* say that a library is deferred, and which."""
    return re.search(r"\bdefer", words, re.IGNORECASE) is not None and not LIBRARIES.isdisjoint(
        word.lower().replace("-", "_") for word in re.findall(r"[\w-]+", words)
    )


def test_imports_inside_functions_say_what_they_defer() -> None:
    """An import inside a function hides a dependency; it stands where a library is too heavy to load at every start.

    The function's docstring, or a comment on the import's line, says "defers LIBRARY".
    """
    unexplained = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for file in sorted((ROOT / "broker").rglob("*.py"))
        for node, words in deferred_imports(file).items()
        if not names_deferred_library(words)
    ]
    assert unexplained == []
