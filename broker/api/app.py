"""The HTTP application: routes, the one table from error to status, and who is asking."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from broker import errors
from broker.api import session
from broker.api.cached_responses import Ready
from broker.login.login import LoginRefused
from broker.model import GRANT_ID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from broker.api.cached_responses import Answers
    from broker.api.callers import Caller, Callers
    from broker.api.connections import Connections
    from broker.api.hosts import Hosts
    from broker.api.routes.health import Health
    from broker.api.routes.metrics import Scrape
    from broker.login.login import Login
    from broker.login.logout import Logout
    from broker.notify import Notifier
    from broker.process.metrics import Metrics
    from broker.providers import Endpoint
    from broker.read import Reader
    from broker.read.activity import ReadActivity
    from broker.settings import Settings
    from broker.store import Store

log = structlog.get_logger()
BODY_LIMIT = 64 * 1024
UNREADABLE = "the body cannot be read: it is not encoded as Content-Encoding or Transfer-Encoding say; send it plain"

STATUS: dict[type[errors.BrokerError], int] = {
    errors.InvalidRequest: 400,
    LoginRefused: 400,
    errors.UnknownKey: 401,
    errors.NotAllowed: 403,
    errors.UnknownGrant: 404,
    errors.Conflict: 409,
    errors.ReauthorizationRequired: 409,
    errors.TooFresh: 429,
    errors.ProviderRefused: 502,
    errors.ProviderUnavailable: 502,
    errors.TokenUnavailable: 503,
}


@dataclass(frozen=True, slots=True)
class Api:
    """What the faces work with."""

    settings: Settings
    store: Store
    reader: Reader
    endpoints: Mapping[str, Endpoint]
    login: Login
    logout: Logout
    callers: Callers
    hosts: Hosts
    answers: Answers
    health: Health
    metrics: Metrics
    wake: Callable[[str], None]
    desk: Notifier
    scrape: Scrape
    connections: Connections
    reads: ReadActivity


API = web.AppKey("api", Api)


def status_of(error: errors.BrokerError) -> int:
    """The status of an error, by its class or the nearest above it in the table."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def misdirected() -> web.Response:
    """What a request under a foreign name gets."""
    return error_answer(
        421, "invalid_request", "this Host is not served here: use the address in http.listen or public_url"
    )


def error_answer(
    status: int, code: str, description: str, retry_after: float | None = None, **more: str
) -> web.Response:
    """An error as every face says it: `{"error", "error_description"}`, and where it helps *more*."""
    headers = {"Cache-Control": "no-store"}
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, round(retry_after)))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="token-broker"'
    return json_answer({"error": code, "error_description": description, **more}, status=status, headers=headers)


def json_answer(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer nobody may store."""
    return web.Response(
        body=json.dumps(body).encode(),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


@web.middleware
async def _answering_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        answer = await handler(request)
    except Exception as error:  # noqa: BLE001 - every error has an answer
        answer = answer_to(error, request.method, _route(request))
        if request.writer.output_size > 0 and request.transport is not None:
            request.transport.abort()  # in the middle of a streamed answer no other one can begin
    return ending(request.app[API], answer)


def ending(api: Api, answer: web.StreamResponse) -> web.StreamResponse:
    """The answer; while the broker stops it is the last of its connection (`Connection: close`), and says so."""
    if api.health.stopping:
        answer = answer.content.once() if isinstance(answer, Ready) else answer
        answer.force_close()
    return answer


def answer_to(error: Exception, method: str, route: str) -> web.Response:
    """Every error as JSON: ours by the table, the router's own in the same form, a bug without a traceback."""
    match error:
        case errors.ReauthorizationRequired(login_url=str(url)):
            return error_answer(409, error.code, str(error), login_url=url)
        case errors.BrokerError():
            return error_answer(status_of(error), error.code, str(error), error.retry_after)
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            answer = error_answer(405, "method_not_allowed", f"allowed here: {allowed}")
            answer.headers["Allow"] = allowed
            return answer
        case web.HTTPNotFound():
            return error_answer(404, "not_found", "no such route")
        case web.HTTPRequestEntityTooLarge():
            return error_answer(413, "invalid_request", f"the body is over {BODY_LIMIT // 1024} KiB")
        case web.RequestPayloadError():
            answer = error_answer(400, "invalid_request", UNREADABLE)
            answer.force_close()  # where the next request would begin nobody knows
            return answer
        case web.HTTPException():
            if error.status < 400:
                raise error
            return error_answer(error.status, "invalid_request", error.reason)
        case _:
            log.error("request.failed", method=method, route=route, exc_info=error)
            return error_answer(500, "server_error", "a fault in token-broker: its log says more")


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource else "?"


def _checking_host(hosts: Hosts) -> Any:
    """Answer nothing under a name that is none of ours."""

    @web.middleware
    async def check(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not hosts.serve(request):
            return misdirected()
        return await handler(request)

    return check


def grant_id_of(request: web.Request) -> str:
    """The grant id in the path, checked before anything else looks at it."""
    grant_id = request.match_info["id"]
    if not GRANT_ID.fullmatch(grant_id):
        raise errors.InvalidRequest(
            "a grant id is a letter or digit, then letters, digits, '.', '_' or '-', at most 128 characters"
        )
    return grant_id


def session_of(request: web.Request) -> session.Session | None:
    """Who is signed in at the status page, whatever the route."""
    api = request.app[API]
    value = request.cookies.get(session.cookie_name(api.settings.http.public_url))
    return session.open_(api.store.sealer, api.callers, value, api.store.clock()) if value else None


def by_session(request: web.Request) -> bool:
    """Whether the status page asks: with its cookie, on its routes, and with no key, which would decide alone."""
    resource = request.match_info.route.resource
    return (
        not session.has_key(request.headers)
        and resource is not None
        and (request.method, resource.canonical) in session.ROUTES
        and session.cookie_name(request.app[API].settings.http.public_url) in request.cookies
    )


def caller_of(request: web.Request) -> Caller:
    """Who asks, by key or by the status page's cookie; raises `UnknownKey`, `NotAllowed`."""
    api, headers = request.app[API], request.headers
    if by_session(request):
        session.require_page(request.method, headers, api.settings.http.public_url)
        signed_in = session_of(request)
        if signed_in is None:
            raise session.over()
        return signed_in.caller
    return api.callers.of(headers)


async def json_body(request: web.Request, *members: str) -> dict[str, Any]:
    """The JSON object in the body; raises `InvalidRequest` that names *members* when it is none."""
    wanted = f"a JSON object with {', '.join(members)}"
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise errors.InvalidRequest(f"the body is not JSON: send {wanted}") from None
    if not isinstance(body, dict):
        raise errors.InvalidRequest(f"the body is not an object: send {wanted}")
    return body


async def optional_json_body(request: web.Request, *members: str) -> dict[str, Any]:
    """The same where the body may be left out."""
    return await json_body(request, *members) if (await request.read()).strip() else {}


def applications(api: Api) -> tuple[web.Application, web.Application]:
    """The whole application, and the part of it that may face the internet (`/login` and `/callback`)."""
    from broker.api.routes import (
        attempts,
        authorization,
        client_credentials,
        grants,
        health,
        imports,
        login,
        metrics,
        openapi,
        reseal,
        status_page,
        tokens,
    )

    whole = web.Application(middlewares=[_checking_host(api.hosts), _answering_errors], client_max_size=BODY_LIMIT)
    for routes in (
        tokens,
        authorization,
        client_credentials,
        grants,
        attempts,
        imports,
        login,
        health,
        metrics,
        reseal,
        status_page,
        openapi,
    ):
        routes.add_routes(whole.router)
    public = web.Application(middlewares=[_answering_errors], client_max_size=BODY_LIMIT)
    login.add_browser_routes(public.router)
    whole[API] = public[API] = api
    return whole, public
