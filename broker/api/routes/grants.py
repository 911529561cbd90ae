"""What operators do with grants: list, describe, import, log out, retry."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from broker.api import audit
from broker.api.context import CONTEXT
from broker.api.requests import (
    authenticate_for,
    permit,
)
from broker.api.responses import json_response
from broker.api.routes import shapes
from broker.errors import BrokerError, InvalidRequest, UnknownGrant
from broker.process.tasks import finish
from broker.refresh import retry
from broker.report.words import state_words
from broker.secret import CannotOpen
from broker.store.cursor import FOREIGN_CURSOR

if TYPE_CHECKING:
    from aiohttp import web

    from broker.api.callers import Caller
    from broker.api.context import Context
    from broker.login.logout import LoggedOut
    from broker.model import Grant, State
    from broker.model.account import Account
    from broker.store.urgency import UrgentPage

STATES: tuple[State, ...] = ("parked", "leased", "due")
_PAGE = 100
_PAGE_MAX = 1000
_MOST_PROVIDERS = 100
"""Providers that a request names; more are possible where there are more."""


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_get("/v1/grants", list_grants)
    router.add_get("/v1/grants/{id}", describe_grant)
    router.add_delete("/v1/grants/{id}", delete_grant)
    router.add_post("/v1/grants/{id}/retry", retry_grant)


async def list_grants(request: web.Request) -> web.Response:
    """`GET /v1/grants?state=&provider=&search=&order=&limit=&cursor=`: list grants, parked first, then the soonest due.

    *search* is a part of the id; upper and lower case are the same. With `order=urgent`: first the grants without a
    valid token, the longest unserved first, then parked and failing ones, then the others, by when their tokens end.
    """
    caller, context, query = authenticate_for(request, "view"), request.app[CONTEXT], request.query
    states = tuple(s for s in STATES if s in query.getall("state", STATES))
    if not states:
        raise InvalidRequest(f"state is unknown: send one of {', '.join(STATES)}")
    providers = sorted(set(query.getall("provider", ()))) or await all_providers(context, caller)
    if len(providers) > max(_MOST_PROVIDERS, len(context.endpoints)) and "provider" in query:
        raise InvalidRequest(f"more than {_MOST_PROVIDERS} providers: leave provider out, and all are listed")
    for provider in providers:
        caller.require_provider(provider)
    try:
        limit = int(query.get("limit", _PAGE))
    except ValueError:
        limit = 0
    if not 1 <= limit <= _PAGE_MAX:
        raise InvalidRequest(f"limit is not a number from 1 to {_PAGE_MAX}: send one such as limit={_PAGE}")
    cursor = _open_cursor(context, caller, query.get("cursor"))
    part, order = query.get("search", "").lower(), query.get("order")

    def permitted(grant_id: str) -> bool:
        return part in grant_id.lower() and caller.may("view", grant_id)

    if order == "urgent":
        urgent = await context.store.urgency.rows(providers, cursor, limit, permitted, states=states)
        return await _respond_urgent(context, caller, urgent)
    if order is not None:
        raise InvalidRequest("order is unknown: send order=urgent, or leave it out")
    page = await context.store.grants.page(providers, states, cursor, limit, permitted)
    now = context.store.clock()
    rows = [
        _describe_for(caller, describe(grant, state, soon=context.notifier.ends_soon(grant), now=now))
        for state, grant in page.rows
    ]
    return json_response(shapes.Grants(grants=rows, next=_seal_cursor(context, caller, page.next)))


async def _respond_urgent(context: Context, caller: Caller, page: UrgentPage) -> web.Response:
    rows, now = list[shapes.Grant](), context.store.clock()
    for row in page.rows:
        described = describe(row.grant, row.state, soon=context.notifier.ends_soon(row.grant), now=now)
        described["served"] = row.served
        described["unserved_since"] = None if row.unserved_since is None else row.unserved_since // 1000
        rows.append(_describe_for(caller, described))
    complete = await context.store.urgency.is_complete()
    return json_response(shapes.Grants(grants=rows, next=_seal_cursor(context, caller, page.next), complete=complete))


def _seal_cursor(context: Context, caller: Caller, cursor: str | None) -> str | None:
    """Seal a cursor for *caller*: it names a grant, which the caller may have no right to know of."""
    if cursor is None:
        return None
    sealed = context.store.sealer.seal(cursor, "cursor", caller.name, purpose="cursor")
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def _open_cursor(context: Context, caller: Caller, sealed: str | None) -> str | None:
    if sealed is None:
        return None
    try:
        raw = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
        return context.store.sealer.open(raw, "cursor", caller.name, purpose="cursor")
    except (ValueError, CannotOpen):
        raise InvalidRequest(FOREIGN_CURSOR) from None


async def all_providers(context: Context, caller: Caller) -> list[str]:
    """Return the names of the caller's providers, in the settings and in the store."""
    names = set(context.endpoints) | await context.store.grants.known_providers()
    return sorted(filter(caller.may_use, names))


async def describe_grant(request: web.Request) -> web.Response:
    """`GET /v1/grants/{id}`: describe a grant, without its secrets."""
    grant_id, caller = await permit(request, "view")
    context = request.app[CONTEXT]
    grant = await context.store.grants.get(grant_id)
    if grant is None:
        raise UnknownGrant("no such grant")
    state, grant = await context.store.grants.placed(grant)
    now = context.store.clock()
    described = describe(grant, state, soon=context.notifier.ends_soon(grant), now=now)
    return json_response(_describe_for(caller, described))


def _describe_for(caller: Caller, described: shapes.Grant) -> shapes.Grant:
    """Return a grant's members with what *caller* may do to it, so that a page shows no button that is refused."""
    described["rights"] = caller.rights_on(described["grant_id"])
    return described


def describe(grant: Grant, state: State, *, soon: bool, now: int) -> shapes.Grant:
    """Return a grant as JSON members, without its secrets.

    Args:
        grant: the grant.
        state: the sorted set that it is in.
        soon: whether a person must log in again soon.
        now: epoch ms.
    """
    expires_at = grant.token.expires_at // 1000 if grant.token else None
    return {
        "grant_id": grant.grant_id,
        "provider": grant.provider,
        "state": state,
        "state_words": state_words(state, grant.reason, expires_at, grant.failures, now=now // 1000),
        "reason": grant.reason,
        "generation": grant.generation,
        "issued_at": grant.token.issued_at // 1000 if grant.token else None,
        "expires_at": expires_at,
        "refresh_at": grant.refresh_at // 1000,
        "granted_at": grant.granted_at // 1000,
        "reauthorize_by": grant.reauthorize_by // 1000 if grant.reauthorize_by else None,
        "reauthorize_soon": soon,
        "scope": grant.token.scope if grant.token else None,
        "failures": grant.failures,
        "unreadable": grant.unreadable,
        "last": {"outcome": grant.last_outcome, "detail": grant.last_detail, "at": grant.last_at // 1000}
        if grant.last_at and grant.last_outcome
        else None,
        "account": describe_account(grant.ownership.account),
        "owner": grant.ownership.owner,
        "label": grant.ownership.label,
    }


def describe_account(account: Account | None) -> shapes.Account | None:
    """Return an account as JSON members; None where it is not known."""
    return None if account is None else shapes.Account(**account.members())  # type: ignore[typeddict-item]


async def delete_grant(request: web.Request) -> web.Response:
    """`DELETE /v1/grants/{id}`: log out at the provider, then forget the grant.

    `revoked` says whether the provider logged out; the grant is forgotten in any case.
    """
    grant_id, caller = await permit(request, "admin")
    context = request.app[CONTEXT]
    grant = await context.store.grants.get(grant_id)
    if grant is None and await context.reader.recover(grant_id):  # Redis lost it, and it would come back by itself
        grant = await context.store.grants.get(grant_id)
    if grant is None:
        detail = await context.logout.forget_lost(grant_id)
        if detail is None:
            raise UnknownGrant("no such grant")
        audit.acted(request, caller, "grant.deleted", grant_id)
        return json_response(shapes.LoggedOut(grant_id=grant_id, forgotten=True, revoked=False, detail=detail))
    caller.require_provider(grant.provider)  # a grant whose data is damaged may be anybody's
    if context.logout.needs_live_token(grant):
        try:  # the provider's logout needs a live access token: refresh for one
            await context.reader.current(grant_id, wait=context.settings.refresh.request_timeout.total_seconds())
        except UnknownGrant:
            raise
        except BrokerError:
            pass  # then the response says that the provider did not log out
    logged_out = await finish(_log_out(request, caller, grant))
    answer = shapes.LoggedOut(grant_id=grant_id, forgotten=True, revoked=logged_out.revoked, detail=logged_out.detail)
    return json_response(answer)


async def _log_out(request: web.Request, caller: Caller, grant: Grant) -> LoggedOut:
    logged_out = await request.app[CONTEXT].logout.log_out(grant.grant_id)
    audit.acted(request, caller, "grant.deleted", grant.grant_id, generation=grant.generation)
    return logged_out


async def retry_grant(request: web.Request) -> web.Response:
    """`POST /v1/grants/{id}/retry`: make a grant due now, parked or not."""
    grant_id, caller = await permit(request, "admin")
    context = request.app[CONTEXT]
    retried = await retry.retry_grant(context.store, context.scheduler, grant_id)
    audit.acted(request, caller, "grant.retried", grant_id, generation=retried.generation)
    body = shapes.Retried(grant_id=grant_id, state=retried.state)
    if retried.provider not in context.endpoints:
        body["warning"] = (
            f"its provider is not in the settings of this broker: put [providers.{retried.provider}] back and run "
            "`token-broker reload`"
        )
    return json_response(body, status=202)
