"""Signing in at the status page: what the cookie opens, to whom, for how long, and from where it is heard."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from broker.api import session
from broker.api.callers import Callers
from broker.sandbox import Sandbox
from broker.secret import Sealer, key_digest, new_sealing_key, parse_sealing_keys
from broker.settings import Caller
from tests.conftest import RunningBroker, StartBroker
from tests.ports import free_port
from tests.steps import log_in

PAGE = {"X-Broker-Page": "1", "Sec-Fetch-Site": "same-origin"}
FEW = "few-key-0123456789-0123456789-0123456789"
CALLERS = {
    "few": {"key_sha256": key_digest(FEW), "admin": ["mine-*"]},
    "reads": {"key_sha256": key_digest("reads-key-0123456789-0123456789-0123456789"), "read": ["*"]},
}


async def signed_in(broker: RunningBroker, key: str | None = None) -> Any:
    """Return the cookies of a sign-in."""
    body = {"key": broker.admin_key if key is None else key}
    async with broker.session.post(broker.url + "/session", json=body, headers=PAGE) as answer:
        assert answer.status == 200, await answer.text()
        broker.session.cookie_jar.clear()
        return answer.cookies


async def by_cookie(
    broker: RunningBroker, method: str, path: str, cookie: str, headers: dict[str, str] | None = None, **options: Any
) -> tuple[int, dict[str, Any], Any]:
    """One request as a browser makes it."""
    given = {"Cookie": cookie, **(PAGE if headers is None else headers)}
    async with broker.session.request(method, broker.url + path, headers=given, **options) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text else {}, answer.headers


def sent(cookies: Any) -> str:
    """Cookies as a browser sends them back."""
    return "; ".join(f"{name}={morsel.value}" for name, morsel in cookies.items())


@pytest.fixture
async def broker(start_broker: StartBroker, tmp_path: Path) -> Any:
    """Return a broker with an admin of everything, one of some grants, and a reader."""
    data = tmp_path / "signing-in"
    data.mkdir()
    (data / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
    async with start_broker(data_dir=data, callers=CALLERS, refresh={"min_interval": "0s"}) as running:
        running.secrets |= {FEW}
        yield running


@pytest.mark.parametrize("secure", [False, True])
async def test_cookie(start_broker: StartBroker, secure: bool) -> None:
    """HttpOnly, SameSite=Strict, of bounded life, Secure behind https, and nothing of the key in it."""
    async with start_broker(http={"public_url": "https://broker.example"} if secure else {}) as broker:
        cookies = await signed_in(broker)
        ((name, morsel),) = cookies.items()
        assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "Strict", "/")
        assert int(morsel["max-age"]) == session.LIFE_S == 8 * 3600
        assert bool(morsel["secure"]) == secure
        assert name.startswith("__Host-") == secure
        for secret in (broker.admin_key, key_digest(broker.admin_key)):
            assert secret not in morsel.value
        assert (await by_cookie(broker, "GET", "/v1/grants", sent(cookies)))[0] == 200
        status, _, headers = await by_cookie(broker, "POST", "/session/end", sent(cookies))
        assert status == 200
        assert "Max-Age=0" in headers["Set-Cookie"]


async def test_cookie_below_a_path(start_broker: StartBroker) -> None:
    """Below a path, the other services of the host are not sent the cookie; it is Secure behind https."""
    for url, secure in (("https://tools.example/broker/", True), ("http://127.0.0.1:1/a/b", False)):
        async with start_broker(http={"public_url": url}) as broker:
            ((name, morsel),) = (await signed_in(broker)).items()
            assert (morsel["path"], bool(morsel["secure"])) == ("/broker" if secure else "/a/b", secure)
            assert name.startswith("__Secure-token_broker_" if secure else "token_broker_")


async def test_wrong_keys(broker: RunningBroker) -> None:
    """A wrong key is a 401, however often, and locks out nobody; a key without the admin right is told so."""
    for key in ["wrong"] * 30:
        async with broker.session.post(broker.url + "/session", json={"key": key}, headers=PAGE) as answer:
            assert answer.status == 401
            assert "Set-Cookie" not in answer.headers
    async with broker.session.post(
        broker.url + "/session", json={"key": "reads-key-0123456789-0123456789-0123456789"}, headers=PAGE
    ) as answer:
        assert answer.status == 403
        assert "admin" in (await answer.json())["error_description"]
    wrong: list[Any] = [{"key": ""}, {"key": 5}, {}, []]
    for body in wrong:
        async with broker.session.post(broker.url + "/session", json=body, headers=PAGE) as answer:
            assert answer.status == 400
    assert await signed_in(broker)


async def test_only_the_pages_routes(broker: RunningBroker, sandbox: Sandbox) -> None:
    """The cookie reads no token, imports nothing and reseals nothing; and a key beside it decides alone."""
    await log_in(broker, "mine-1", "acme")
    cookie = sent(await signed_in(broker))
    for method, path in (
        ("GET", "/v1/grants/mine-1/token"),
        ("PUT", "/v1/grants/mine-2"),
        ("POST", "/v1/import"),
        ("GET", "/readyz/mine-1"),
        ("POST", "/v1/grants/mine-1/login/complete"),
    ):
        status, body, _ = await by_cookie(broker, method, path, cookie)
        assert (status, body["error"]) == (401, "invalid_token"), path
    for headers in ({"X-Broker-Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"X-Broker-Key": ""}):
        assert (await by_cookie(broker, "GET", "/v1/grants", cookie, {**PAGE, **headers}))[0] == 401, headers
    basic = {**PAGE, "Authorization": "Basic Zm9vOmJhcg=="}  # of a proxy in front: no key of ours
    assert (await by_cookie(broker, "GET", "/v1/grants", cookie, basic))[0] == 200


async def test_refresh_carries_no_token(broker: RunningBroker, sandbox: Sandbox) -> None:
    """A refresh by the page, or with `Prefer: return=minimal`, makes a new generation and hands out no token."""
    await log_in(broker, "mine-1", "acme")
    cookie, before = sent(await signed_in(broker)), await broker.token("mine-1")
    held = {"If-Match": f'"{before["generation"]}"'}
    status, body, headers = await by_cookie(
        broker, "POST", "/v1/grants/mine-1/refresh", cookie, {**PAGE, **held, "Prefer": "wait=10"}
    )
    assert (status, body) == (204, {})
    after = await broker.token("mine-1")
    assert after["generation"] > before["generation"]
    assert headers["ETag"] == f'"{after["generation"]}"'
    status, body, _ = await broker.ask(
        "POST", "/v1/grants/mine-1/refresh", headers={**held, "Prefer": "return=minimal"}
    )
    assert (status, body) == (204, {"text": ""})
    cookie = sent(await signed_in(broker, FEW))
    status, body, _ = await by_cookie(broker, "POST", "/v1/grants/mine-1/refresh", cookie, {**PAGE, **held})
    assert (status, body["error"]) == (403, "access_denied"), "an admin without the refresh right"
    assert "refresh right" in body["error_description"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Broker-Page": "1", "Sec-Fetch-Site": "cross-site"},
        {"X-Broker-Page": "1", "Sec-Fetch-Site": "same-site"},
        {"X-Broker-Page": "1", "Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin"},
        {"X-Broker-Page": "1", "Origin": "http://evil.example"},
        {"X-Broker-Page": "1", "Origin": "null"},
        {"X-Broker-Page": "1"},
    ],
    ids=str,
)
async def test_forged_requests(broker: RunningBroker, sandbox: Sandbox, headers: dict[str, str]) -> None:
    """What another site's page can make a browser send changes nothing, and signs nobody in or out."""
    await log_in(broker, "mine-1", "acme")
    cookie = sent(await signed_in(broker))
    for method, path in (
        ("DELETE", "/v1/grants/mine-1"),
        ("POST", "/v1/grants/mine-1/retry"),
        ("POST", "/v1/providers/acme/retry"),
        ("POST", "/v1/grants/mine-1/refresh"),
        ("POST", "/v1/grants/mine-1/login"),
        ("POST", "/session/end"),
        ("POST", "/session"),
    ):
        status, body, answer = await by_cookie(broker, method, path, cookie, headers)
        assert (status, body["error"]) == (403, "access_denied"), path
        assert "Set-Cookie" not in answer
    assert (await broker.token("mine-1"))["grant_id"] == "mine-1"
    assert (await by_cookie(broker, "GET", "/v1/grants", cookie))[0] == 200


async def test_origin_stands_in(broker: RunningBroker) -> None:
    """Where a browser sends no `Sec-Fetch-Site` (plain http beyond loopback), our own `Origin` will do."""
    cookie = sent(await signed_in(broker))
    for origin, wanted in ((broker.url, 202), ("http://127.0.0.1:1", 403)):
        headers = {"X-Broker-Page": "1", "Origin": origin}
        assert (await by_cookie(broker, "POST", "/v1/providers/acme/retry", cookie, headers))[0] == wanted


async def test_an_admin_of_some(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Whoever administers some grants sees and touches those alone, by cookie as by key."""
    await log_in(broker, "mine-1", "acme")
    await log_in(broker, "other-1", "acme")
    cookie = sent(await signed_in(broker, FEW))
    _, body, _ = await by_cookie(broker, "GET", "/v1/grants", cookie)
    assert [grant["grant_id"] for grant in body["grants"]] == ["mine-1"]
    assert (await by_cookie(broker, "DELETE", "/v1/grants/other-1", cookie))[0] == 403
    assert (await by_cookie(broker, "GET", "/session", cookie))[1] == {
        "caller": "few",
        "admin_of_all": False,
        "rights": ["view", "login", "admin"],
        "ends_at": pytest.approx(time.time() + session.LIFE_S, abs=60),
    }


async def test_search_by_a_part_of_the_id(broker: RunningBroker, sandbox: Sandbox) -> None:
    """The list gives what has the wanted part in its id, in any case, and for an admin of some none of the others."""
    for grant in ("mine-North-1", "mine-south-2", "other-north-3"):
        await log_in(broker, grant, "acme")

    async def found(part: str, key: str = "") -> list[str]:
        listed = await broker.get(f"/v1/grants?search={part}", headers={"X-Broker-Key": key or broker.admin_key})
        return sorted(grant["grant_id"] for grant in listed["grants"])

    assert await found("north") == ["mine-North-1", "other-north-3"]
    assert await found("-2") == ["mine-south-2"]
    assert await found("nothing") == []
    assert await found("NORTH", FEW) == ["mine-North-1"]


async def test_it_dies_with_the_caller(broker: RunningBroker, start_broker: StartBroker, tmp_path: Path) -> None:
    """Another replica takes the cookie; a removed caller's, a changed key's, or an altered one opens nothing."""
    cookies = await signed_in(broker, FEW)
    ((name, morsel),) = cookies.items()
    http = {"public_url": broker.settings.http.public_url}
    twin = {**CALLERS, "few": {**CALLERS["few"], "admin": ["*"]}}
    async with start_broker(callers=twin, http=http) as other:
        _, body, _ = await by_cookie(other, "GET", "/session", sent(cookies))
        assert (body["caller"], body["admin_of_all"]) == ("few", True), "its rights are those of now"
    changed: dict[str, dict[str, Any]]
    for changed in (
        {"reads": CALLERS["reads"]},
        {"few": {"key_sha256": key_digest("another"), "admin": ["*"]}},
        {"renamed": CALLERS["few"]},
    ):
        settings = {name: Caller(**caller) for name, caller in changed.items()}
        async with start_broker(callers=settings, http=http) as other:
            status, body, _ = await by_cookie(other, "GET", "/v1/grants", sent(cookies))
            assert (status, body["error"]) == (401, "invalid_token")
            assert "sign in again" in body["error_description"]
            assert (await by_cookie(other, "GET", "/session", sent(cookies)))[1] == {"caller": None}
    for wrong in (morsel.value[:-2], "x" + morsel.value, "", "å", "A" * 5000):
        assert (await by_cookie(broker, "GET", "/session", f"{name}={wrong}"))[1] == {"caller": None}, wrong[:9]


def test_it_ends(tmp_path: Path) -> None:
    """Eight hours after the sign-in, to the millisecond, the cookie opens nothing; nor does another key's."""
    sealer, other = (Sealer(parse_sealing_keys(new_sealing_key())) for _ in range(2))
    digest = key_digest("k")
    callers = Callers.load({"one": Caller(key_sha256=digest, admin=["*"])}, tmp_path)
    caller = callers.find_by_digest(digest)
    assert caller is not None
    value = session.seal(sealer, caller, digest, 1_000)
    assert session.open_(sealer, callers, value, 999) == session.Session(caller, 1_000)
    assert session.open_(sealer, callers, value, 1_000) is None
    assert session.open_(other, callers, value, 0) is None


async def test_static_files(broker: RunningBroker) -> None:
    """Served without a key, under a policy that lets nothing in from elsewhere, and not sent twice."""
    for path, kind in (("/", "text/html"), ("/page/main.js", "text/javascript"), ("/page/style.css", "text/css")):
        async with broker.session.get(broker.url + path) as answer:
            assert (answer.status, answer.content_type) == (200, kind)
            policy = answer.headers["Content-Security-Policy"].split("; ")
            assert set(policy) == {
                "default-src 'none'",
                "script-src 'self'",
                "style-src 'self'",
                "connect-src 'self'",
                "img-src 'self'",
                "form-action 'self'",
                "frame-ancestors 'none'",
                "base-uri 'none'",
            }
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert b"innerHTML" not in await answer.read()
            etag = answer.headers["ETag"]
        async with broker.session.get(broker.url + path, headers={"If-None-Match": etag}) as answer:
            assert answer.status == 304
    async with broker.session.get(broker.url + "/page/../session.py") as answer:
        assert answer.status == 404


async def test_a_cross_site_form_changes_nothing(
    broker: RunningBroker, sandbox: Sandbox, screens: Callable[..., Any]
) -> None:
    """A page of another site that posts a form to us, in a browser that is signed in, is refused."""
    await log_in(broker, "mine-1", "acme")
    port = free_port()

    async def attack(_: web.Request) -> web.Response:
        forms = "".join(
            f'<form id="{name}" method="post" action="{broker.url}{path}"></form>'
            for name, path in (("retry", "/v1/providers/acme/retry"), ("end", "/session/end"))
        )
        return web.Response(text=forms, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", attack)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        screen = await screens(broker)
        await screen.sign_in()
        await screen.line("mine-1").wait_for()
        for origin in (f"http://localhost:{port}", f"http://127.0.0.1:{port}"):  # another site; the same, other origin
            for form in ("retry", "end"):
                await screen.page.goto(origin)
                async with screen.page.expect_navigation():
                    await screen.page.evaluate(f"document.getElementById('{form}').submit()")
                assert '"error"' in await screen.page.inner_text("body")
        await screen.page.goto(broker.url)
        await screen.line("mine-1").wait_for()
        did = [event["did"] for event in broker.events("access")]
        assert "provider.retried" not in did
        assert "session.ended" not in did
    finally:
        await runner.cleanup()
