"""Token endpoint answers: lifetimes, forms, errors, scopes, encodings of text, as servers in the field give them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.regressions.conftest import Ground, MakeGround, strict
from tests.scripted_server import AuthorizationServer, Exchange, Step, http, rotated, says, success
from tests.steps import refused_often
from tests.waiting import until

EPOCH = -1
"""Stands for the point in time an hour ahead."""
BODY = '{"access_token":"%a","refresh_token":"%r","expires_in":3600'


@pytest.mark.parametrize("life", ["3599.7", "3600.0", "3.6e3"], ids=str)
async def test_fractional_lifetime(ground: Ground, life: str) -> None:
    """A lifetime with a fraction or an exponent is read; `expires_at` is whole and never beyond the life."""
    ground.auth_server.script.append(rotated(f'{{"access_token":"%a","refresh_token":"%r","expires_in":{life}}}'))
    state = await ground.falls_due()
    token = await ground.broker.token("g1")
    assert (state["last"]["outcome"], token["access_token"]) == ("refreshed", ground.auth_server.access["g1"])
    assert isinstance(token["expires_at"], int)
    assert time.time() + 3590 < token["expires_at"] <= time.time() + float(life)


async def test_same_token_in_its_last_second(ground: Ground) -> None:
    """The token held, come back with a life of 0, is no news: asked again soon, not at once, and told of once."""

    async def same(exchange: Exchange) -> bool:
        held = exchange.auth_server.access["g1"]
        answer = {**exchange.rotate(), "access_token": held, "expires_in": 0}
        exchange.auth_server.access["g1"] = held
        await exchange.send(http(answer))
        return True

    ground.auth_server.script.append(same)
    async with ground.subscribed() as heard:
        before = await ground.broker.token("g1")
        state = await ground.falls_due()
        assert state["last"]["outcome"] == "unchanged"
        assert (await ground.broker.token("g1"))["generation"] == before["generation"]
        await until(lambda: len(ground.auth_server.requests_of("g1")) == 3)
        await until(lambda: [m["event"] for m in heard if m["grant_id"] == "g1"] == ["refreshed"])
        first, second = ground.auth_server.requests_of("g1")[1:]
        assert second.at - first.at > 0.95
        assert (await ground.broker.token("g1"))["generation"] > before["generation"]
    assert [m["event"] for m in heard if m["grant_id"] == "g1"] == ["refreshed"]


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"expires_in": EPOCH}, id="expires_in-is-an-epoch"),
        pytest.param({"expires_in": None, "expires_on": str(EPOCH)}, id="expires_on"),
        pytest.param({"expires_in": None, "expires": 3600}, id="expires"),
        pytest.param({"expires_at": 1, "expires_on": 2, "generation": 3}, id="foreign-ones-beside-ours"),
    ],
)
async def test_lifetime_in_another_dress(ground: Ground, members: dict[str, Any]) -> None:
    """A life is read under any name, warned of where its unit had to be guessed; foreign members replace nothing."""
    in_an_hour = int(time.time()) + 3600
    told_so = {str(EPOCH): str(in_an_hour), EPOCH: in_an_hour}
    members = {name: told_so.get(value, value) for name, value in members.items()}
    ground.auth_server.script.append(success(**members, x_unknown="kept"))
    state = await ground.falls_due()
    token = await ground.broker.token("g1")
    assert state["last"]["outcome"] == "refreshed"
    assert 3580 < token["expires_in"] <= 3600
    assert abs(token["expires_at"] - time.time() - token["expires_in"]) < 3
    assert token["generation"] == state["generation"] > 3
    assert token["x_unknown"] == "kept"
    warned = ground.broker.events("grant.refreshed")[-1].get("warning", "")
    assert bool(warned) == (members.get("expires_in") == in_an_hour or "expires" in members), warned


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"], ids=str)
async def test_form_encoded_success(ground: Ground, kind: str) -> None:
    """A success that comes as a form is a success, its life read from `expires`."""
    ground.auth_server.script.append(rotated("access_token=%a&refresh_token=%r&expires=3600", kind=kind))
    assert (await ground.falls_due())["last"]["outcome"] == "refreshed"
    assert (await ground.broker.token("g1"))["access_token"] == ground.auth_server.access["g1"]
    assert (await ground.falls_due())["last"]["outcome"] == "refreshed"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param('{"code":"invalid_grant","message":"no"}', "invalid_grant", id="error is an object"),
        pytest.param('["x"]', "x", id="error is a list"),
        pytest.param("null", "http_401", id="error is null"),
    ],
)
async def test_error_that_is_no_text(make_ground: MakeGround, error: str, code: str) -> None:
    """An error that is an object, a list or null is a refusal with a bounded code; only a known code parks a grant."""
    async with make_ground("g1", "g2", "g3", "g4") as ground:
        ground.auth_server.usual = says(f'{{"error":{error}}}', 401)
        dead = code == "invalid_grant"
        wanted = ("parked", "reauthorization_required", "dead") if dead else ("due", None, "rejected")
        for grant in ("g1", "g2", "g3"):
            state = await ground.falls_due(grant)
            assert (state["state"], state["reason"], state["last"]["outcome"]) == wanted
            assert code in state["last"]["detail"]
        assert (await ground.falls_due("g4"))["state"] == "due"
        assert (await ground.provider())["suspended"] == (code if dead else None), "the breaker counts dead ones"
        ground.auth_server.usual = success()
        await ground.resume()
        await ground.due("g1", "g2", "g3", "g4")
        for grant in ("g1", "g2", "g3", "g4"):
            await until(lambda: refreshed(ground, grant))


async def refreshed(ground: Ground, grant: str) -> bool:
    """Whether the last token request of a grant brought a token, and that is recorded."""
    state = await ground.state_of(grant)
    return bool(state["last"]["outcome"] == "refreshed" and state["state"] == "due")


async def test_dead_token_told_as_invalid_request(make_ground: MakeGround) -> None:
    """A dead token told as `invalid_request` is parked after a while, with one event, and its neighbours go on."""
    async with make_ground("g1", "g2") as ground, ground.subscribed() as heard:
        ground.auth_server.grant_steps["g1"].extend([says({"error": "invalid_request"}, 400)] * 9)
        state = await ground.falls_due("g1")
        assert (state["state"], state["reason"], state["last"]["outcome"]) == ("due", None, "rejected")
        await refused_often(ground.redis, "g1")
        state = await ground.falls_due("g1")
        assert (state["state"], state["reason"], state["last"]["outcome"]) == ("parked", "invalid_request", "rejected")
        for _ in range(20):
            await ground.due("g1")
            assert (await ground.falls_due("g2"))["last"]["outcome"] == "refreshed"
        assert len(ground.auth_server.requests_of("g1")) == 3, "the one at import, and the two that were refused"
        assert [m["event"] for m in heard if m["grant_id"] == "g1"] == ["refresh_failing"]


async def test_refresh_that_wants_another_parameter(make_ground: MakeGround) -> None:
    """An error is one in spite of an empty access_token beside it, and a parameter can be added by the settings."""

    async def insists(exchange: Exchange) -> bool | None:
        if "redirect_uri" in exchange.request.parameters:
            return await success()(exchange)
        return await says({"error": "invalid_request", "expires_in": 0, "access_token": ""}, 400)(exchange)

    async with make_ground("g1") as ground:
        ground.auth_server.usual = insists
        state = await ground.falls_due()
        assert (state["state"], state["last"]["detail"].split(":")[0]) == ("due", "invalid_request")
    async with make_ground(provider={"token_params": {"redirect_uri": "https://us.test/cb"}}) as ground:
        assert (await ground.retried())["last"]["outcome"] == "refreshed"
        assert ground.auth_server.requests_of("g1")[-1].parameters["redirect_uri"] == "https://us.test/cb"


SCOPES = ['["a","b"]', "null", '""', '{"x":1}']


async def test_scope_that_is_no_text(make_ground: MakeGround) -> None:
    """Whatever `scope` is, it is refreshed; on the wire it is a text or absent, and so it is in the next request."""
    async with make_ground("g1", provider={"scope_on_refresh": True}) as ground:
        for scope in SCOPES:
            ground.auth_server.script.append(rotated(f'{BODY},"scope":{scope}}}'))
            assert (await ground.falls_due())["last"]["outcome"] == "refreshed"
            assert (await ground.broker.token("g1")).get("scope") in {None, "a b"}
        assert (await ground.falls_due())["last"]["outcome"] == "refreshed"
        assert {request.parameters.get("scope") for request in ground.auth_server.requests_of("g1")} == {None, "a b"}


@pytest.mark.parametrize("scope", SCOPES, ids=str)
async def test_scope_on_the_standard_face(ground: Ground, scope: str) -> None:
    """The provider's scope is a text or absent on `POST /oauth2/token` too."""
    ground.auth_server.script.append(rotated(f'{BODY},"scope":{scope}}}'))
    await ground.falls_due()
    form = {
        "grant_type": "client_credentials",
        "scope": "grant:g1",
        "client_id": "admin",
        "client_secret": ground.broker.admin_key,
    }
    status, answer, _ = await ground.ask("POST", "/oauth2/token", data=form)
    assert status == 200, answer
    assert answer["scope"] == "grant:g1"
    assert answer.get("provider_scope") in {None, "a b"}


@pytest.mark.parametrize(
    "kind",
    ["text/html", "text/plain", "json", "application/json;charset=utf-8;", "application/vnd.x+json", None],
    ids=str,
)
async def test_good_json_under_any_content_type(ground: Ground, kind: str | None) -> None:
    """Good JSON counts under a wrong Content-Type, or none."""
    ground.auth_server.script.append(rotated(f"{BODY}}}", kind=kind))
    assert (await ground.falls_due())["last"]["outcome"] == "refreshed"
    assert (await ground.broker.token("g1"))["access_token"] == ground.auth_server.access["g1"]


@pytest.mark.parametrize(
    ("text", "member"),
    [pytest.param(b"r\xff2-of-odd-bytes", b"", id="token"), pytest.param(None, b',"n":"Jos\xe9"', id="member")],
)
async def test_byte_that_is_no_utf8(ground: Ground, text: bytes | None, member: bytes) -> None:
    """A refresh token beside or with a byte that is no UTF-8 is kept and sent back byte for byte."""

    async def odd(exchange: Exchange) -> bool:
        exchange.rotate(text)
        access, refresh = exchange.auth_server.access["g1"].encode(), exchange.auth_server.live["g1"]
        body = b'{"access_token":"%s","refresh_token":"%s","expires_in":3600%s}' % (access, refresh, member)
        await exchange.send(http(body))
        return True

    ground.auth_server.script.append(odd)
    state = await ground.falls_due()
    assert state["last"]["outcome"] == "refreshed"
    assert "UTF-8" in state["last"]["detail"]
    sent = ground.auth_server.live["g1"]
    assert (await ground.falls_due())["last"]["outcome"] == "refreshed"
    assert ground.auth_server.requests[-1].refresh_token == sent


async def test_doubled_members(ground: Ground) -> None:
    """Of a member that occurs twice the last counts, for all alike, with a warning; the next request proves it."""
    ground.auth_server.script.append(
        rotated('{"access_token":"at-first","access_token":"%a","refresh_token":"rt-first","refresh_token":"%r"}')
    )
    assert (await ground.falls_due())["last"]["outcome"] == "refreshed"
    assert (await ground.broker.token("g1"))["access_token"] == ground.auth_server.access["g1"]
    assert "refresh_token occurs twice" in ground.broker.events("grant.refreshed")[-1]["warning"]
    assert (await ground.falls_due())["last"]["outcome"] == "refreshed"


async def test_numbers_that_are_no_json(ground: Ground) -> None:
    """NaN and Infinity in an answer leave our own answer and message strict JSON; an infinite life is bounded."""
    ground.auth_server.script.append(
        rotated('{"access_token":"%a","refresh_token":"%r","quota":NaN,"x":-Infinity,"expires_in":Infinity}')
    )
    async with ground.subscribed() as heard:
        assert (await ground.falls_due())["last"]["outcome"] == "refreshed"
        _, answer, _ = await ground.ask("GET", "/v1/grants/g1/token", headers={"Accept": "text/plain"})
        assert answer["text"] == ground.auth_server.access["g1"]
        headers = {"X-Broker-Key": ground.broker.admin_key}
        async with ground.broker.session.get(f"{ground.broker.url}/v1/grants/g1/token", headers=headers) as raw:
            assert strict(await raw.text())["expires_in"] <= 3600
        await until(lambda: [m for m in heard if m["grant_id"] == "g1"])


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(says(b"", 204, "Content-Encoding: gzip", kind=None), id="204-gzip"),
        pytest.param(says(b"", 200), id="empty"),
    ],
)
async def test_empty_answer(ground: Ground, answer: Step) -> None:
    """A success without a body says nothing: unknown, without a traceback, and the old token is served."""
    ground.auth_server.script.append(answer)
    state = await ground.falls_due()
    assert (state["state"], state["last"]["outcome"]) == ("due", "unknown")
    assert "exception" not in ground.broker.log.getvalue()
    assert (await ground.broker.token("g1"))["access_token"] == ground.auth_server.access["g1"]


@pytest.mark.parametrize(("life", "margin"), [(3600, 30), (3, 1)], ids="rotating-{}".format)
async def test_maintenance_page_where_tokens_are_spent(make_ground: MakeGround, life: int, margin: int) -> None:
    """Where a repeated token is punished each grant asks once, and again only just before its token's end."""
    grants = [f"g{number}" for number in range(1, 6)]
    async with make_ground(*grants) as ground:
        for grant in grants:
            page = says(b"<html>back soon</html>", kind="text/html")
            ground.auth_server.grant_steps[grant].extend([success(expires_in=life), page])
            await ground.falls_due(grant)
            state = await ground.falls_due(grant)
            assert (state["state"], state["reason"], state["last"]["outcome"]) == ("due", None, "unknown")
            due = await ground.redis.zscore("broker:{0}:due:as", grant)
            assert due == pytest.approx((state["expires_at"] - margin) * 1000, abs=1001)
        if life > 100:
            for grant in grants:
                await ground.falls_due(grant)
            assert [len(ground.auth_server.requests_of(grant)) for grant in grants] == [3] * 5
        else:
            await until(lambda: all(len(ground.auth_server.requests_of(grant)) == 4 for grant in grants))
            for grant in grants:
                await until(lambda: ground.has_token(grant))


async def test_maintenance_page_as_success(make_ground: MakeGround) -> None:
    """A page with status 200 parks nobody, costs few requests while it lasts, and its end heals all at once.

    With a server that forgives a repeated token: one that may have been redeemed is otherwise kept until its end.
    """
    grants = [f"g{number}" for number in range(1, 6)]
    async with make_ground(*grants, provider={"reuse_grace": "forever"}) as ground:
        await _maintenance(ground, grants, ground.auth_server)


async def _maintenance(ground: Ground, grants: list[str], auth_server: AuthorizationServer) -> None:
    auth_server.usual = says(b"<html>back soon</html>", kind="text/html")
    before, began = len(auth_server.requests), time.monotonic()
    await ground.due(*grants)
    await until(lambda: time.monotonic() > began + 4)
    asked = len(auth_server.requests) - before
    assert asked <= len(grants) + 4, "after three failures in a row one request at a time, ever more rarely"
    states = [await ground.state_of(grant) for grant in grants]
    assert {(state["state"], state["reason"]) for state in states} <= {("due", None), ("leased", None)}
    auth_server.usual = success()

    async def healthy() -> bool:
        return all([(await ground.state_of(grant))["last"]["outcome"] == "refreshed" for grant in grants])

    await until(healthy, 15)
    assert json.dumps((await ground.provider())["failures"]) == "0"
