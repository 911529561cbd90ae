"""Quotas of a caller: each refuses with 429, says which it is, and leaves others alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from functools import partial
from typing import Any

import pytest

from broker.api.places import NoPlace, Places, Whose
from broker.api.quotas import Quota
from broker.errors import QuotaExceeded
from broker.sandbox import Sandbox
from tests.rights.conftest import StartRights, as_, counted, denied
from tests.steps import log_in
from tests.waiting import until

RIGHTS: dict[str, Any] = {"read": ["*"], "refresh": ["*"], "admin": ["g*"]}


def test_the_bucket_of_requests() -> None:
    """A second's worth is served at once, then as many as time brings; a pause saves up one second's worth."""
    quota = Quota("svc", requests_per_second=4, long_polls=0, grants=0)

    def served(at: float, tried: int) -> int:
        count = 0
        for _ in range(tried):
            with contextlib.suppress(QuotaExceeded):
                quota.spend(at)
                count += 1
        return count

    assert [served(100, 9), served(100.5, 9), served(100.5, 1), served(100.8, 9), served(900, 9)] == [4, 2, 0, 1, 4]


def test_a_reload_gives_no_fresh_quota() -> None:
    """What is in use stays so under the new limits."""
    quota = Quota("svc", requests_per_second=2, long_polls=1, grants=0)
    quota.spend(5)
    with quota.waiting():
        quota.with_limits_of(Quota("svc", requests_per_second=1, long_polls=1, grants=3))
        with pytest.raises(QuotaExceeded, match=r"callers\.svc\.long_polls"), quota.waiting():
            pass
    with quota.waiting():
        pass
    quota.spend(5)
    with pytest.raises(QuotaExceeded, match="1 requests a second"):
        quota.spend(5)
    assert quota.grants == 3


async def test_requests_a_second(start_rights: StartRights, sandbox: Sandbox) -> None:
    """Every kind of request spends the same budget; one too many gets 429, Retry-After, and the setting's name."""
    callers = {"svc": {**RIGHTS, "requests_per_second": 1}, "other": RIGHTS}
    async with start_rights(callers) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        form = {"grant_type": "client_credentials", "scope": "grant:g1"}
        asked = [
            partial(broker.ask, "GET", "/v1/grants/g1/token"),
            partial(broker.ask, "GET", "/v1/grants/g1/authorization"),
            partial(broker.ask, "POST", "/oauth2/token", data=form),
            partial(broker.ask, "POST", "/v1/grants/g1/refresh"),
            partial(broker.ask, "GET", "/v1/grants"),
            partial(broker.ask, "GET", "/readyz/g1"),
        ]
        for ask in asked:
            replies = [await ask(headers=as_("svc")) for _ in range(3)]
            status, body, headers = next(reply for reply in replies if reply[0] == 429)
            assert (body["error"], headers["Retry-After"]) == ("quota_exceeded", "1")
            assert "callers.svc.requests_per_second" in body["error_description"]
            assert (await ask(headers=as_("other")))[0] != 429, status
        assert await denied(broker, "quota_requests") >= len(asked)


async def test_long_polls(start_rights: StartRights, sandbox: Sandbox) -> None:
    """As many requests may wait as the quota says; one that has come back makes room, and plain reads do not count."""
    async with start_rights({"svc": {**RIGHTS, "long_polls": 1}}) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        etag = f'"{(await broker.token("g1"))["generation"]}"'
        poll = partial(
            broker.ask, "GET", "/v1/grants/g1/token", headers=as_("svc", Prefer="wait=50", **{"If-None-Match": etag})
        )
        waiting = asyncio.create_task(poll())

        async def one_waits() -> bool:
            return await counted(broker, "token_broker_subscribers") == 1

        await until(one_waits)
        status, body, _ = await poll()
        assert (status, body["error"]) == (429, "quota_exceeded")
        assert "callers.svc.long_polls" in body["error_description"]
        assert (await broker.ask("GET", "/v1/grants/g1/token", headers=as_("svc")))[0] == 200
        await broker.ask("POST", "/v1/grants/g1/retry")
        assert (await waiting)[0] == 200
        short = as_("svc", Prefer="wait=0", **{"If-None-Match": etag})
        assert (await broker.ask("GET", "/v1/grants/g1/token", headers=short))[0] == 200


async def test_grants(start_rights: StartRights) -> None:
    """No new grant is imported or logged in beyond the quota; those of other patterns do not count, nor old ones."""
    callers = {"svc": {**RIGHTS, "grants": 2}, "all": {"admin": ["*"]}}
    async with start_rights(callers, refresh={"import_spread": "10h"}) as broker:

        def line(grant: str) -> str:
            return json.dumps({"grant_id": grant, "provider": "acme", "refresh_token": f"token-of-{grant}-0123456789"})

        async def import_(caller: str, *grants: str) -> list[str]:
            lines = "\n".join(map(line, grants)).encode()
            _, body, _ = await broker.ask("POST", "/v1/import", data=lines, headers=as_(caller))
            replies = [json.loads(row) for row in body["text"].splitlines()] if "text" in body else [body]
            return [reply.get("error", reply["status"]) for reply in replies]

        assert await import_("all", "other-1", "other-2", "other-3") == ["created"] * 3
        assert await import_("svc", "g1", "g2", "g3", "g1") == ["created", "created", "quota_exceeded", "unchanged"]
        one = {"provider": "acme", "refresh_token": "another-token-0123456789"}
        for method, path, body in (
            ("PUT", "/v1/grants/g4", one),
            ("POST", "/v1/grants/g4/login", {"provider": "acme"}),
        ):
            status, reply, _ = await broker.ask(method, path, json=body, headers=as_("svc"))
            assert (status, reply["error"]) == (429, "quota_exceeded")
            assert "callers.svc.grants" in reply["error_description"]
        assert (await broker.ask("POST", "/v1/grants/g1/login", json={"provider": "acme"}, headers=as_("svc")))[
            0
        ] == 200
        assert await denied(broker, "quota_grants") == 3


def grant(token: str) -> dict[str, str]:
    """Return an import that is not refreshed soon."""
    return {"provider": "acme", "refresh_token": f"token-{token}-0123456789"}


async def test_grants_at_once(start_rights: StartRights) -> None:
    """Of many requests at the same time as many store a grant as there is room for; a conflict gives its place back."""
    async with start_rights({"svc": {**RIGHTS, "grants": 5}}, refresh={"import_spread": "10h"}) as broker:

        async def put(name: str, token: str) -> int:
            status, _, _ = await broker.ask("PUT", f"/v1/grants/{name}", json=grant(token), headers=as_("svc"))
            return status

        assert await put("g-first", "held") == 201
        assert [await put(f"g-conflict-{number}", "held") for number in range(6)] == [409] * 6
        replies = await asyncio.gather(*(put(f"g{number}", str(number)) for number in range(30)))
        assert (replies.count(201), replies.count(429)) == (4, 26)
        assert len((await broker.get("/v1/grants"))["grants"]) == 5


async def test_a_login_holds_a_place(start_rights: StartRights) -> None:
    """A login that was begun counts as the grant that it may bring; another login of the same grant is no other one."""
    async with start_rights({"svc": {**RIGHTS, "grants": 2}}) as broker:

        async def begin(name: str) -> int:
            login = {"provider": "een"}
            return (await broker.ask("POST", f"/v1/grants/{name}/login", json=login, headers=as_("svc")))[0]

        replies = await asyncio.gather(*(begin(name) for name in ("g1", "g1", "g2", "g2", "g1")))
        assert replies == [200] * 5
        assert await begin("g3") == 429
        status, _, _ = await broker.ask("PUT", "/v1/grants/g4", json=grant("g4"), headers=as_("svc"))
        assert status == 429
        await log_in(broker, "g1", "een")
        assert await begin("g3") == 429
        assert await begin("g2") == 200


class Stored:
    """The ids of grants in a store; what a test does while they are read happens between two of them."""

    def __init__(self, *ids: str) -> None:
        self.grants = self
        self.stored = list(ids)
        self.meanwhile: list[str] = []

    async def ids(self, _provider: str) -> list[str]:
        found = list(self.stored)
        await asyncio.sleep(0)
        self.stored += self.meanwhile
        self.meanwhile = []
        return found


async def test_what_a_count_finds_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place becomes a counted grant, whether it is stored before, while or after the store is read."""
    monkeypatch.setattr("broker.api.places._COUNT_LIFE", 0.0)
    places, store = Places(), Stored("a", "b")
    whose = Whose(store, ["acme"], lambda _: True)  # type: ignore[arg-type]

    async def keep(name: str, most: int, kept: Any = "until_counted") -> None:
        async with places.hold(most, name, whose) as place:
            place.kept = kept

    await keep("c", 3)
    store.stored.append("c")
    for _ in range(3):
        with pytest.raises(NoPlace, match="3"):
            await keep("d", 3)
    await keep("d", 4, "no")
    await keep("e", 4, "for_login")
    with pytest.raises(NoPlace, match="4"):
        await keep("d", 4)
    async with places.hold(5, "f", whose):
        store.meanwhile = ["f"]
        with pytest.raises(NoPlace, match="5"):
            await keep("d", 5)
    with pytest.raises(NoPlace, match="5"):
        await keep("d", 5)
    store.stored.append("e")
    with pytest.raises(NoPlace, match="5"):
        await keep("d", 5)
    store.stored = ["a"]
    await keep("d", 2)


async def test_min_ttl_and_reports_spend_one_budget(start_rights: StartRights, sandbox: Sandbox) -> None:
    """Early refreshes for min_ttl count with those for reports, and a token that is there is served without min_ttl."""
    refresh = {"report_budget": 2, "min_interval": "0s", "window": [0.9, 0.95]}
    async with start_rights({"svc": RIGHTS}, refresh=refresh) as broker:
        await broker.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        generation = (await broker.token("g1"))["generation"]

        async def report() -> tuple[int, dict[str, Any], Any]:
            return await broker.ask("POST", "/v1/grants/g1/refresh", headers={"If-Match": f'"{generation}"'})

        async def longer() -> tuple[int, dict[str, Any], Any]:
            return await broker.ask("GET", "/v1/grants/g1/token?min_ttl=3600", headers=as_("svc"))

        status, body, _ = await report()
        assert status == 200
        generation = body["generation"]
        assert (await longer())[0] in {200, 503}
        generation = (await broker.token("g1"))["generation"]
        status, body, headers = await longer()
        assert (status, body["error"]) == (429, "too_many_reports")
        assert "refresh.report_budget" in body["error_description"]
        assert int(headers["Retry-After"]) > 3000
        assert (await report())[1]["error"] == "too_many_reports"
        assert (await broker.token("g1"))["generation"] == generation
