"""The standard face: RFC 6749 §4.4 at `POST /oauth2/token`, so that unchanged OAuth clients get their token here.

A caller's name is its client id, its key the client secret; `scope=grant:ID` names the grant. Nothing here asks the
provider: what is there is answered, however often a client asks inside its own margin.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import hdrs

from broker import errors
from broker.api import audit
from broker.api.cached_responses import SCOPE
from broker.api.callers import BROKER_KEY, scheme_of
from broker.api.context import CONTEXT
from broker.api.responses import error_status, json_response
from broker.model import GRANT_ID
from broker.read.reader import DEFAULT_WAIT

if TYPE_CHECKING:
    from aiohttp import web

    from broker.api.callers import Caller, Callers
    from broker.api.context import Context

PATH = "/oauth2/token"
_MOST = 1024
_FORM = "application/x-www-form-urlencoded"


class Refused(Exception):
    """An error of RFC 6749 §5.2: its code and, in words, what to do."""

    def __init__(self, code: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.code = code
        self.status = status


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_post(PATH, _grant_token)


async def grant_token(context: Context, request: web.BaseRequest) -> web.StreamResponse:
    """`POST /oauth2/token`: the current token of the grant in `scope`."""
    try:
        caller, grant_id = understand(context.callers, request, await request.read())
        token = context.reader.at_hand(grant_id) or await context.reader.current(grant_id, wait=DEFAULT_WAIT)
    except Refused as error:
        return refusal(error.status, error.code, str(error))
    except errors.UnknownGrant:
        return refusal(400, "invalid_scope", "no such grant")
    except errors.BrokerError as error:
        return refusal(error_status(error), error.code, str(error), error.retry_after)
    audit.token_read(caller, grant_id, token.generation)
    return context.responses.client_credentials.respond(request, token)


@functools.wraps(grant_token)
async def _grant_token(request: web.Request) -> web.StreamResponse:
    return await grant_token(request.app[CONTEXT], request)


def understand(callers: Callers, request: web.BaseRequest, body: bytes) -> tuple[Caller, str]:
    """Who asks for which grant; raises `Refused`.

    A client says the same again and again, so what was understood is remembered by its digest: no secret is kept.
    """
    headers = request.headers
    said = [headers.get(name, "") for name in (hdrs.AUTHORIZATION, BROKER_KEY, hdrs.CONTENT_TYPE)]
    digest = hashlib.sha256("\0".join(said).encode("utf-8", "surrogateescape") + b"\0" + body).digest()
    known = callers.understood.get(digest)
    if known is None:
        form = read_form(request.content_type, body)
        caller = client_of(callers, request, form)
        known = caller, grant_of(form, caller)
        if len(callers.understood) >= _MOST:
            callers.understood.clear()
        callers.understood[digest] = known
    return known


def read_form(content_type: str, body: bytes) -> dict[str, str]:
    """The parameters of a form body; raises `Refused` for another body, and for a parameter that is given twice."""
    if content_type != _FORM:
        raise Refused("invalid_request", f"send the parameters as {_FORM}")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=32, errors="strict")
    except ValueError:  # UnicodeDecodeError is one
        raise Refused("invalid_request", f"the body is no {_FORM} of a few parameters in UTF-8") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        raise Refused("invalid_request", "a parameter is given twice: RFC 6749 §3.2 allows each once")
    return form


def client_of(callers: Callers, request: web.BaseRequest, form: dict[str, str]) -> Caller:
    """Who asks, by HTTP Basic, by client_id and client_secret in the body, or by its key as everywhere else."""
    authorization, broker_key = request.headers.get("Authorization"), request.headers.get("X-Broker-Key")
    scheme, value = scheme_of(authorization or "")
    if broker_key is None and scheme == "basic":
        if "client_secret" in form:
            raise Refused("invalid_request", "the client is told in the header and in the body: choose one")
        pairs = basic_pairs(value)
    elif broker_key is None and "client_secret" in form:
        pairs = [(form.get("client_id", ""), form["client_secret"])]
    else:
        try:
            return callers.authenticate(request.headers)
        except errors.UnknownKey as error:
            raise Refused("invalid_client", str(error), 401) from None
    for name, key in pairs:
        caller = callers.named(name, key)
        if caller is not None:
            return caller
    raise Refused(
        "invalid_client",
        "unknown client: client_id is the caller's name in the settings, client_secret its key "
        "(`token-broker caller new NAME`)",
        401,
    )


def basic_pairs(value: str) -> list[tuple[str, str]]:
    """Id and secret of HTTP Basic, both ways clients write them: as they are, and form-encoded (RFC 6749 §2.3.1)."""
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):
        return []
    name, colon, key = text.partition(":")
    return [(name, key), (unquote_plus(name), unquote_plus(key))] if colon else []


def grant_of(form: dict[str, str], caller: Caller) -> str:
    """The grant that `scope` names, if *caller* may read it."""
    if form.get("grant_type") != "client_credentials":
        raise Refused("unsupported_grant_type", "only grant_type=client_credentials is served here")
    scope = form.get("scope")
    grant_id = (scope or "").strip().removeprefix(SCOPE)
    if not scope or not scope.strip().startswith(SCOPE) or not GRANT_ID.fullmatch(grant_id):
        raise Refused("invalid_scope", "name one grant: scope=grant:ID")
    if not caller.may("read", grant_id):
        raise Refused("invalid_scope", f"caller {caller.name!r} has no read right on this grant id")
    return grant_id


def refusal(status: int, code: str, description: str, retry_after: float | None = None) -> web.Response:
    """An error of RFC 6749 §5.2."""
    headers = {"Pragma": "no-cache"}
    if status == 401:  # noqa: PLR2004
        headers["WWW-Authenticate"] = 'Basic realm="token-broker", charset="UTF-8"'
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, round(retry_after)))
    return json_response({"error": code, "error_description": description}, status=status, headers=headers)
