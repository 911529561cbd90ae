"""What each route takes and returns, beyond its path and its handler's docstring: data for `openapi`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

from broker.api.routes import report_shapes, shapes
from broker.api.routes.client_credentials import PATH as OAUTH2_TOKEN
from broker.model import GRANT_ID, State

if TYPE_CHECKING:
    from collections.abc import Mapping

NDJSON, HTML, TEXT, EVENTS = "application/x-ndjson", "text/html", "text/plain", "text/event-stream"
ANY = ("get", "put", "post", "delete", "options", "patch", "trace")
"""The methods of a route that accepts any."""

ERRORS = {
    400: ("BadRequest", "the request is wrong: sending it again does not help"),
    401: ("Unauthorized", "no key, or an unknown one"),
    403: ("Forbidden", "the caller does not have the right; the grant may or may not exist"),
    404: ("NotFound", "not found (a caller without the right gets 403 instead)"),
    409: (
        "Conflict",
        (
            "`reauthorization_required`: a person must log in; `conflict`: another request or grant is in the way; "
            "`invalid_settings`: the settings are wrong, and nothing was changed"
        ),
    ),
    408: ("Timeout", "the body arrived too slowly: `http.body_timeout` says how long it may take"),
    413: ("TooLarge", "the body is too large"),
    415: ("UnsupportedMediaType", "the body is compressed: send it without a Content-Encoding"),
    421: ("Misdirected", "this Host is not served here"),
    428: ("PreconditionRequired", "the header that names the token is missing"),
    429: (
        "TooManyRequests",
        "`quota_exceeded`: the caller sends more than its quota; else the token is new, or was renewed too often",
    ),
    502: ("BadGateway", "the provider did not respond, or refused"),
    503: (
        "Unavailable",
        "no token is available right now, Redis does not answer, or the audit stream cannot be written",
    ),
}
ERRORS_HEADER = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After", 409: "Retry-After"}
HEADERS = {
    "Authorization": ("`Bearer`, a space and the token", {"type": "string"}),
    "ETag": ("the generation, or the file's version, in quotes", {"type": "string", "pattern": '^".+"$'}),
    "Location": ("the URL to continue at", {"type": "string"}),
    "Preference-Applied": ("the part of `Prefer` that was applied", {"type": "string"}),
    "Retry-After": ("seconds after which to send the request again", {"type": "integer", "minimum": 1}),
    "Set-Cookie": ("the cookie that binds the browser", {"type": "string"}),
    "Vary": ("the header that decides the media type", {"type": "string"}),
    "WWW-Authenticate": ("the scheme to use", {"type": "string"}),
}

TEXT_SCHEMA = {"type": "string"}
_STATE = {"type": "array", "items": TypeAdapter(State).json_schema()}
PARAMETERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "id": ("path", "the grant", {"type": "string", "pattern": f"^{GRANT_ID.pattern}$", "examples": ["acme-cameras"]}),
    "name": ("path", "the provider", {"type": "string", "examples": ["cameramanager"]}),
    "ticket": ("path", "the login's ticket", TEXT_SCHEMA),
    "file": ("path", "a file of the page", TEXT_SCHEMA),
    "suffix": ("path", "any path that a proxy appends", TEXT_SCHEMA),
    "min_ttl": (
        "query",
        "seconds of life that the token must have; needs the right `refresh`",
        {"type": "number", "minimum": 0},
    ),
    "state": ("query", "only grants in these states", _STATE),
    "provider": ("query", "only grants of these providers", {"type": "array", "items": TEXT_SCHEMA}),
    "search": ("query", "a part of the id; upper and lower case are the same", TEXT_SCHEMA),
    "order": ("query", "the most urgent first", {"type": "string", "enum": ["urgent"]}),
    "limit": ("query", "grants on a page", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
    "cursor": ("query", "`next` of the previous page", TEXT_SCHEMA),
    "utc_offset": (
        "query",
        "minutes east of UTC of the zone for times in sentences; without it the broker's own",
        {"type": "integer", "minimum": -1439, "maximum": 1439},
    ),
    "owner": ("query", "the owner that the grant gets", TEXT_SCHEMA),
    "label": ("query", "the label that the grant gets", TEXT_SCHEMA),
    "code": ("query", "RFC 6749 §4.1.2", TEXT_SCHEMA),
    "callback_state": ("query", "RFC 6749 §4.1.2", TEXT_SCHEMA),
    "iss": ("query", "RFC 9207 §2", TEXT_SCHEMA),
    "error": ("query", "RFC 6749 §4.1.2.1", TEXT_SCHEMA),
    "If-None-Match": ("header", "respond with 304 while the token or file is still this one", TEXT_SCHEMA),
    "If-Match": ("header", "the ETag of the token that got the 401", {"type": "string", "pattern": '^"[0-9]{1,64}"$'}),
    "Prefer": ("header", "RFC 7240: `wait=SECONDS`, 55 at most; for a refresh also `return=minimal`", TEXT_SCHEMA),
    "X-Broker-Page": ("header", "any value: only the status page can send this header", TEXT_SCHEMA),
    "Origin": ("header", "of the status page", TEXT_SCHEMA),
}
NEEDED = {"If-Match", "X-Broker-Page"}
"""Required parameters, beside those of the path."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The response of one status: a JSON shape, or other media types, and headers beside `Cache-Control`."""

    what: str
    shape: type | None = None
    others: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One route and method."""

    answers: Mapping[int, Answer]
    errors: tuple[int, ...] = ()
    """Statuses with the body `Error`, beside 421; 408, 415 where it takes a body; 401, 403, 429 and 503 for a key."""
    right: Literal["read", "refresh", "view", "login", "admin", "admin of every grant"] | None = None
    """The right that the caller needs; None: no key is needed."""
    takes: type | None = None
    media: str = "application/json"
    optional: bool = False
    """Whether the body may be missing."""
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    client: bool = False
    """Whether a client may authenticate by HTTP Basic."""


_TOKEN = ("ETag", "Vary", "Preference-Applied")
_PAGE = Answer("an HTML page that says what is wrong", others=(HTML,))
_FILE = {200: Answer("the file", others=("*/*",), headers=("ETag",)), 304: Answer("unchanged", headers=("ETag",))}
_AUTHORIZATION = Operation(
    {200: Answer("the token in the header, no body", headers=("Authorization", "ETag"))},
    (400, 404, 409, 503),
    "read",
    headers=("Prefer",),
)

_LOGGED_IN = {200: Answer("logged in", others=(HTML,)), 400: _PAGE, 409: _PAGE, 502: _PAGE, 503: _PAGE}
_CALLBACK = Operation(
    _LOGGED_IN | {200: Answer("logged in, or a page that asks to confirm it", others=(HTML,))},
    query=("code", "callback_state", "iss", "error"),
)
_DECISION = Operation(_LOGGED_IN, (413,), takes=shapes.Decision, media="application/x-www-form-urlencoded")
OPERATIONS: Mapping[str, Mapping[tuple[str, str], Operation]] = {
    "tokens": {
        ("get", "/v1/grants/{id}/token"): Operation(
            {
                200: Answer("the token", shapes.TokenAnswer, (TEXT,), _TOKEN),
                304: Answer("the named token is still current", headers=_TOKEN),
            },
            (400, 404, 409, 503),
            "read",
            query=("min_ttl",),
            headers=("If-None-Match", "Prefer"),
        ),
        ("post", "/v1/grants/{id}/refresh"): Operation(
            {
                200: Answer("the next token", shapes.TokenAnswer, (TEXT,), _TOKEN),
                204: Answer("there is a next token; the body is empty as requested", headers=_TOKEN),
            },
            (400, 404, 409, 428, 429, 503),
            "refresh",
            headers=("If-Match", "Prefer"),
        ),
        ("*", "/v1/grants/{id}/authorization"): _AUTHORIZATION,
        ("*", "/v1/grants/{id}/authorization/{suffix}"): _AUTHORIZATION,
        ("post", OAUTH2_TOKEN): Operation(
            {200: Answer("the token", shapes.StandardTokenAnswer, headers=("ETag", "Vary"))},
            (400, 409, 413, 503),
            "read",
            shapes.ClientCredentials,
            "application/x-www-form-urlencoded",
            client=True,
        ),
    },
    "grants": {
        ("get", "/v1/grants"): Operation(
            {200: Answer("a page of the list", shapes.Grants)},
            (400, 503),
            "view",
            query=("state", "provider", "search", "order", "limit", "cursor"),
        ),
        ("get", "/v1/grants/{id}"): Operation({200: Answer("the grant", shapes.Grant)}, (400, 404, 503), "view"),
        ("put", "/v1/grants/{id}"): Operation(
            {
                200: Answer("replaced, unchanged, or annotated", shapes.Imported),
                201: Answer("created", shapes.Imported),
            },
            (400, 404, 409, 413, 503),
            "admin",
            shapes.PutGrant,
        ),
        ("delete", "/v1/grants/{id}"): Operation(
            {200: Answer("deleted from this broker", shapes.LoggedOut)}, (400, 404, 409, 503), "admin"
        ),
        ("get", "/v1/grants/{id}/attempts"): Operation(
            {200: Answer("its last token requests, and what is planned", shapes.Attempts)}, (400, 404, 503), "view"
        ),
        ("get", "/v1/grants/{id}/explanation"): Operation(
            {200: Answer("the explanation, from memory while Redis does not answer", report_shapes.Explanation)},
            (400, 404),
            "view",
            query=("utc_offset",),
        ),
        ("post", "/v1/grants/{id}/retry"): Operation(
            {202: Answer("it is due now, or being refreshed", shapes.Retried)}, (400, 404, 503), "admin"
        ),
        ("post", "/v1/import"): Operation(
            {200: Answer("an `ImportOutcome` for each line, as it is done", others=(NDJSON,))},
            (),
            "admin",
            shapes.ImportLine,
            NDJSON,
            optional=True,
        ),
    },
    "logins": {
        ("post", "/v1/grants/{id}/login"): Operation(
            {200: Answer("the login, open for ten minutes", shapes.LoginStarted)},
            (400, 413, 502, 503),
            "login",
            shapes.NewLogin,
        ),
        ("get", "/v1/grants/{id}/login/{ticket}"): Operation(
            {200: Answer("its progress", shapes.LoginStatus)}, (400, 404, 503), "login"
        ),
        ("post", "/v1/grants/{id}/login/complete"): Operation(
            {200: Answer("logged in", shapes.LoggedIn)}, (400, 409, 413, 502, 503), "login", shapes.Redirected
        ),
        ("post", "/v1/grants/{id}/login/{ticket}/replace"): Operation(
            {200: Answer("logged in", shapes.LoggedIn)}, (400, 409, 502, 503), "login"
        ),
        ("get", "/login/{ticket}"): Operation(
            {
                200: Answer("logged in already", others=(HTML,)),
                302: Answer("a redirect to the provider", headers=("Location", "Set-Cookie")),
                400: _PAGE,
                502: _PAGE,
                503: _PAGE,
            },
            query=("owner", "label"),
        ),
        ("get", "/callback"): _CALLBACK,
        ("post", "/callback"): _DECISION,
        ("get", "/callback/{name}"): _CALLBACK,
        ("post", "/callback/{name}"): _DECISION,
    },
    "providers": {
        ("get", "/v1/providers"): Operation({200: Answer("all providers", shapes.Providers)}, (503,), "view"),
        ("get", "/v1/history"): Operation(
            {200: Answer("the last day of each of these providers", report_shapes.Days)},
            (400, 503),
            "view",
            query=("provider",),
        ),
        ("post", "/v1/providers/{name}/retry"): Operation(
            {202: Answer("its grants are due now", shapes.ProviderRetried)}, (400, 503), "admin of every grant"
        ),
    },
    "operation": {
        ("get", "/healthz"): Operation(
            {
                200: Answer("every loop makes progress", report_shapes.Health),
                503: Answer("a loop does not", report_shapes.Health),
            }
        ),
        ("get", "/readyz"): Operation(
            {
                200: Answer("a caller could be served", report_shapes.Health),
                503: Answer("no caller could be served", report_shapes.Health),
            }
        ),
        ("get", "/readyz/{id}"): Operation(
            {
                200: Answer("a live token can be read", shapes.GrantReady),
                503: Answer("no live token can be read", shapes.GrantNotReady),
            },
            (400, 404),
            "read",
        ),
        ("get", "/v1/verdict"): Operation(
            {200: Answer("the verdict, from memory while Redis does not answer", report_shapes.Verdict)},
            (400,),
            "view",
            query=("utc_offset",),
        ),
        ("get", "/metrics"): Operation({200: Answer("the text exposition format of Prometheus", others=(TEXT,))}),
        ("get", "/openapi.json"): Operation(
            {
                200: Answer("the document", dict, headers=("ETag",)),
                304: Answer("unchanged", headers=("ETag",)),
            },
            headers=("If-None-Match",),
        ),
        ("post", "/v1/notify/test"): Operation(
            {200: Answer("what each receiver answered", shapes.NoticesTested)}, (503,), "admin of every grant"
        ),
        ("post", "/v1/sealing/reseal"): Operation(
            {200: Answer("its progress", shapes.Resealed)},
            (400, 409, 413, 503),
            "admin of every grant",
            shapes.Resume,
            optional=True,
        ),
        ("post", "/v1/reload"): Operation(
            {200: Answer("what was taken up, and what needs a restart", shapes.Reloaded)},
            (409,),
            "admin of every grant",
        ),
    },
    "status page": {
        ("get", "/"): Operation(_FILE, headers=("If-None-Match",)),
        ("get", "/page/{file}"): Operation(_FILE, (404,), headers=("If-None-Match",)),
        ("get", "/v1/events"): Operation(
            {200: Answer("a stream of events, `changed` each", others=(EVENTS,))}, (400, 503), "view"
        ),
        ("get", "/session"): Operation({200: Answer("the caller who is signed in", shapes.Session)}),
        ("post", "/session"): Operation(
            {200: Answer("signed in", shapes.Session, headers=("Set-Cookie",))},
            (400, 401, 403, 413),
            takes=shapes.Key,
            headers=("X-Broker-Page", "Origin"),
        ),
        ("post", "/session/end"): Operation(
            {200: Answer("signed out", shapes.Session, headers=("Set-Cookie",))},
            (403,),
            headers=("X-Broker-Page", "Origin"),
        ),
    },
}
"""By tag, then by method and path; `*` means any method."""
