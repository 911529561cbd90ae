"""Import one grant, or set its owner and label; and what an import in bulk shares with that."""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from broker.api import audit
from broker.api.context import CONTEXT
from broker.api.places import Place, Whose
from broker.api.requests import permit, read_json, require_provider
from broker.api.responses import json_response
from broker.api.routes import shapes
from broker.api.routes.grants import all_providers
from broker.errors import Conflict, InvalidRequest, UnknownGrant
from broker.model.account import NOBODY, Ownership, read_text
from broker.providers.refresh_token import problem_of, trim
from broker.secret import Secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from aiohttp import web

    from broker.api.callers import Caller
    from broker.api.context import Context
    from broker.store import Registered

_PUT_MEMBERS = ("provider", "refresh_token", "scope?", "owner?", "label?")


def add_routes(router: web.UrlDispatcher) -> None:
    """Add the routes of this module."""
    router.add_put("/v1/grants/{id}", put_grant)


async def put_grant(request: web.Request) -> web.Response:
    """`PUT /v1/grants/{id}`: import a refresh token; it is due at once, and the response does not wait for that.

    Without `provider` and `refresh_token` it sets `owner` and `label` of a grant that there is.
    """
    grant_id, caller = await permit(request, "admin")
    context = request.app[CONTEXT]
    body = await read_json(request, *_PUT_MEMBERS)
    annotations = read_annotations(body)
    if not {"provider", "refresh_token"} & body.keys() and annotations != NOBODY:
        return await _annotate(request, caller, grant_id, annotations)
    provider, refresh_token, scope = read_import(body, context.endpoints, caller)
    async with place_for(context, caller, grant_id) as place:
        registered = await context.store.registry.import_(
            grant_id, provider, refresh_token, scope, due_at=context.store.clock(), ownership=annotations
        )
        if registered.status in {"held", "outdated"}:
            place.kept = "no"
    status = refuse_conflict(registered, named=await may_name(context, caller, registered.holder))
    context.scheduler.wake(provider)
    audit_import(request, caller, grant_id, registered)
    answer = shapes.Imported(grant_id=grant_id, provider=provider, status=status, **trimmed(body))
    return json_response(answer, status=201 if status == "created" else 200)


def read_annotations(body: dict[str, Any]) -> Ownership:
    """Return the owner and label in a request.

    Raises:
        InvalidRequest: one of them is no text, too long, or has control characters.
    """
    return Ownership(None, read_text(body, "owner"), read_text(body, "label"))


async def _annotate(request: web.Request, caller: Caller, grant_id: str, annotations: Ownership) -> web.Response:
    registry = request.app[CONTEXT].store.registry
    held = await registry.generation(grant_id)
    if held is None or not await registry.annotate(grant_id, annotations.owner, annotations.label):
        raise UnknownGrant("no such grant")
    audit.acted(request, caller, "grant.annotated", grant_id, generation=held.generation)
    return json_response(shapes.Imported(grant_id=grant_id, provider=held.provider, status="annotated"))


def read_import(body: dict[str, Any], providers: Collection[str], caller: Caller) -> tuple[str, Secret, str | None]:
    """Return provider, refresh token and scope of one grant that *caller* imports.

    Raises:
        InvalidRequest: a member is missing or malformed.
        NotAllowed: the provider is none of the caller's.
    """
    provider, text, scope = body.get("provider"), body.get("refresh_token"), body.get("scope")
    known = require_provider(provider, providers, caller)
    if not isinstance(text, str):
        raise InvalidRequest("refresh_token must be text: send the refresh token")
    text = trim(text)
    if (problem := problem_of(text)) is not None:
        raise InvalidRequest(problem)
    if scope is not None and (not isinstance(scope, str) or not _encodable(scope)):
        raise InvalidRequest("scope must be text: send one, or leave it out")
    return known, Secret(text), scope


class Trimmed(TypedDict):
    """What the response to an import says of a refresh token that was trimmed."""

    warning: NotRequired[str]


def trimmed(body: dict[str, Any]) -> Trimmed:
    """Return a warning where the imported refresh token was trimmed."""
    if trim(body["refresh_token"]) == body["refresh_token"]:
        return {}
    return {"warning": "refresh_token had white space or control characters at its ends: imported without them"}


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def audit_import(request: web.Request, caller: Caller, grant_id: str, registered: Registered) -> None:
    """Audit the import, unless nothing changed."""
    if registered.status not in {"unchanged", "outdated"}:
        audit.acted(
            request, caller, "grant.imported", grant_id, generation=registered.generation, status=registered.status
        )


async def may_name(context: Context, caller: Caller, grant_id: str | None) -> bool:
    """Return whether *caller* may be told the id of another grant: it must be its admin."""
    if grant_id is None or not caller.may("admin", grant_id):
        return False
    held = None if caller.providers is None else await context.store.registry.generation(grant_id)
    return held is None or caller.may_use(held.provider)


@asynccontextmanager
async def place_for(context: Context, caller: Caller, grant_id: str) -> AsyncIterator[Place]:
    """Hold a place of the caller's quota during the body, where *grant_id* is a new grant and the caller has a quota.

    Raises:
        QuotaExceeded: it has no place left.
    """
    quota = caller.quota
    if quota is None or not quota.grants or await context.store.registry.generation(grant_id) is not None:
        yield Place()
        return
    providers = await all_providers(context, caller)
    whose = Whose(context.store, providers, functools.partial(caller.may, "login"))  # whoever may import may log in
    async with quota.place(grant_id, whose) as place:
        yield place


def refuse_conflict(registered: Registered, *, named: bool) -> Literal["created", "replaced", "unchanged"]:
    """Return what an import did; *named*: whether the caller may be told of the other grant of a conflict.

    Raises:
        Conflict: a refresh is in flight, another grant holds the token, or a newer token was imported since.
    """
    if registered.status == "leased":
        raise Conflict("a refresh of this grant is in flight: try again in a few seconds", retry_after=5)
    if registered.status == "held":
        other = f"grant {registered.holder!r}" if named else "a grant that this caller does not administer"
        raise Conflict(
            f"{other} holds the same refresh token already, and two grants would redeem it twice: use that grant, or "
            "delete it first"
        )
    if registered.status == "outdated":
        raise Conflict(
            "this refresh token was imported for this grant before, and another one since, so it is probably spent: "
            "import a newer one, log in, or delete the grant first"
        )
    return registered.status
