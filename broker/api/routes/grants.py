"""What operators change: list, describe, import, log out, take up again."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Literal

from broker.api import audit
from broker.api.app import API, caller_of, grant_id_of, json_answer, json_body
from broker.api.routes import shapes
from broker.errors import BrokerError, Conflict, InvalidRequest, NotAllowed, UnknownGrant
from broker.process.tasks import finish
from broker.secret import CannotOpen, Secret
from broker.store.grants import FOREIGN_CURSOR

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

    from broker.api.app import Api
    from broker.api.callers import Caller
    from broker.login.logout import LoggedOut
    from broker.model import Grant, State
    from broker.providers import Endpoint
    from broker.store import ProviderState, Registered
    from broker.store.history import Minute

STATES: tuple[State, ...] = ("parked", "leased", "due")
_PAGE = 100
_PAGE_MAX = 1000


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/v1/grants", list_grants)
    router.add_get("/v1/grants/{id}", describe_grant)
    router.add_put("/v1/grants/{id}", put_grant)
    router.add_delete("/v1/grants/{id}", delete_grant)
    router.add_post("/v1/grants/{id}/retry", retry_grant)
    router.add_get("/v1/providers", list_providers)
    router.add_post("/v1/providers/{name}/retry", retry_provider)
    router.add_post("/v1/notify/test", test_notices)


def admin_of(request: web.Request) -> Caller:
    """The caller, who must be admin of something."""
    caller = caller_of(request)
    if not caller.administers:
        raise NotAllowed(f"caller {caller.name!r} has no admin right: see callers in the settings")
    return caller


async def list_grants(request: web.Request) -> web.Response:
    """`GET /v1/grants?state=&provider=&search=&limit=&cursor=`: parked ones first; soonest first within a state.

    *search* is a part of the id, in any case of its letters.
    """
    caller, api, query = admin_of(request), request.app[API], request.query
    states = tuple(s for s in STATES if s in query.getall("state", STATES))
    if not states:
        raise InvalidRequest(f"state must be one of {', '.join(STATES)}")
    providers = query.getall("provider", None) or await _all_providers(request)
    try:
        limit = min(_PAGE_MAX, max(1, int(query.get("limit", _PAGE))))
    except ValueError:
        raise InvalidRequest(f"limit must be a number from 1 to {_PAGE_MAX}") from None
    cursor = _opened(api, caller, query.get("cursor"))
    part = query.get("search", "").lower()
    page = await api.store.grants.page(
        providers, states, cursor, limit, lambda grant_id: part in grant_id.lower() and caller.may("admin", grant_id)
    )
    rows = [described(grant, state, soon=api.desk.ends_soon(grant)) for state, grant in page.rows]
    return json_answer(shapes.Grants(grants=rows, next=_sealed(api, caller, page.next)))


def _sealed(api: Api, caller: Caller, cursor: str | None) -> str | None:
    """A cursor as *caller* gets it: it names a grant, which may be one that the caller must not know of."""
    if cursor is None:
        return None
    return base64.urlsafe_b64encode(api.store.sealer.seal(cursor, "cursor", caller.name)).decode().rstrip("=")


def _opened(api: Api, caller: Caller, sealed: str | None) -> str | None:
    if sealed is None:
        return None
    try:
        raw = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
        return api.store.sealer.open(raw, "cursor", caller.name)
    except (ValueError, CannotOpen):
        raise InvalidRequest(FOREIGN_CURSOR) from None


async def _all_providers(request: web.Request) -> list[str]:
    api = request.app[API]
    return sorted(set(api.endpoints) | await api.store.grants.known_providers())


async def describe_grant(request: web.Request) -> web.Response:
    """`GET /v1/grants/{id}`: a grant, everything but secrets."""
    grant_id, caller, api = grant_id_of(request), caller_of(request), request.app[API]
    caller.require("admin", grant_id)
    grant = await api.store.grants.get(grant_id)
    if grant is None:
        raise UnknownGrant("no such grant")
    state, grant = await api.store.grants.placed(grant)
    return json_answer(described(grant, state, soon=api.desk.ends_soon(grant)))


def described(grant: Grant, state: State, *, soon: bool) -> shapes.Grant:
    """A grant on the wire, secrets aside. Times are epoch seconds; *soon*: a person must log in again before long."""
    return {
        "grant_id": grant.grant_id,
        "provider": grant.provider,
        "state": state,
        "reason": grant.reason,
        "generation": grant.generation,
        "issued_at": grant.token.issued_at // 1000 if grant.token else None,
        "expires_at": grant.token.expires_at // 1000 if grant.token else None,
        "refresh_at": grant.refresh_at // 1000,
        "granted_at": grant.granted_at // 1000,
        "reauthorize_by": grant.reauthorize_by // 1000 if grant.reauthorize_by else None,
        "reauthorize_soon": soon,
        "scope": grant.token.scope if grant.token else None,
        "attempts": grant.failures,
        "unreadable": grant.unreadable,
        "last": {"outcome": grant.last_outcome, "detail": grant.last_detail, "at": grant.last_at // 1000}
        if grant.last_at and grant.last_outcome
        else None,
    }


async def put_grant(request: web.Request) -> web.Response:
    """`PUT /v1/grants/{id}`: import a refresh token, due at once, without waiting for the provider."""
    grant_id, caller, api = grant_id_of(request), caller_of(request), request.app[API]
    caller.require("admin", grant_id)
    provider, refresh_token, scope = imported(
        await json_body(request, "provider", "refresh_token", "scope?"), api.endpoints
    )
    registered = await api.store.registry.import_(grant_id, provider, refresh_token, scope, due_at=api.store.clock())
    status = refuse_conflict(registered)
    api.wake(provider)
    audit_import(caller, grant_id, registered)
    answer = shapes.Imported(grant_id=grant_id, provider=provider, status=status)
    return json_answer(answer, status=201 if status == "created" else 200)


def imported(body: dict[str, Any], providers: Any) -> tuple[str, Secret, str | None]:
    """Provider, refresh token and scope of one imported grant; raises `InvalidRequest`."""
    provider, refresh_token, scope = body.get("provider"), body.get("refresh_token"), body.get("scope")
    if not isinstance(provider, str) or provider not in providers:
        raise InvalidRequest(
            f"provider must be one of those in the settings: {', '.join(providers) or 'there are none'}"
        )
    if not isinstance(refresh_token, str) or not refresh_token or not _encodable(refresh_token):
        raise InvalidRequest("refresh_token must be a text that is not empty")
    if scope is not None and (not isinstance(scope, str) or not _encodable(scope)):
        raise InvalidRequest("scope must be a text, or be left out")
    return provider, Secret(refresh_token), scope


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def audit_import(caller: Caller, grant_id: str, registered: Registered) -> None:
    """Say who imported it; that nothing changed is nothing to say."""
    if registered.status not in {"unchanged", "outdated"}:
        audit.acted(caller, "grant.imported", grant_id, generation=registered.generation, status=registered.status)


def refuse_conflict(registered: Registered) -> Literal["created", "replaced", "unchanged"]:
    """What an import did.

    Raises `Conflict` where it met a refresh in flight, another holder of the token, or a newer token.
    """
    if registered.status == "leased":
        raise Conflict("a refresh of this grant is in flight: try again in a few seconds", retry_after=5)
    if registered.status == "held":
        raise Conflict(
            f"the same refresh token is already held as grant {registered.holder!r}: two grants with one token would "
            "redeem it twice; use that grant, or delete it first"
        )
    if registered.status == "outdated":
        raise Conflict(
            "this refresh token was imported for this grant before, and another since, so it is likely to be spent: "
            "import a newer one, log in, or delete the grant first"
        )
    return registered.status


async def delete_grant(request: web.Request) -> web.Response:
    """`DELETE /v1/grants/{id}`: log out at the provider, then forget; the answer says which of the two happened."""
    grant_id, caller, api = grant_id_of(request), caller_of(request), request.app[API]
    caller.require("admin", grant_id)
    grant = await api.store.grants.get(grant_id)
    if grant is None:
        raise UnknownGrant("no such grant")
    if api.logout.needs_live_token(grant):
        try:  # the provider's logout is paid for with a living access token: have one made
            await api.reader.current(grant_id, wait=api.settings.refresh.request_timeout.total_seconds())
        except UnknownGrant:
            raise
        except BrokerError:
            pass  # then the answer says that only our side was forgotten
    logged_out = await finish(_log_out(api, caller, grant))
    answer = shapes.LoggedOut(grant_id=grant_id, forgotten=True, revoked=logged_out.revoked, detail=logged_out.detail)
    return json_answer(answer)


async def _log_out(api: Api, caller: Caller, grant: Grant) -> LoggedOut:
    logged_out = await api.logout.log_out(grant.grant_id)
    audit.acted(caller, "grant.deleted", grant.grant_id, generation=grant.generation)
    return logged_out


async def retry_grant(request: web.Request) -> web.Response:
    """`POST /v1/grants/{id}/retry`: ask the provider once more, parked or not."""
    grant_id, caller, api = grant_id_of(request), caller_of(request), request.app[API]
    caller.require("admin", grant_id)
    known = await api.store.registry.generation(grant_id)
    outcome = await api.store.schedule.retry(grant_id, known.provider) if known else "gone"
    if known is None or outcome == "gone":
        raise UnknownGrant("no such grant")
    api.wake(known.provider)
    audit.acted(caller, "grant.retried", grant_id, generation=known.generation)
    return json_answer(shapes.Retried(grant_id=grant_id, state=outcome), status=202)


async def list_providers(request: web.Request) -> web.Response:
    """`GET /v1/providers`: each with its last hour, grants by state, and why it is suspended."""
    admin_of(request)
    api, names = request.app[API], await _all_providers(request)
    states = await api.store.grants.providers(names)
    history = await api.store.history.of(names, api.store.clock())
    answer = shapes.Providers(providers=[_provider(request, state, history[state.name]) for state in states])
    return json_answer(answer)


def _provider(request: web.Request, state: ProviderState, history: Iterable[Minute]) -> shapes.Provider:
    endpoint = request.app[API].endpoints.get(state.name)
    return {
        "provider": state.name,
        "kind": endpoint.dialect.kind if endpoint else None,
        "suspended": state.suspended,
        "suspended_at": state.suspended_at // 1000 if state.suspended_at else None,
        "not_before": state.not_before // 1000 if state.not_before else None,
        "failures": state.ailing,
        "reuse_grace": _grace(endpoint) if endpoint else None,
        "detail": state.detail,
        "grants": dict(state.counts),
        "history": [{"at": m.at // 1000, "refreshed": m.refreshed, "failed": m.failed} for m in history],
    }


def _grace(endpoint: Endpoint) -> float | Literal["forever"]:
    """For how long a spent refresh token may be presented again: seconds, or "forever"."""
    grace = endpoint.dialect.reuse_grace_ms
    return "forever" if grace is None else grace / 1000


async def retry_provider(request: web.Request) -> web.Response:
    """`POST /v1/providers/{name}/retry`: end its suspension and take up what was parked.

    A grant that the provider declared dead stays parked, unless the breaker counted it: one by one is the way there.
    """
    admin, api, name = admin_of(request), request.app[API], request.match_info["name"]
    if not admin.administers_all:
        raise NotAllowed(
            f'caller {admin.name!r} is not admin of every grant (admin = ["*"]), and a provider is taken up for all '
            "of them: retry grant by grant"
        )
    if name not in api.endpoints:
        raise InvalidRequest(f"no provider {name[:64]!r} in the settings; there are: {', '.join(api.endpoints)}")
    taken_up = await finish(_take_up(api, admin, name))
    return json_answer(shapes.ProviderRetried(provider=name, grants_taken_up=taken_up), status=202)


async def _take_up(api: Api, admin: Caller, name: str) -> int:
    """How many grants were taken up. To be finished: whom the breaker had seen refused is told only once."""
    schedule, taken_up = api.store.schedule, 0
    for grant_id in await schedule.resume(name):
        taken_up += await schedule.retry(grant_id, name) == "due"
    cursor: str | None = None
    while True:
        page = await api.store.grants.page([name], ["parked"], cursor, _PAGE_MAX)
        for _, grant in page.rows:
            if grant.reason != "reauthorization_required":
                taken_up += await schedule.retry(grant.grant_id, name) == "due"
        cursor = page.next
        if cursor is None:
            break
    api.wake(name)
    audit.acted(admin, "provider.retried", provider=name, grants_taken_up=taken_up)
    return taken_up


async def test_notices(request: web.Request) -> web.Response:
    """`POST /v1/notify/test`: a test notice by every way of telling people, and what each receiver answered."""
    admin, api = admin_of(request), request.app[API]
    if not admin.administers_all:
        raise NotAllowed(
            f'caller {admin.name!r} is not admin of every grant (admin = ["*"]), and notices tell of all of them'
        )
    tested = await finish(api.desk.test())
    audit.acted(admin, "notices.tested", told=[result.channel for result in tested if result.delivered])
    ways = [shapes.WayTested(way=each.channel, told=each.delivered, detail=each.detail) for each in tested]
    return json_answer(shapes.NoticesTested(ways=ways))
