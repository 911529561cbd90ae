"""The tables of the HTTP API: its routes, their parameters, and the error statuses.

Made of the router, the handlers' docstrings and `operations`, as the OpenAPI document is.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

from broker.api.app import make_applications
from broker.api.routes.openapi import list_routes, read_docstring
from broker.api.routes.operations import ERRORS, OPERATIONS, PARAMETERS, Operation
from tests.reference.pages import code, table

_NOTHING = "–"
_ERRORS = """Every route may also return 421, one that takes a body 408 and 415, and one that takes a key 429 and 503.
Errors have the body `{"error", "error_description"}`:"""


def routes() -> str:
    """Return the table of all routes, and those of their parameters and of the error statuses."""
    whole, _ = make_applications(cast("Any", SimpleNamespace(hosts=None)))
    handlers = {
        (method, re.sub("^/page/.+", "/page/{file}", path)): of for method, path, of in list_routes(whole.router)
    }
    rows = []
    for group in OPERATIONS.values():
        for (method, path), operation in group.items():
            route = f"{'any method' if method == '*' else method.upper()} {path}"
            summary, _ = read_docstring(handlers[method, path])
            asked = (*operation.query, *operation.headers)
            named = ", ".join(code(_name(key)) for key in asked)
            rows.append(
                (code(route), operation.right or _NOTHING, summary, named, _answers(operation), _errors(operation))
            )
    parameters = ((code(_name(key)), place, words) for key, (place, words, _) in PARAMETERS.items())
    errors = ((str(status), words) for status, (_, words) in ERRORS.items())
    return "\n\n".join(
        (
            table(("route", "right", "what it does", "parameters", "responses", "errors"), rows),
            "Parameters:",
            table(("parameter", "in", "meaning"), parameters),
            _ERRORS,
            table(("status", "meaning"), errors),
        )
    )


def _name(key: str) -> str:
    return key.removeprefix("callback_")


def _answers(operation: Operation) -> str:
    statuses: dict[str, list[str]] = {}
    for status, answer in operation.answers.items():
        statuses.setdefault(answer.what, []).append(str(status))
    return "; ".join(f"{', '.join(these)}: {what}" for what, these in statuses.items())


def _errors(operation: Operation) -> str:
    needs_key = {401, 403} if operation.right is not None else set[int]()
    if operation.client:  # RFC 6749 §5.2 has 400 `invalid_scope` for it
        needs_key.discard(403)
    return ", ".join(map(str, sorted({*operation.errors, *needs_key})))
