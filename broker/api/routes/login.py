"""What browsers see: the login link and the redirect back. Pages say in words what happened and what to do.

Owns cookies and HTML; `broker.login` owns logins.
"""

from __future__ import annotations

import functools
import hashlib
import html
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from broker.api import audit
from broker.api.browser import HEADERS, page
from broker.api.context import CONTEXT
from broker.api.requests import permit, read_body, read_json, require_provider
from broker.api.responses import error_status, json_response
from broker.api.routes import shapes
from broker.api.routes.grants import describe_account
from broker.api.routes.import_one import place_for
from broker.api.session import cookies, is_same_origin
from broker.api.targets import public_path
from broker.errors import BrokerError, InvalidRequest, StoreUnavailable, UnknownGrant
from broker.login.binding import AlreadyUsed, LoginRefused
from broker.login.redirect import read_query
from broker.login.undecided import Unconfirmed, Undecided
from broker.model.account import Ownership, read_text
from broker.process.tasks import finish
from broker.store.flows import LIFE_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from broker.api.callers import Caller
    from broker.api.context import Context
    from broker.login.recorder import LoggedIn
    from broker.settings import Http

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger()
_COOKIE = "token_broker_login_"
_TITLES = {False: "This is another account", True: "Is this you?"}
"""By whether a confirmation is asked for."""


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_post("/v1/grants/{id}/login", start_login)
    router.add_get("/v1/grants/{id}/login/{ticket:(?!complete$)[^/]+}", login_status)
    router.add_post("/v1/grants/{id}/login/complete", complete_login)
    router.add_post("/v1/grants/{id}/login/{ticket}/replace", replace_account)
    add_browser_routes(router)


def add_browser_routes(router: web.UrlDispatcher) -> None:
    """Add the routes for browsers: all that `http.public_listen` serves."""
    router.add_get("/login/{ticket}", _with_page(open_link), allow_head=False)
    router.add_head("/login/{ticket}", _head)
    router.add_get("/callback", _with_page(callback), allow_head=False)
    router.add_head("/callback", _head)
    router.add_post("/callback", _with_page(decide_by_browser))
    router.add_get("/callback/{name}", _with_page(callback_of_provider), allow_head=False)
    router.add_head("/callback/{name}", _head)
    router.add_post("/callback/{name}", _with_page(decide_at_provider))


def _with_page(handler: Handler) -> Handler:
    """Show a page for a bug too, since a person looks at the response."""

    @functools.wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except (BrokerError, web.HTTPException, web.RequestPayloadError):
            raise  # the body cannot be read: no page sent this
        except Exception:
            log.exception("request.failed", method=request.method, route=handler.__name__)
            return page(500, "Something went wrong", "token-broker has a bug: see its log. Start a new login.")

    return answer


async def _head(_request: web.Request) -> web.Response:
    """Answer HEAD without any effect: link scanners and previews send it."""
    return web.Response(headers=HEADERS)


async def start_login(request: web.Request) -> web.Response:
    """`POST /v1/grants/{id}/login`: start a login; it changes the grant when it is completed, and not before."""
    grant_id, caller = await permit(request, "login")
    context = request.app[CONTEXT]
    body = await read_json(request, "provider", "owner?", "label?", "replace_account?")
    provider = require_provider(body.get("provider"), context.endpoints, caller)
    replaces = body.get("replace_account", False)
    if not isinstance(replaces, bool):
        raise InvalidRequest("replace_account must be true or false")
    annotations = Ownership(None, read_text(body, "owner"), read_text(body, "label"))
    async with place_for(context, caller, grant_id) as place:
        started = await context.login.start(grant_id, provider, annotations=annotations, replace_account=replaces)
        place.kept = "for_login"
    audit.acted(request, caller, "login.started", grant_id, provider=provider)
    answer = shapes.LoginStarted(
        grant_id=grant_id,
        login_url=f"{context.settings.http.public_url.rstrip('/')}/login/{started.ticket}",
        authorization_url=started.authorization_url,
        state=started.state,
        ticket=started.ticket,
        expires_at=context.store.clock() // 1000 + LIFE_S,
    )
    return json_response(answer)


async def login_status(request: web.Request) -> web.Response:
    """`GET /v1/grants/{id}/login/{ticket}`: report a login as pending, working, completed, or failed and why."""
    grant_id, caller = await permit(request, "login")
    flow = await request.app[CONTEXT].login.status(request.match_info["ticket"])
    if flow is None or flow.grant_id != grant_id or not caller.may_use(flow.provider):
        raise UnknownGrant("this login is unknown or older than ten minutes: start another")
    body = shapes.LoginStatus(grant_id=grant_id, provider=flow.provider, status=flow.status)
    if flow.error:
        body |= {"error": flow.error, "error_description": flow.error_description}
    return json_response(body)


async def complete_login(request: web.Request) -> web.Response:
    """`POST /v1/grants/{id}/login/complete`: complete a login by the URL that a browser elsewhere was redirected to."""
    grant_id, caller = await permit(request, "login")
    context = request.app[CONTEXT]
    body = await read_json(request, "redirected_to")
    redirected_to, state = body.get("redirected_to"), body.get("state")
    if not isinstance(redirected_to, str) or not isinstance(state, str | None):
        raise InvalidRequest("redirected_to must be text: send the URL that the browser was redirected to")
    completing = _complete(
        request, caller, context.login.complete(grant_id, redirected_to, state, caller.require_provider)
    )
    return json_response(_describe(await finish(completing)))


async def replace_account(request: web.Request) -> web.Response:
    """`POST /v1/grants/{id}/login/{ticket}/replace`: complete a login that brought another account than the grant's.

    The login failed with `other_account`; for ten minutes this replaces the grant all the same.
    """
    grant_id, caller = await permit(request, "login")
    context = request.app[CONTEXT]
    replacing = context.login.replace_account(grant_id, request.match_info["ticket"], caller.require_provider)
    return json_response(_describe(await finish(_complete(request, caller, replacing))))


async def _complete(request: web.Request, caller: Caller | None, login: Coroutine[Any, Any, LoggedIn]) -> LoggedIn:
    logged_in = await login
    audit.acted(request, caller, "login.completed", logged_in.grant_id, provider=logged_in.provider)
    return logged_in


def _describe(logged_in: LoggedIn) -> shapes.LoggedIn:
    body = shapes.LoggedIn(
        grant_id=logged_in.grant_id,
        provider=logged_in.provider,
        scope=logged_in.scope,
        expires_in=logged_in.expires_in,
        account=describe_account(logged_in.account),
    )
    return {**body, "warning": logged_in.warning} if logged_in.warning else body


def _is_prefetch(request: web.Request) -> bool:
    purpose = request.headers.get("Sec-Purpose", "") + request.headers.get("Purpose", "")
    return "prefetch" in purpose.lower()


async def open_link(request: web.Request) -> web.Response:
    """`GET /login/{ticket}?owner=&label=`: set a fresh state and cookie, and redirect to the provider."""
    if _is_prefetch(request):
        return web.Response(status=503, headers=HEADERS)
    context = request.app[CONTEXT]
    try:
        require_audit(context)
        annotations = Ownership(None, read_text(request.query, "owner"), read_text(request.query, "label"))
        opened = await context.login.open(request.match_info["ticket"], annotations)
    except AlreadyUsed as error:
        return _already_used(error, request)
    except StoreUnavailable as error:
        text = f"token-broker cannot use its store now ({error}). Open this link again in a minute."
        return page(error_status(error), "Not now", text)
    except BrokerError as error:
        context.denials.note_error(request, error)
        return page(error_status(error), "This link does not work", str(error))
    answer = web.Response(status=302, headers={**HEADERS, "Location": opened.authorization_url})
    _set_cookie(answer, context.settings.http, opened.state, opened.cookie)
    return answer


def _set_cookie(answer: web.Response, http: Http, state: str, cookie: str) -> None:
    """Bind a login to a browser for ten minutes: the callback of every provider is sent the cookie."""
    answer.set_cookie(
        _COOKIE + _cookie_suffix(state),
        f"{state}.{cookie}",
        max_age=LIFE_S,
        path=f"{public_path(http)}/callback",
        httponly=True,
        samesite="Lax",
        secure=http.public_url.startswith("https://"),
    )


def _cookie_suffix(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()[:12]


async def callback(request: web.Request) -> web.Response:
    """`GET /callback`: complete the login (RFC 6749 §4.1.2). A reload changes nothing."""
    if _is_prefetch(request):
        return web.Response(status=503, headers=HEADERS)
    try:
        require_audit(request.app[CONTEXT])
        query = read_query(request.rel_url.raw_query_string)
        login = request.app[CONTEXT].login.callback(query, _cookies(request), _provider(request))
        return _logged_in(await finish(_complete(request, None, login)))
    except AlreadyUsed as error:
        return _already_used(error, request)
    except Undecided as error:
        return _undecided(request, error.state, error.code, str(error))
    except BrokerError as error:
        return _not_logged_in(request, error)


async def decide_by_browser(request: web.Request) -> web.Response:
    """`POST /callback`: keep what a login brought, as its page asked: of another account, or to be confirmed."""
    body = await read_body(request)
    try:
        require_audit(request.app[CONTEXT])
        form = read_query(body.decode("utf-8", "replace"))
        if "code" in form:
            raise InvalidRequest(
                'the provider sent its response by POST: set response_mode = "query" in its authorization_params '
                "(OAuth 2.0 Form Post Response Mode), and log in again"
            )
        context = request.app[CONTEXT]
        if not is_same_origin(request.headers, context.settings.http.public_url):
            raise LoginRefused(
                "this form was not sent by the broker's own page: nothing was changed", denied="other_page"
            )
        login = context.login.decide_by_browser(form.get("state", ""), _cookies(request), _provider(request))
        return _logged_in(await finish(_complete(request, None, login)))
    except BrokerError as error:
        return _not_logged_in(request, error)


def require_audit(context: Context) -> None:
    """Require that a login by a browser can be audited, where it must be.

    Raises:
        AuditUnavailable: it cannot.
    """
    if context.audit is not None:
        context.audit.require()


async def callback_of_provider(request: web.Request) -> web.Response:
    """`GET /callback/{name}`: the same for a provider with `redirect_path = "provider"`, and for no other one."""
    return await callback(request)


async def decide_at_provider(request: web.Request) -> web.Response:
    """`POST /callback/{name}`: the same for its page."""
    return await decide_by_browser(request)


def _provider(request: web.Request) -> str | None:
    """Return the provider that the path names; None on the shared path."""
    return request.match_info.get("name")


def _cookies(request: web.Request) -> dict[str, str]:
    """Return the login cookies of this browser, by state."""
    pairs = (value.partition(".") for _, value in cookies(request.headers, _COOKIE))
    return {state: cookie for state, dot, cookie in pairs if dot}


def _not_logged_in(request: web.Request, error: BrokerError) -> web.Response:
    if error.denied is None:
        log.warning("login.failed", error=error.code, detail=str(error))
    request.app[CONTEXT].denials.note_error(request, error)
    if isinstance(error, StoreUnavailable):
        text = (
            f"token-broker cannot use its store now ({error}). In a minute look whether the account has a new login; "
        )
        return page(error_status(error), "Not known to be logged in", f"{text}if it has none, start another.")
    return page(error_status(error), "Not logged in", str(error))


def _logged_in(login: LoggedIn) -> web.Response:
    account = f"account {login.account}" if login.account else "account"
    warning = f" Warning: {login.warning}." if login.warning else ""
    text = f"Your {account} at {login.provider} is logged in, as {login.grant_id}; token-broker keeps it so.{warning}"
    return page(200, "Logged in", f"{text} You can close this page.", good=True)


def _undecided(request: web.Request, state: str, code: str, text: str) -> web.Response:
    """Show what a person must decide, with the button that does it."""
    unconfirmed = code == Unconfirmed.code
    button = (
        '<button name="confirm" value="yes">Confirm</button>' if unconfirmed else "<button>Replace the account</button>"
    )
    # The last part of its own path: a proxy may have put others before it.
    form = (
        f'<form method="post" action="{html.escape(_provider(request) or "callback")}">'
        f'<input type="hidden" name="state" value="{html.escape(state)}">{button}</form>'
    )
    answer = page(200 if unconfirmed else 409, _TITLES[unconfirmed], text, form=form)
    _set_cookie(answer, request.app[CONTEXT].settings.http, state, _cookies(request)[state])
    return answer


def _already_used(error: AlreadyUsed, request: web.Request) -> web.Response:
    flow = error.flow
    match flow.status:
        case "completed":
            return page(
                200,
                "Logged in",
                f"The account {flow.grant_id} at {flow.provider} was logged in with this link already.",
                good=True,
            )
        case "failed" if flow.decision == "open":
            return _undecided(request, error.state, flow.error, flow.error_description)
        case "failed":
            return page(
                400,
                "Not logged in",
                f"{flow.error_description} (You opened this page again; that changed nothing.)",
            )
        case _:
            text = "Another window is completing this login: reload this page in a few seconds."
            return page(400, "Just a moment", f"{text} If it still says so after a minute, start a new login.")
