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
from broker.api.routes.import_one import require_room
from broker.api.session import cookies
from broker.api.targets import public_path
from broker.errors import BrokerError, InvalidRequest, StoreUnavailable, UnknownGrant
from broker.login.held import OtherAccount
from broker.login.login import AlreadyUsed
from broker.login.redirect import read_query
from broker.model.account import Ownership, read_text
from broker.process.tasks import finish
from broker.store.flows import LIFE_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from broker.api.callers import Caller
    from broker.api.context import Context
    from broker.login.recorder import LoggedIn

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger()
_COOKIE = "token_broker_login_"


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
    router.add_post("/callback", _with_page(replace_by_browser))


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
    await require_room(context, caller, "login", grant_id)
    started = await context.login.start(grant_id, provider, annotations=annotations, replace_account=replaces)
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
        return _already_used(error)
    except StoreUnavailable as error:
        text = f"token-broker cannot use its store now ({error}). Open this link again in a minute."
        return page(error_status(error), "Not now", text)
    except BrokerError as error:
        context.denials.note_error(request, error)
        return page(error_status(error), "This link does not work", str(error))
    answer = web.Response(status=302, headers={**HEADERS, "Location": opened.authorization_url})
    answer.set_cookie(
        _COOKIE + _cookie_suffix(opened.state),
        f"{opened.state}.{opened.cookie}",
        max_age=LIFE_S,
        path=f"{public_path(context.settings.http)}/callback",
        httponly=True,
        samesite="Lax",
        secure=context.settings.http.public_url.startswith("https://"),
    )
    return answer


def _cookie_suffix(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()[:12]


async def callback(request: web.Request) -> web.Response:
    """`GET /callback`: complete the login (RFC 6749 §4.1.2). A reload changes nothing."""
    if _is_prefetch(request):
        return web.Response(status=503, headers=HEADERS)
    try:
        require_audit(request.app[CONTEXT])
        query = read_query(request.rel_url.raw_query_string)
        login = request.app[CONTEXT].login.callback(query, _cookies(request))
        return _logged_in(await finish(_complete(request, None, login)))
    except AlreadyUsed as error:
        return _already_used(error)
    except OtherAccount as error:
        return _other_account(str(error), error.state)
    except BrokerError as error:
        return _not_logged_in(request, error)


async def replace_by_browser(request: web.Request) -> web.Response:
    """`POST /callback`: replace the grant by a login of another account, from the page that says so."""
    body = await read_body(request)
    try:
        require_audit(request.app[CONTEXT])
        form = read_query(body.decode("utf-8", "replace"))
        if "code" in form:
            raise InvalidRequest(
                'the provider sent its response by POST: set response_mode = "query" in its authorization_params '
                "(OAuth 2.0 Form Post Response Mode), and log in again"
            )
        login = request.app[CONTEXT].login.replace_account_by_browser(form.get("state", ""), _cookies(request))
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


def _other_account(text: str, state: str) -> web.Response:
    """Show whose the grant is and whose it would become, with the button that replaces it."""
    form = (
        f'<form method="post" action="callback"><input type="hidden" name="state" value="{html.escape(state)}">'
        "<button>Replace the account</button></form>"
    )
    return page(409, "This is another account", text, form=form)


def _already_used(error: AlreadyUsed) -> web.Response:
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
            return _other_account(flow.error_description, error.state)
        case "failed":
            return page(
                400,
                "Not logged in",
                f"{flow.error_description} (You opened this page again; that changed nothing.)",
            )
        case _:
            text = "Another window is completing this login: reload this page in a few seconds."
            return page(400, "Just a moment", f"{text} If it still says so after a minute, start a new login.")
