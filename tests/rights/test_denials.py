"""Every refusal of access is counted and logged, whatever it asked: who, from where, what for, and why."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from broker.sandbox import Sandbox
from tests.conftest import RunningBroker
from tests.ports import free_port
from tests.rights.conftest import ADMIN_KEY, CALLERS, StartRights, as_, counted, denied, key_of, lines
from tests.waiting import until

PAGE = {"X-Broker-Page": "1", "Sec-Fetch-Site": "same-origin"}
FORM = {"grant_type": "client_credentials", "scope": "grant:g1"}
READ = "/v1/grants/g1/token"
KEPT = {"reason", "caller", "peer", "method", "route", "grant_id", "request_id", "count", "seconds"}
"""Members of a line of the audit stream, and of the log's event."""


async def ask(broker: RunningBroker, method: str, path: str, headers: Any = None, **options: Any) -> int:
    """Return the status of a request without the admin's key."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, broker.url + path, headers=headers, allow_redirects=False, **options) as answer,
    ):
        return answer.status


def two_keys() -> CIMultiDict[str]:
    """Return headers with two keys."""
    return CIMultiDict([("X-Broker-Key", key_of("read")), ("X-Broker-Key", key_of("all"))])


CASES: list[tuple[str, str, str, dict[str, Any], int, str, str | None]] = [
    ("GET", READ, "no_key", {}, 401, "unknown", "g1"),
    ("GET", READ, "unknown_key", {"headers": as_("stranger")}, 401, "unknown", "g1"),
    ("GET", READ, "two_keys", {"headers": two_keys()}, 400, "unknown", "g1"),
    ("GET", READ, "no_right", {"headers": as_("view")}, 403, "view", "g1"),
    ("GET", f"{READ}?min_ttl=5", "no_right", {"headers": as_("read")}, 403, "read", "g1"),
    ("GET", READ, "other_provider", {"headers": as_("een")}, 403, "een", "g1"),
    ("GET", READ, "wrong_host", {"headers": as_("read", Host="evil.example")}, 421, "unknown", "g1"),
    ("GET", "/v1/grants", "wrong_host", {"headers": as_("view", Host="evil.example")}, 421, "unknown", None),
    ("POST", "/v1/grants/g1/authorization/x?y", "no_key", {}, 401, "unknown", "g1"),
    ("POST", "/v1/grants/g1/refresh", "no_right", {"headers": as_("read")}, 403, "read", "g1"),
    ("POST", "/oauth2/token", "unknown_key", {"data": FORM | {"client_secret": "x"}}, 401, "unknown", None),
    ("POST", "/oauth2/token", "no_key", {"data": FORM}, 401, "unknown", None),
    ("POST", "/oauth2/token", "no_right", {"data": FORM, "headers": as_("view")}, 400, "view", "g1"),
    ("POST", "/oauth2/token", "other_provider", {"data": FORM, "headers": as_("een")}, 400, "een", "g1"),
    ("GET", "/v1/grants", "no_right", {"headers": as_("read")}, 403, "read", None),
    ("DELETE", "/v1/grants/g1", "no_right", {"headers": as_("login")}, 403, "login", "g1"),
    ("POST", "/v1/reload", "no_right", {"headers": as_("admin")}, 403, "admin", None),
    ("POST", "/session", "unknown_key", {"json": {"key": "x"}, "headers": PAGE}, 401, "unknown", None),
    ("POST", "/session", "no_right", {"json": {"key": key_of("read")}, "headers": PAGE}, 403, "read", None),
    ("POST", "/session", "other_page", {"json": {"key": key_of("all")}}, 403, "unknown", None),
    ("GET", "/login/nobody-s", "unknown_login", {}, 400, "unknown", None),
    ("GET", "/callback?code=x&state=nobody-s", "unknown_login", {}, 400, "unknown", None),
    ("GET", "/callback?code=x", "unknown_login", {}, 400, "unknown", None),
    ("POST", "/callback", "other_page", {"data": {"state": "nobody-s"}}, 400, "unknown", None),
    (
        "POST",
        "/callback",
        "other_browser",
        {"data": {"state": "nobody-s"}, "headers": {"Sec-Fetch-Site": "same-origin"}},
        400,
        "unknown",
        None,
    ),
]


async def test_every_refusal_leaves_a_trace(broker: RunningBroker, audit_file: Path) -> None:
    """Of each kind of refusal, on each kind of route: one more in the counter, a line in the log and in the audit."""
    for method, path, reason, options, status, caller, grant in CASES:
        case = (method, path, reason)
        before, lines = await denied(broker, reason), len(broker.events("access.denied"))
        assert await ask(broker, method, path, **options) == status, case
        assert await denied(broker, reason) == before + 1, case
        (event,) = broker.events("access.denied")[lines:]
        assert (event["reason"], event["caller"], event["peer"]) == (reason, caller, "127.0.0.1"), case
        assert event.get("grant_id") == grant, case
        assert event["method"] == method
        assert event["request_id"]
        assert not {"nobody-s", "evil"} & set(event["route"].split("/")), "a ticket is a secret"
        assert len(event["route"]) > 1, case
    assert not broker.events("login.failed"), "what nobody started is counted, and is no failed login"
    logged = [
        {key: value for key, value in event.items() if key in KEPT and value is not None}
        for event in broker.events("access.denied")
    ]
    assert len(logged) == len(CASES)
    await until(lambda: audited(audit_file, "access.denied") == logged)
    text = audit_file.read_text()
    assert not [key for key in ("stranger", "view", "all") if key_of(key) in text]


def audited(path: Path, did: str) -> list[dict[str, Any]]:
    """Return the events of a kind in the audit stream."""
    return [{key: event[key] for key in event if key in KEPT} for event in lines(path) if event["did"] == did]


async def test_refused_lines_of_an_import(broker: RunningBroker) -> None:
    """Each line that its sender may not import counts."""
    line = {"grant_id": "other", "provider": "acme", "refresh_token": "x" * 40}
    assert (await broker.ask("POST", "/v1/import", json=line, headers=as_("admin")))[0] == 200
    (event,) = broker.events("access.denied")
    assert (event["reason"], event["caller"], event["grant_id"]) == ("no_right", "admin", "other")


async def test_a_session_that_is_over(broker: RunningBroker) -> None:
    """A cookie of another broker leaves a trace too; the page's own requests are not told apart from a stranger's."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as browser:
        async with browser.post(f"{broker.url}/session", json={"key": key_of("view")}, headers=PAGE) as answer:
            assert (answer.status, (await answer.json())["rights"]) == (200, ["view"])
        async with browser.get(f"{broker.url}/v1/grants", headers=PAGE) as answer:
            assert answer.status == 200
        async with browser.delete(f"{broker.url}/v1/grants/g1", headers=PAGE) as answer:
            assert answer.status == 403
        cookies = {morsel.key: morsel.value[:-8] + "AAAAAAAA" for morsel in jar}
    assert await ask(broker, "GET", "/v1/grants", headers=PAGE, cookies=cookies) == 401
    reasons = [(event["reason"], event["caller"]) for event in broker.events("access.denied")]
    assert reasons == [("no_right", "view"), ("session_over", "unknown")]


async def test_the_public_listener(start_rights: StartRights) -> None:
    """What a stranger tries there is counted and logged as elsewhere; no key works there."""
    port = free_port()
    async with start_rights(CALLERS, http={"public_listen": [f"127.0.0.1:{port}"]}) as broker:
        for path, status in (("/callback?state=x&code=y", 400), ("/login/x", 400), (READ, 404)):
            async with broker.session.get(
                f"http://127.0.0.1:{port}{path}", headers={"X-Broker-Key": ADMIN_KEY}
            ) as answer:
                assert answer.status == status
        assert [event["route"] for event in broker.events("access.denied")] == ["/callback", "/login/{ticket}"]
        assert await denied(broker, "unknown_login") == 2


async def test_a_flood_is_counted_and_logged_within_a_limit(
    broker: RunningBroker, audit_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of callbacks that nobody started some are logged and audited; a line says how many more there were."""
    monkeypatch.setattr("broker.api.denials.WINDOW", 1.5)
    for _ in range(25):
        assert await ask(broker, "GET", "/callback?state=x&code=y") == 400
    await until(lambda: broker.events("access.denials_left_out"))
    logged = len(broker.events("access.denied"))
    left_out = sum(event["count"] for event in broker.events("access.denials_left_out"))
    assert await denied(broker, "unknown_login") == 25
    assert logged + left_out == 25
    assert left_out > 0
    await until(lambda: audited(audit_file, "access.denials_left_out"))
    kept = audited(audit_file, "access.denied"), audited(audit_file, "access.denials_left_out")
    assert (len(kept[0]), sum(event["count"] for event in kept[1])) == (logged, left_out)
    await ask(broker, "GET", "/callback?state=x&code=y")
    assert len(broker.events("access.denied")) > logged


async def test_what_is_no_refusal(broker: RunningBroker, sandbox: Sandbox) -> None:
    """A grant that does not exist, a wrong request and a provider's refusal deny nobody access."""
    for status, reply in (
        (404, partial(broker.ask, "GET", "/v1/grants/g-none/token")),
        (400, partial(broker.ask, "GET", "/v1/grants?limit=x")),
        (404, partial(broker.ask, "GET", "/v2")),
        (404, partial(broker.ask, "POST", "/v1/grants/g1/login/x/replace")),
    ):
        assert (await reply())[0] in {status, 409}
    assert not broker.events("access.denied")
    assert await counted(broker, 'token_broker_denied_total{reason="no_right"}') == 0
