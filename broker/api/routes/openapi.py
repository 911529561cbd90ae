"""`/openapi.json`: this broker's API in OpenAPI 3.1.

Generated from the router's routes, the handlers' docstrings and the shapes of the responses; `operations` holds what
these do not say. Nothing in it is secret, so it needs no key.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from broker import __version__
from broker.api.context import CONTEXT
from broker.api.routes import report_shapes, shapes
from broker.api.routes.operations import (
    ANY,
    ERRORS,
    ERRORS_HEADER,
    HEADERS,
    NEEDED,
    OPERATIONS,
    PARAMETERS,
    TEXT_SCHEMA,
    Answer,
    Operation,
)
from broker.api.targets import public_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aiohttp.typedefs import Handler

PATH = "/openapi.json"
_REF = "#/components/schemas/{model}"
_ABOUT = """Hands out the live access token of each grant.

Send a caller's key as `Authorization: Bearer KEY` or `X-Broker-Key: KEY`; the latter wins. Every error has the body
`{"error", "error_description"}`, and the description says what to do. A caller that may not know of a grant gets 403
whether it exists or not. The response to HEAD is that to GET, without the body."""


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the route of this module, after all others: it describes the routes before it, and itself."""
    made: list[tuple[bytes, str]] = []
    lock = asyncio.Lock()

    async def openapi(request: web.Request) -> web.Response:
        """`GET /openapi.json`: return this document."""
        async with lock:
            if not made:  # in a thread: it takes as long as some hundred reads of a token
                prefix = public_path(request.app[CONTEXT].settings.http)
                made.append(await asyncio.to_thread(_make, router, prefix))
        body, etag = made[0]
        headers = {"Cache-Control": "no-cache", "ETag": etag}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)

    router.add_get(PATH, openapi)


def _make(router: web.UrlDispatcher, prefix: str) -> tuple[bytes, str]:
    body = json.dumps(make_document(list_routes(router), prefix), ensure_ascii=False).encode() + b"\n"
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def list_routes(router: web.UrlDispatcher) -> Iterator[tuple[str, str, Handler]]:
    """Yield method (lower case, or `*`), path and handler of each route, except HEAD, which accompanies GET."""
    for route in router.routes():
        if route.resource is not None and route.method != "HEAD":
            yield route.method.lower(), route.resource.canonical, route.handler


def make_document(served: Iterable[tuple[str, str, Handler]], prefix: str = "") -> dict[str, Any]:
    """Make the document of the routes in *served*.

    Args:
        served: as `list_routes` yields them.
        prefix: the path of `public_url`. The routes are served below it with and without a proxy.

    Raises:
        KeyError: `operations` does not describe a route.
    """
    operations = {route: (tag, operation) for tag, group in OPERATIONS.items() for route, operation in group.items()}
    served = list(served)
    names = Counter(handler.__name__ for _, _, handler in served)
    paths: dict[str, dict[str, Any]] = {}
    for method, spelled, handler in served:
        path = re.sub("^/page/.+", "/page/{file}", spelled)
        tag, operation = operations[method, path]
        # For generated clients; a handler of several routes has none.
        named = {"operationId": handler.__name__} if method != "*" and names[handler.__name__] == 1 else {}
        for one in ANY if method == "*" else (method,):
            paths.setdefault(path, {})[one] = {"tags": [tag], **named, **_operation(path, handler, operation)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "token-broker",
            "version": __version__,
            "license": {"name": "Apache-2.0"},
            "description": _ABOUT,
        },
        **({"servers": [{"url": prefix}]} if prefix else {}),
        "tags": [{"name": tag} for tag in OPERATIONS],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "responses": {name: _error(status, words) for status, (name, words) in ERRORS.items()},
            "parameters": {key: _parameter(key) for key in PARAMETERS},
            "headers": {name: {"description": words, "schema": schema} for name, (words, schema) in HEADERS.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "a caller's key"},
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Broker-Key",
                    "description": "the same; this header wins",
                },
                "client": {"type": "http", "scheme": "basic", "description": "the caller's name and key"},
            },
        },
    }


def _operation(path: str, handler: Handler, operation: Operation) -> dict[str, Any]:
    summary, more = read_docstring(handler)
    statuses = {*operation.errors, 421} | ({408, 415} if operation.takes is not None else set())
    if operation.right is not None:
        more = "\n\n".join(filter(None, (more, f"Needs a key with the right `{operation.right}`.")))
        statuses |= {401, 403, 429, 503} - operation.answers.keys()
    if operation.client:  # RFC 6749 §5.2 calls it invalid_scope
        statuses.discard(403)
    answers = {status: _answer(answer) for status, answer in operation.answers.items()}
    answers |= {status: {"$ref": f"#/components/responses/{ERRORS[status][0]}"} for status in statuses}
    made: dict[str, Any] = {
        "summary": summary,
        "responses": {str(status): answers[status] for status in sorted(answers)},
        "security": _security(operation),
    }
    if more:
        made["description"] = more
    parameters = [*re.findall(r"{(\w+)}", path), *operation.query, *operation.headers]
    if parameters:
        made["parameters"] = [{"$ref": f"#/components/parameters/{key}"} for key in parameters]
    if operation.takes is not None:
        lines = operation.media.endswith("ndjson")
        schema = {"type": "string", "description": "one `ImportLine` a line"} if lines else _ref(operation.takes)
        made["requestBody"] = {"required": not operation.optional, "content": {operation.media: {"schema": schema}}}
    return made


def read_docstring(handler: Handler) -> tuple[str, str]:
    """Return summary and description from a handler's docstring, without the route at its beginning."""
    text = re.sub(r"^`[^`]+`(?: `[^`]+`)?: ", "", inspect.getdoc(handler) or "")
    summary, _, more = text.partition("\n\n")
    summary = " ".join(summary.split()).removesuffix(".")
    return summary[:1].upper() + summary[1:], more


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    schemes = (["client"] if operation.client else []) + (["bearer", "key"] if operation.right else [])
    return [{scheme: []} for scheme in schemes]


def _answer(answer: Answer) -> dict[str, Any]:
    made: dict[str, Any] = {"description": answer.what}
    content: dict[str, Any] = {kind: {"schema": TEXT_SCHEMA} for kind in answer.others}
    if answer.shape is not None:
        content = {"application/json": {"schema": _ref(answer.shape)}, **content}
    if content:
        made["content"] = content
    if answer.headers:
        made["headers"] = _headers(*answer.headers)
    return made


def _error(status: int, words: str) -> dict[str, Any]:
    made: dict[str, Any] = {"description": words, "content": {"application/json": {"schema": _ref(shapes.Error)}}}
    if status in ERRORS_HEADER:
        made["headers"] = _headers(ERRORS_HEADER[status])
    return made


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _parameter(key: str) -> dict[str, Any]:
    place, words, schema = PARAMETERS[key]
    name = key.removeprefix("callback_")
    made: dict[str, Any] = {"name": name, "in": place, "description": words, "schema": schema}
    return made | {"required": True} if place == "path" or key in NEEDED else made


def _ref(shape: type) -> dict[str, Any]:
    return {"type": "object"} if shape is dict else {"$ref": _REF.format(model=shape.__name__)}


def _schemas() -> dict[str, Any]:
    """Make the schemas of every shape, and of their parts."""
    here = [
        shape
        for module in (shapes, report_shapes)
        for shape in vars(module).values()
        if getattr(shape, "__module__", "") == module.__name__
    ]
    named = [shape for shape in here if not shape.__name__.startswith("_")]
    _, made = TypeAdapter.json_schemas(
        [(shape.__name__, "serialization", TypeAdapter(shape)) for shape in named],
        ref_template=_REF,
        schema_generator=_Untitled,
    )
    return dict(sorted(made["$defs"].items()))


class _Untitled(GenerateJsonSchema):
    """Gives members no titles: their names say it."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic passes it
        return False
