"""The responses that all routes share: JSON, and errors by one table from exception to status. Knows no route."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from broker import errors
from broker.api.cached_responses import COMMON_HEADERS, RawResponse, json_body
from broker.api.requests import BODY_LIMIT
from broker.login.binding import LoginRefused
from broker.login.undecided import Undecided

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.api.context import Context

log = structlog.get_logger()
SLOW_BODY = "the body arrives too slowly: send it within http.body_timeout, and each 64 KiB of a long one"
UNREADABLE_BODY = "the body cannot be decoded as its Content-Encoding or Transfer-Encoding says: send it unencoded"

ERROR_STATUS: dict[type[errors.BrokerError], int] = {
    errors.InvalidRequest: 400,
    errors.EncodedBody: 415,
    LoginRefused: 400,
    errors.UnknownKey: 401,
    errors.NotAllowed: 403,
    errors.UnknownGrant: 404,
    errors.Conflict: 409,
    Undecided: 409,
    errors.ReauthorizationRequired: 409,
    errors.TooFresh: 429,
    errors.QuotaExceeded: 429,
    errors.ProviderRefused: 502,
    errors.ProviderUnavailable: 502,
    errors.TokenUnavailable: 503,
    errors.AuditUnavailable: 503,
}


def error_status(error: errors.BrokerError) -> int:
    """Return the status of an error, by its class or the nearest base class in the table."""
    return next((ERROR_STATUS[kind] for kind in type(error).__mro__ if kind in ERROR_STATUS), 500)


def json_response(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Make a JSON response that nobody may store."""
    return web.Response(
        body=json_body(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def error_response(
    status: int, code: str, description: str, retry_after: float | None = None, **more: str
) -> web.Response:
    """Make the response of an error: `{"error", "error_description"}` and the members *more*.

    Args:
        status: the HTTP status.
        code: for programs.
        description: for people: what is wrong and what to do.
        retry_after: seconds after which the same request may succeed.
        more: further members of the body.
    """
    headers = {}
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, round(retry_after)))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="token-broker"'
    return json_response({"error": code, "error_description": description, **more}, status=status, headers=headers)


def misdirected_response() -> web.Response:
    """Make the response to a request whose `Host` is not served here."""
    return error_response(
        421, "invalid_request", "this Host is not served here: use the address in http.listen or public_url"
    )


def response_to_error(error: Exception, method: str, route: str) -> web.Response:
    """Make the response to any exception of a handler.

    The table gives the status of the broker's own errors. The router's errors get the same body, and a bug gets a 500
    without a traceback.

    Args:
        error: what the handler raised.
        method: of the request, for the log.
        route: of the request, for the log: its pattern, without ids.
    """
    match error:
        case errors.ReauthorizationRequired(login_url=str(url)):
            return error_response(409, error.code, str(error), login_url=url)
        case errors.EncodedBody():
            response = error_response(415, error.code, str(error))
            response.force_close()  # the rest of the body is of no use
            return response
        case errors.BrokerError():
            return error_response(error_status(error), error.code, str(error), error.retry_after)
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            response = error_response(405, "method_not_allowed", f"this route allows {allowed}")
            response.headers["Allow"] = allowed
            return response
        case web.HTTPNotFound():
            return error_response(404, "not_found", "there is no such route: see /openapi.json")
        case web.HTTPRequestEntityTooLarge():
            return error_response(413, "invalid_request", f"the body is over {BODY_LIMIT // 1024} KiB: send less")
        case web.HTTPRequestTimeout() | web.RequestPayloadError():
            status, text = (400, UNREADABLE_BODY) if isinstance(error, web.RequestPayloadError) else (408, SLOW_BODY)
            response = error_response(status, "invalid_request", text)
            response.force_close()  # where the next request would begin is unknown
            return response
        case web.HTTPException():
            if error.status < HTTPStatus.BAD_REQUEST:
                raise error  # a redirect is a response
            return error_response(error.status, "invalid_request", error.reason)
        case _:
            log.error("request.failed", method=method, route=route, exc_info=error)
            return error_response(500, "server_error", "token-broker has a bug: see request.failed in its log")


def finish(context: Context, response: web.StreamResponse, *, closing: bool = False) -> web.StreamResponse:
    """Return the response with the headers of all responses, which a `RawResponse` has already.

    If *closing*, and while the broker stops, the response closes its connection and says so (`Connection: close`).
    """
    closing = closing or context.health.stopping
    if closing and isinstance(response, RawResponse):
        response = response.content.to_response()
    if not isinstance(response, RawResponse):
        response.headers.update(COMMON_HEADERS)
    if closing:
        response.force_close()
    return response
