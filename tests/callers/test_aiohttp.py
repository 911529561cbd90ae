"""The private attributes of aiohttp that `broker/api/server.py` uses: a new version may drop them without notice."""

from __future__ import annotations

import ast
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.streams import StreamReader

from broker.api import server

PRIVATE: dict[type, set[str]] = {
    web.AppRunner: {"_make_server"},
    web.RequestHandler: {"_current_request", "_messages", "_next_keepalive_close_time", "_request_count", "_waiter"},
    StreamReader: {"_waiter"},
}


@pytest.mark.parametrize(
    ("owner", "name"),
    [(owner, name) for owner, names in PRIVATE.items() for name in sorted(names)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_private_attributes_exist(owner: type, name: str) -> None:
    """The installed aiohttp has each private attribute that the server uses."""
    assert hasattr(owner, name), (
        f"aiohttp {aiohttp.__version__} has no {owner.__name__}.{name}: broker/api/server.py uses it"
    )


def test_private_attributes_are_listed() -> None:
    """Every private name that the server reads or overrides, and does not define itself, is listed above."""
    tree = ast.parse(Path(server.__file__).read_text())
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    named |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named |= {
        part.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assigned = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    bases = [web.AppRunner, web.RequestHandler, web.Server, StreamReader]
    own = {
        part.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
        if not any(hasattr(base, part.name) for base in bases)
    }
    private = {name for name in named if name.startswith("_") and name.isidentifier() and not name.startswith("__")}
    assert private - assigned - own == set.union(*PRIVATE.values())


def test_names_do_not_shadow_aiohttp() -> None:
    """No private attribute that the subclasses set is one that aiohttp's classes use themselves."""
    tree = ast.parse(Path(server.__file__).read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = [base for base in getattr(server, node.name).__mro__[1:] if base.__module__.startswith("aiohttp")]
            set_here = {
                each.attr
                for each in ast.walk(node)
                if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
            }
            for base in bases:
                text = Path(str(__import__(base.__module__, fromlist=["x"]).__file__)).read_text()
                used = {each.attr for each in ast.walk(ast.parse(text)) if isinstance(each, ast.Attribute)}
                assert not set_here & used, f"{node.name} sets {set_here & used}, which {base} uses"
