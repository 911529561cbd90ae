"""Which tests need a server, derived from what they call: `-m "not server"` runs the others, without any process.

A test is marked `server` if its function, a fixture it uses or a helper that either calls starts a process: a Redis, a
broker, a browser, a program. What the derivation does not see fails at once: an unmarked test that starts a process is
refused it, and told to carry `pytest.mark.server` itself. Servers inside this very process need no mark.
"""

from __future__ import annotations

import contextlib
import inspect
import subprocess
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pytest

STARTS = {"Popen", "create_subprocess_exec", "subprocess", "embedded_server"}
"""Names whose use means that a process is started."""

_known: dict[object, bool] = {}


def mark_items(items: Iterable[pytest.Item]) -> None:
    """Mark each test that starts a process."""
    for item in items:
        if any(starts_process(function) for function in _functions(item)):
            item.add_marker("server")


@contextlib.contextmanager
def processes_only_if_marked(item: pytest.Item) -> Iterator[None]:
    """Refuse an unmarked test every process, from its fixtures' set-up to their end."""
    if item.get_closest_marker("server"):
        yield
        return

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("this test starts a process: it needs `pytest.mark.server`")

    with mock.patch.object(subprocess.Popen, "__init__", refuse), mock.patch.object(subprocess.Popen, "__del__"):
        yield


def starts_process(thing: object) -> bool:
    """Return whether a function, or a method of a class, of these tests starts a process, itself or by its helpers."""
    thing = inspect.unwrap(thing) if callable(thing) else thing
    if not isinstance(thing, FunctionType | type) or not thing.__module__.startswith("tests."):
        return False
    if thing not in _known:
        _known[thing] = False  # while it is looked at: it may call itself
        if isinstance(thing, FunctionType):
            names = set(_names(thing.__code__))
            _known[thing] = bool(names & STARTS) or any(map(starts_process, _referenced(thing, names)))
        else:
            members = (getattr(member, "fget", member) for member in vars(thing).values())
            _known[thing] = any(map(starts_process, members))
    return _known[thing]


def _functions(item: pytest.Item) -> Iterator[object]:
    """Yield the function of a test, its fixtures' functions, and those among its parameters."""
    yield getattr(item, "function", None)
    fixtures: Any = getattr(item, "_fixtureinfo", None)  # pytest names no public way from a test to its fixtures
    for definitions in fixtures.name2fixturedefs.values() if fixtures else ():
        yield from (definition.func for definition in definitions)
    callspec: Any = getattr(item, "callspec", None)
    yield from callspec.params.values() if callspec else ()


def _names(code: CodeType) -> Iterator[str]:
    """Yield all names that a function's code uses, and the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _referenced(function: FunctionType, names: set[str]) -> Iterator[object]:
    """Yield what *names* stand for in the function's module, and in modules that it names."""
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType) and value.__name__.startswith("tests."):
            yield from (getattr(value, other, None) for other in names)
        else:
            yield value
