"""Each right at each route, as one table: what no right gives is refused, and a new route cannot be forgotten."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.api.app import make_applications
from broker.api.callers import INCLUDED_IN
from broker.api.routes.openapi import list_routes
from broker.api.routes.operations import OPERATIONS
from broker.sandbox import BrowserError, Sandbox, walk_login
from tests.conftest import RunningBroker
from tests.rights.conftest import StartRights, as_
from tests.steps import log_in

EVERY = "admin of every grant"
TABLE: dict[tuple[str, str], str | None] = {
    ("get", "/v1/grants/{id}/token"): "read",
    ("post", "/v1/grants/{id}/refresh"): "refresh",
    ("*", "/v1/grants/{id}/authorization"): "read",
    ("*", "/v1/grants/{id}/authorization/{suffix}"): "read",
    ("post", "/oauth2/token"): "read",
    ("get", "/v1/grants"): "view",
    ("get", "/v1/grants/{id}"): "view",
    ("put", "/v1/grants/{id}"): "admin",
    ("delete", "/v1/grants/{id}"): "admin",
    ("get", "/v1/grants/{id}/attempts"): "view",
    ("get", "/v1/grants/{id}/explanation"): "view",
    ("post", "/v1/grants/{id}/retry"): "admin",
    ("post", "/v1/import"): "admin",
    ("post", "/v1/grants/{id}/login"): "login",
    ("get", "/v1/grants/{id}/login/{ticket}"): "login",
    ("post", "/v1/grants/{id}/login/complete"): "login",
    ("post", "/v1/grants/{id}/login/{ticket}/replace"): "login",
    ("get", "/login/{ticket}"): None,
    ("get", "/callback"): None,
    ("post", "/callback"): None,
    ("get", "/callback/{name}"): None,
    ("post", "/callback/{name}"): None,
    ("get", "/v1/providers"): "view",
    ("get", "/v1/history"): "view",
    ("get", "/v1/verdict"): "view",
    ("get", "/v1/events"): "view",
    ("post", "/v1/providers/{name}/retry"): EVERY,
    ("get", "/healthz"): None,
    ("get", "/readyz"): None,
    ("get", "/readyz/{id}"): "read",
    ("get", "/metrics"): None,
    ("get", "/openapi.json"): None,
    ("post", "/v1/notify/test"): EVERY,
    ("post", "/v1/sealing/reseal"): EVERY,
    ("post", "/v1/reload"): EVERY,
    ("get", "/"): None,
    ("get", "/page/{file}"): None,
    ("get", "/session"): None,
    ("post", "/session"): None,
    ("post", "/session/end"): None,
}
"""The right that each route needs; None: no key."""
ALLOWS = {
    "read": {"read"},
    "refresh": {"refresh"},
    "view": {"view"},
    "login": {"login"},
    "admin": {"view", "login", "admin"},
    "nothing": set[str](),
    "all": {"read", "refresh", "view", "login", "admin", EVERY},
}
"""What the callers of the fixture may do with the grants of their patterns."""
OF_GRANTS = [route for route in TABLE if "{id}" in route[1]]


def path(template: str, grant: str) -> str:
    """Return a route's path."""
    values = {"id": grant, "ticket": "x", "name": "acme", "suffix": "x", "file": "main.js"}
    return re.sub(r"{(\w+)}", lambda match: values[match[1]], template)


async def ask(broker: RunningBroker, route: tuple[str, str], caller: str, grant: str) -> tuple[int, dict[str, Any]]:
    """Ask a route as a caller, with what it needs to come as far as the right."""
    method, template = route
    options: dict[str, Any] = {"headers": as_(caller)}
    if template == "/oauth2/token":
        options["data"] = {"grant_type": "client_credentials", "scope": f"grant:{grant}"}
    elif template.endswith("/login"):
        options["json"] = {"provider": "een"}
    elif template.endswith("/refresh"):
        options["headers"] |= {"If-Match": '"1"'}
    status, body, _ = await broker.ask("GET" if method == "*" else method, path(template, grant), **options)
    if template == "/oauth2/token" and (status, body.get("error")) == (400, "invalid_scope"):
        status = 404 if body["error_description"] == "no such grant" else 403  # RFC 6749 §5.2 has one code for both
    return status, body


def test_every_route_is_in_the_table() -> None:
    """A route that is added must be given its right here, and documents the same one."""
    whole, _ = make_applications(cast("Any", SimpleNamespace(hosts=None)))
    served = {(method, re.sub("^/page/.+", "/page/{file}", at)) for method, at, _ in list_routes(whole.router)}
    assert served == TABLE.keys()
    documented = {route: operation.right for group in OPERATIONS.values() for route, operation in group.items()}
    assert documented == TABLE
    assert {right for right in TABLE.values() if right} == {*INCLUDED_IN, EVERY}


async def test_each_right_at_each_route(broker: RunningBroker) -> None:
    """A caller with the right gets past it, to a grant that does not exist; without it 403 that names the right."""
    wrong = []
    for route, right in TABLE.items():
        for caller, allowed in ALLOWS.items():
            if right is None:
                continue
            status, body = await ask(broker, route, caller, "g-none")
            if (status == 403) == (right in allowed) or status == 401:
                wrong.append((route, caller, status, body))
            if status == 403 and right != EVERY:
                words = body["error_description"]
                assert f"no {right} right" in words, (route, words)
                assert f"token-broker caller new NAME --{right}" in words, (route, words)
    assert not wrong


async def test_another_id(broker: RunningBroker) -> None:
    """A right on some ids is none on others, whether or not they exist."""
    for route in OF_GRANTS:
        for caller in ("read", "refresh", "view", "login", "admin"):
            assert (await ask(broker, route, caller, "other"))[0] == 403, (route, caller)


async def test_rights_keep_to_a_provider(broker: RunningBroker, sandbox: Sandbox) -> None:
    """An admin of all grants of one provider reaches no grant of another by any route, and learns of none."""
    for route in [*OF_GRANTS, ("post", "/oauth2/token")]:
        status, body = await ask(broker, route, "een", "g1")
        assert status == 403, (route, body)
        assert "keeps to the providers ee?" in body["error_description"], route
        assert (await ask(broker, route, "een", "g-none"))[0] != 403, route
        assert (await ask(broker, route, "all", "g-none"))[0] != 403, route
    one = {"provider": "acme", "refresh_token": "x" * 40}
    for reply in (
        await broker.ask("PUT", "/v1/grants/new", json=one, headers=as_("een")),
        await broker.ask("POST", "/v1/grants/new/login", json={"provider": "acme"}, headers=as_("een")),
        await broker.ask("PUT", "/v1/grants/new", json=one | {"provider": "none"}, headers=as_("een")),
        await broker.ask("POST", "/v1/providers/acme/retry", headers=as_("een")),
        await broker.ask("GET", "/v1/grants?provider=acme", headers=as_("een")),
        await broker.ask("GET", "/v1/history?provider=acme", headers=as_("een")),
        *[await broker.ask("POST", f"/v1/{of_all}", headers=as_("een")) for of_all in ("reload", "notify/test")],
    ):
        assert reply[0] == 403, reply[1]
    _, body, _ = await broker.ask("POST", "/v1/import", json={"grant_id": "new", **one}, headers=as_("een"))
    assert body["error"] == "access_denied"
    status, body, _ = await broker.ask("PUT", "/v1/grants/new", json={"provider": 5}, headers=as_("een"))
    assert (status, "use one of een" in body["error_description"]) == (400, True)
    assert (await broker.ask("POST", "/v1/providers/een/retry", headers=as_("een")))[0] == 202
    token = sandbox.v3.issue().refresh_token or ""
    mine = {"provider": "een", "refresh_token": token}
    assert (await broker.ask("PUT", "/v1/grants/mine", json=mine, headers=as_("een")))[0] == 201
    for order in ("", "?order=urgent"):
        rows = (await broker.get(f"/v1/grants{order}", headers=as_("een")))["grants"]
        assert {row["grant_id"] for row in rows} == {"mine"}  # shown twice while it moves
    rows = (await broker.get("/v1/providers", headers=as_("een")))["providers"]
    assert [row["provider"] for row in rows] == ["een"]
    rows = (await broker.get("/v1/history", headers=as_("een")))["providers"]
    assert [row["provider"] for row in rows] == ["een"]
    await broker.token("g1")
    of_all = await broker.get("/v1/verdict")
    verdict = await broker.get("/v1/verdict", headers=as_("een"))
    assert set(verdict["providers"]) == {"een"}
    assert verdict["memory"]["tokens"] < of_all["memory"]["tokens"], "g1 is in memory"
    assert "acme" not in str(verdict)
    assert (await broker.ask("GET", "/v1/grants/mine/token", headers=as_("een")))[0] == 200
    assert (await broker.ask("POST", "/oauth2/token", headers=as_("een"), data=form("mine")))[0] == 200
    assert (await broker.ask("GET", "/v1/grants/mine/authorization", headers=as_("een")))[0] == 200
    assert (await broker.ask("DELETE", "/v1/grants/mine", headers=as_("een")))[0] == 200


def form(grant: str) -> dict[str, str]:
    """Return a client credentials request."""
    return {"grant_type": "client_credentials", "scope": f"grant:{grant}"}


async def test_a_login_of_another_provider_is_not_taken_over(broker: RunningBroker) -> None:
    """A login that somebody started at another provider shows nothing, and is not completed."""
    _, started, _ = await broker.ask("POST", "/v1/grants/new/login", json={"provider": "acme"})
    status, _, _ = await broker.ask("GET", f"/v1/grants/new/login/{started['ticket']}", headers=as_("een"))
    assert status == 404
    url = f"{broker.url}/callback?code=x&state={started['state']}"
    status, body, _ = await broker.ask(
        "POST", "/v1/grants/new/login/complete", json={"redirected_to": url}, headers=as_("een")
    )
    assert (status, body["error"]) == (403, "access_denied")
    assert (await broker.get(f"/v1/grants/new/login/{started['ticket']}"))["status"] == "pending"


async def test_a_login_begun_for_a_free_id_takes_no_grant(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Where another provider's grant got the id meanwhile, a login of whoever has no right there replaces nothing."""
    _, started, _ = await broker.ask("POST", "/v1/grants/new/login", json={"provider": "een"}, headers=as_("een"))
    await asyncio.sleep(0.01)  # the store's clock may step back by less, where a reply of Redis bounds it better
    await broker.import_("new", "acme", sandbox.rotating.issue().refresh_token or "")
    before = len(sandbox.v3.token_requests)
    with pytest.raises(BrowserError):
        await walk_login(started["login_url"])
    assert "imported at another provider since this login began" in broker.events("login.failed")[-1]["detail"]
    assert len(sandbox.v3.token_requests) == before, "its code was not even exchanged"
    assert (await broker.get("/v1/grants/new"))["provider"] == "acme"


async def test_a_conflict_names_only_what_one_administers(broker: RunningBroker) -> None:
    """Whoever imports a refresh token that another grant holds learns that grant's id as its admin alone."""
    one = {"provider": "acme", "refresh_token": "token-of-another-grant-0123456789"}
    broker.secrets.add(one["refresh_token"])
    assert (await broker.ask("POST", "/v1/import", json={"grant_id": "secret-name", **one}))[0] == 200
    for caller, named in (("admin", False), ("all", True)):
        status, body, _ = await broker.ask("PUT", "/v1/grants/g2", json=one, headers=as_(caller))
        assert (status, "secret-name" in body["error_description"]) == (409, named), body
        line = {"grant_id": "g2", **one}
        _, body, _ = await broker.ask("POST", "/v1/import", json=line, headers=as_(caller))
        assert body["error"] == "conflict"
        assert (body.get("holder") == "secret-name") is named
        assert ("secret-name" in str(body)) is named


async def test_a_grant_names_the_rights_on_it(start_rights: StartRights) -> None:
    """Lists and descriptions say what the caller may do to each grant, where its patterns differ."""
    mixed = {"read": ["b"], "view": ["*"], "login": ["a*"], "admin": ["b"]}
    async with start_rights({"mixed": mixed}) as broker:
        for grant in ("a1", "b", "c"):
            await log_in(broker, grant, "acme")
        wanted = {"a1": ["view", "login"], "b": ["read", "view", "login", "admin"], "c": ["view"]}
        for order in ("", "?order=urgent"):
            rows = (await broker.get(f"/v1/grants{order}", headers=as_("mixed")))["grants"]
            assert {row["grant_id"]: row["rights"] for row in rows} == wanted
        for grant, rights in wanted.items():
            assert (await broker.get(f"/v1/grants/{grant}", headers=as_("mixed")))["rights"] == rights
