"""The status page at `/`, its files, and the routes that sign a person in and out.

The page is static; it fetches everything that it shows from the API, as the caller who signed in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web

from broker.api import audit, session
from broker.api.callers import INCLUDED_IN, how_to_give
from broker.api.context import CONTEXT
from broker.api.requests import admit, find_session, read_json
from broker.api.responses import json_response
from broker.errors import InvalidRequest, NotAllowed
from broker.secret import key_digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.api.routes import shapes

_MEDIA_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    kind: str
    etag: str


def _read() -> dict[str, _File]:
    files = {}
    for path in resources.files("broker.api").joinpath("page").iterdir():
        kind = _MEDIA_TYPES.get(path.name.rpartition(".")[2])
        if kind is not None:
            body = path.read_bytes()
            files[path.name] = _File(body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return files


_FILES = _read()  # at import, before the event loop runs


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/", _handler_for("index.html"))
    for name in _FILES:
        if name != "index.html":
            router.add_get(f"/page/{name}", _handler_for(name))
    router.add_get("/session", get_session)
    router.add_post("/session", sign_in)
    router.add_post("/session/end", sign_out)


def _handler_for(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    file = _FILES[name]

    async def serve(request: web.Request) -> web.Response:
        headers = {**HEADERS, "ETag": file.etag}
        if request.headers.get("If-None-Match") == file.etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, content_type=file.kind, charset="utf-8", headers=headers)

    serve.__doc__ = f"`GET /page/{name}`: return a file of the status page."
    return serve


def _describe(signed_in: session.Session | None) -> shapes.Session:
    if signed_in is None:
        return {"caller": None}
    caller = signed_in.caller
    return {
        "caller": caller.name,
        "admin_of_all": caller.administers_all,
        "rights": [right for right in INCLUDED_IN if caller.has(right)],
        "ends_at": signed_in.ends_at // 1000,
    }


async def get_session(request: web.Request) -> web.Response:
    """`GET /session`: return who is signed in; `{"caller": null}` for nobody."""
    return json_response(_describe(find_session(request)))


async def sign_in(request: web.Request) -> web.Response:
    """`POST /session` `{"key"}`: sign in with the key of a caller that may view grants; sets a cookie.

    A wrong key costs one look-up by its digest, the same for every key, and locks nobody out.
    """
    context = request.app[CONTEXT]
    public_url = context.settings.http.public_url
    session.require_page(request.method, request.headers, public_url)
    key = (await read_json(request, "key")).get("key")
    if not isinstance(key, str) or not key.strip():
        raise InvalidRequest("key is missing: send the key of a caller with the right view or admin")
    caller = context.callers.identify(None, key)
    admit(context, request, caller)
    if not caller.has("view"):
        raise NotAllowed(
            f"caller {caller.name!r} has no view right, which this page needs: {how_to_give('view')}",
            caller=caller.name,
        )
    signed_in = session.Session(caller, context.store.clock() + session.LIFE_S * 1000)
    answer = json_response(_describe(signed_in))
    answer.set_cookie(
        session.cookie_name(public_url),
        session.seal(context.store.sealer, caller, key_digest(key.strip()), signed_in.ends_at),
        max_age=session.LIFE_S,
        path=session.cookie_path(public_url),
        httponly=True,
        samesite="Strict",
        secure=public_url.startswith("https://"),
    )
    audit.acted(request, caller, "session.begun")
    return answer


async def sign_out(request: web.Request) -> web.Response:
    """`POST /session/end`: sign out; removes the cookie."""
    public_url = request.app[CONTEXT].settings.http.public_url
    session.require_page(request.method, request.headers, public_url)
    signed_in = find_session(request)
    if signed_in is not None:
        audit.acted(request, signed_in.caller, "session.ended")
    answer = json_response(_describe(None))
    answer.del_cookie(
        session.cookie_name(public_url),
        path=session.cookie_path(public_url),
        httponly=True,
        samesite="Strict",
        secure=public_url.startswith("https://"),
    )
    return answer
