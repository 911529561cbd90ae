"""Client credentials (RFC 6749 §4.4) at `POST /oauth2/token`, so that unchanged OAuth clients get their token here.

A caller's name is its client id, its key the client secret; `scope=grant:ID` names the grant. A request never causes a
refresh of a token that is valid, however often a client asks shortly before the token's end.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import hdrs

from broker import errors
from broker.api import audit
from broker.api.cached_responses import SCOPE
from broker.api.callers import BROKER_KEY, how_to_give, single, split_authorization
from broker.api.context import CONTEXT
from broker.api.requests import admit, read_body
from broker.api.responses import error_status, json_response
from broker.api.routes.tokens import find_token
from broker.model import GRANT_ID

if TYPE_CHECKING:
    from aiohttp import web

    from broker.api.callers import Caller, Callers
    from broker.api.context import Context

PATH = "/oauth2/token"
_MAX_KNOWN = 1024
_FORM = "application/x-www-form-urlencoded"


class RequestRefused(Exception):
    """An error of RFC 6749 §5.2: its code, and what is wrong and what to do."""

    def __init__(self, code: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.code = code
        self.status = status
        self.denied: str | None = "unknown_key" if code == "invalid_client" else None
        """Why access was denied, for log and counter; None: it was not."""
        self.caller: str | None = None
        self.grant_id: str | None = None


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_post(PATH, _grant_token)


async def grant_token(context: Context, request: web.BaseRequest) -> web.StreamResponse:
    """`POST /oauth2/token`: return the current token of the grant in `scope` (RFC 6749 §4.4)."""
    asked: str | None = None
    try:
        if not request.content.is_eof():
            require_known_header(context.callers, request)
        caller, grant_id = authenticate_client(context.callers, request, await read_body(request))
        asked = grant_id
        admit(context, request, caller)
        token = context.reader.at_hand(grant_id) or await find_token(context, caller, grant_id)
        caller.require_provider(token.provider)
        audit.token_read(context, request, caller, grant_id, token.generation)
    except errors.EncodedBody:
        raise
    except RequestRefused as error:
        context.denials.note_error(request, error, error.grant_id)
        return refusal_response(error.status, error.code, str(error))
    except errors.UnknownGrant:
        return refusal_response(400, "invalid_scope", "no such grant")
    except errors.NotAllowed as error:
        context.denials.note_error(request, error, asked)
        return refusal_response(400, "invalid_scope", str(error))
    except errors.BrokerError as error:
        context.denials.note_error(request, error, asked)
        return refusal_response(error_status(error), error.code, str(error), error.retry_after)
    return context.responses.client_credentials.respond(request, token)


@functools.wraps(grant_token)
async def _grant_token(request: web.Request) -> web.StreamResponse:
    return await grant_token(request.app[CONTEXT], request)


def require_known_header(callers: Callers, request: web.BaseRequest) -> None:
    """Refuse credentials in the headers that nobody has, before the body is waited for.

    Raises:
        RequestRefused: as `find_client`.
    """
    if hdrs.AUTHORIZATION in request.headers or BROKER_KEY in request.headers:
        find_client(callers, request, {})


def authenticate_client(callers: Callers, request: web.BaseRequest, body: bytes) -> tuple[Caller, str]:
    """Return the caller, and the grant that it asks for.

    A client repeats its request, so the result is kept by the request's digest, which holds no secret.

    Raises:
        RequestRefused: the request is malformed, or the client may not do this.
    """
    headers = request.headers
    parts = [",".join(headers.getall(name, ())) for name in (hdrs.AUTHORIZATION, BROKER_KEY, hdrs.CONTENT_TYPE)]
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape") + b"\0" + body).digest()
    known = callers.known_requests.get(digest)
    if known is None:
        form = read_form(request.headers.get(hdrs.CONTENT_TYPE, ""), body)
        caller = find_client(callers, request, form)
        known = caller, read_scope(form, caller)
        if len(callers.known_requests) >= _MAX_KNOWN:
            callers.known_requests.clear()
        callers.known_requests[digest] = known
    return known


def read_form(content_type: str, body: bytes) -> dict[str, str]:
    """Return the parameters of a form body.

    Raises:
        RequestRefused: it is another body, or gives a parameter twice.
    """
    # aiohttp reads parameters, too, and takes 20 seconds for 64 KiB of semicolons.
    if content_type.partition(";")[0].strip().lower() != _FORM:
        raise RequestRefused("invalid_request", f"the Content-Type is not {_FORM}: send the parameters in that form")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=32, errors="strict")
    except ValueError:  # UnicodeDecodeError is one
        raise RequestRefused(
            "invalid_request", f"the body is not {_FORM} in UTF-8 with at most 32 parameters: correct it"
        ) from None
    form = dict(pairs)
    if len(form) < len(pairs):
        raise RequestRefused("invalid_request", "a parameter is given twice: send each once (RFC 6749 §3.2)")
    return form


def find_client(callers: Callers, request: web.BaseRequest, form: dict[str, str]) -> Caller:
    """Return the caller, by HTTP Basic, by client_id and client_secret in the body, or by its key as on other routes.

    Raises:
        RequestRefused: no caller has these credentials, or the request gives them twice.
    """
    try:
        authorization, broker_key = single(request.headers, hdrs.AUTHORIZATION), single(request.headers, BROKER_KEY)
    except errors.InvalidRequest as error:
        refused = RequestRefused(error.code, str(error))
        refused.denied = error.denied
        raise refused from None
    scheme, value = split_authorization(authorization or "")
    if broker_key is None and scheme == "basic":
        if "client_secret" in form:
            raise RequestRefused("invalid_request", "the credentials are in the header and in the body: send them once")
        pairs = decode_basic(value)
    elif broker_key is None and "client_secret" in form:
        pairs = [(form.get("client_id", ""), form["client_secret"])]
    else:
        try:
            return callers.authenticate(request.headers)
        except errors.UnknownKey as error:
            refused = RequestRefused("invalid_client", str(error), 401)
            refused.denied, refused.caller = error.denied, error.caller
            raise refused from None
    for name, key in pairs:
        caller = callers.find_by_name(name, key)
        if caller is not None:
            return caller
    raise RequestRefused(
        "invalid_client",
        "unknown client: send the caller's name in the settings as client_id and its key as client_secret "
        "(`token-broker caller new NAME` makes one)",
        401,
    )


def decode_basic(value: str) -> list[tuple[str, str]]:
    """Return id and secret of HTTP Basic in both forms that clients use: plain, and form-encoded (RFC 6749 §2.3.1)."""
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):
        return []
    name, colon, key = text.partition(":")
    return [(name, key), (unquote_plus(name), unquote_plus(key))] if colon else []


def read_scope(form: dict[str, str], caller: Caller) -> str:
    """Return the grant that `scope` names.

    Raises:
        RequestRefused: it names none, or one that *caller* may not read.
    """
    if form.get("grant_type") != "client_credentials":
        raise RequestRefused("unsupported_grant_type", "only grant_type=client_credentials is served here: send that")
    scope = form.get("scope")
    grant_id = (scope or "").strip().removeprefix(SCOPE)
    if not scope or not scope.strip().startswith(SCOPE) or not GRANT_ID.fullmatch(grant_id):
        raise RequestRefused("invalid_scope", "scope does not name one grant: send scope=grant:ID")
    if not caller.may("read", grant_id):
        words = f"caller {caller.name!r} has no read right on this grant id: {how_to_give('read')}"
        refused = RequestRefused("invalid_scope", words)
        refused.denied, refused.caller, refused.grant_id = "no_right", caller.name, grant_id
        raise refused
    return grant_id


def refusal_response(status: int, code: str, description: str, retry_after: float | None = None) -> web.Response:
    """Make the response of an error (RFC 6749 §5.2)."""
    headers = {"Pragma": "no-cache"}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Basic realm="token-broker", charset="UTF-8"'
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, round(retry_after)))
    return json_response({"error": code, "error_description": description}, status=status, headers=headers)
