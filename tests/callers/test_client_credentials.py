"""`POST /oauth2/token`: unchanged stock clients get their token, and errors as RFC 6749 §5.2 says them."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from oauthlib.oauth2 import BackendApplicationClient
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from broker.api.cached_responses import client_credentials_answer
from broker.api.routes.client_credentials import decode_basic
from broker.model import OldToken, Token, usable_until
from broker.sandbox import Sandbox
from broker.secret import Secret
from broker.token_answer import token_answer
from tests.callers.conftest import KEY
from tests.conftest import RunningBroker

FORM = {"grant_type": "client_credentials", "scope": "grant:g1"}


def basic(name: str, key: str) -> str:
    """Return an Authorization header."""
    return "Basic " + base64.b64encode(f"{name}:{key}".encode()).decode()


async def post(broker: RunningBroker, form: Any = FORM, **headers: str) -> tuple[int, dict[str, Any], Any]:
    """Ask with these headers alone."""
    async with broker.session.post(broker.url + "/oauth2/token", data=form, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers


async def test_the_answer(broker: RunningBroker) -> None:
    """The current token; `scope` is echoed, the provider's stands beside it; no margin of a client outlives it."""
    token = await broker.token("g1")
    status, body, headers = await post(broker, Authorization=basic("svc", KEY))
    assert status == 200, body
    assert body["access_token"] == token["access_token"]
    assert body["token_type"] == "Bearer"
    assert body["scope"] == "grant:g1"
    assert body.get("provider_scope") == token.get("scope")
    assert token["expires_in"] - 12 <= body["expires_in"] <= token["expires_in"] - 9
    assert body["expires_at"] <= token["expires_at"]
    assert not {"refresh_token", "id_token"} & body.keys()
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("left", [1, 5, 9_999, 10_000, 11_000, 60_000, 3_600_000])
@pytest.mark.parametrize("old_token", ["survives", "dies"])
def test_expires_in_is_never_more_than_life(left: int, old_token: OldToken) -> None:
    """However little is left, what is said is at least a second and, from two seconds on, less than the life left."""
    now = 1_764_000_000_000
    refresh_at = now + left // 2
    end = usable_until(now + left, refresh_at, old_token)
    token = Token("g1", "p", 1, Secret("a"), "bearer", None, now - 10_000, now + left, refresh_at, end)
    said = client_credentials_answer(token_answer(token, now))
    assert 0 <= said["expires_in"] <= left // 1000
    assert left < 2000 or said["expires_in"] >= 1
    assert said["expires_at"] <= token.expires_at // 1000


async def test_ways_to_say_who(broker: RunningBroker) -> None:
    """Basic as it is and form-encoded, the body, and the key as everywhere else."""
    encoded = basic(quote_plus("svc"), quote_plus(KEY).replace("_", "%5F"))
    in_body = {**FORM, "client_id": "svc", "client_secret": KEY}
    for form, headers in (
        (FORM, {"Authorization": basic("svc", KEY)}),
        (FORM, {"Authorization": encoded}),
        (FORM, {"Authorization": basic("svc", KEY).replace("Basic", "basic")}),
        (in_body, {}),
        (FORM, {"Authorization": f"Bearer {KEY}"}),
        (FORM, {"X-Broker-Key": KEY, "Authorization": basic("end", "user")}),
    ):
        assert (await post(broker, form, **headers))[0] == 200, (form, headers)


WRONG: dict[str, tuple[Any, dict[str, str], int, str]] = {
    "no client": (FORM, {}, 401, "invalid_client"),
    "another's key": (FORM, {"Authorization": basic("admin", KEY)}, 401, "invalid_client"),
    "a wrong key": (FORM, {"Authorization": basic("svc", "nope")}, 401, "invalid_client"),
    "no base64": (FORM, {"Authorization": "Basic %%%"}, 401, "invalid_client"),
    "no text": (FORM, {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()}, 401, "invalid_client"),
    "no colon": (FORM, {"Authorization": "Basic " + base64.b64encode(b"svc").decode()}, 401, "invalid_client"),
    "NUL": ({**FORM, "client_id": "svc\0", "client_secret": KEY}, {}, 401, "invalid_client"),
    "two ways": (
        {**FORM, "client_id": "svc", "client_secret": KEY},
        {"Authorization": basic("svc", KEY)},
        400,
        "invalid_request",
    ),
    "another grant type": (
        {**FORM, "grant_type": "password"},
        {"Authorization": basic("svc", KEY)},
        400,
        "unsupported_grant_type",
    ),
    "no grant type": ({"scope": "grant:g1"}, {"Authorization": basic("svc", KEY)}, 400, "unsupported_grant_type"),
    "no scope": ({"grant_type": "client_credentials"}, {"Authorization": basic("svc", KEY)}, 400, "invalid_scope"),
    "two grants": ({**FORM, "scope": "grant:g1 grant:g2"}, {"Authorization": basic("svc", KEY)}, 400, "invalid_scope"),
    "a NUL in scope": ({**FORM, "scope": "grant:g1\0"}, {"Authorization": basic("svc", KEY)}, 400, "invalid_scope"),
    "not its grant": ({**FORM, "scope": "grant:x1"}, {"Authorization": basic("svc", KEY)}, 400, "invalid_scope"),
    "no such grant": ({**FORM, "scope": "grant:g9"}, {"Authorization": basic("svc", KEY)}, 400, "invalid_scope"),
    "twice": (
        "grant_type=client_credentials&scope=grant:g1&scope=grant:g2",
        {"Authorization": basic("svc", KEY), "Content-Type": "application/x-www-form-urlencoded"},
        400,
        "invalid_request",
    ),
    "no UTF-8": (
        "grant_type=client_credentials&scope=grant%3Ag1%FF",
        {"Authorization": basic("svc", KEY), "Content-Type": "application/x-www-form-urlencoded"},
        400,
        "invalid_request",
    ),
    "JSON": (
        json.dumps(FORM),
        {"Authorization": basic("svc", KEY), "Content-Type": "application/json"},
        400,
        "invalid_request",
    ),
    "multipart": (
        "--x--",
        {"Authorization": basic("svc", KEY), "Content-Type": "multipart/form-data; boundary=x"},
        400,
        "invalid_request",
    ),
    "too large": (
        "a=" + "b" * 70_000,
        {"Authorization": basic("svc", KEY), "Content-Type": "application/x-www-form-urlencoded"},
        413,
        "invalid_request",
    ),
}


@pytest.mark.parametrize("what", WRONG)
async def test_errors(broker: RunningBroker, what: str) -> None:
    """Every error is one of RFC 6749 §5.2, says what to do and no secret; 401 says which scheme is wanted."""
    form, headers, status, code = WRONG[what]
    got, body, answered = await post(broker, form, **headers)
    assert (got, body["error"]) == (status, code), body
    assert set(body) == {"error", "error_description"}
    assert KEY not in json.dumps(body)
    assert status != 401 or answered["WWW-Authenticate"].startswith("Basic")
    assert (await broker.ask("GET", "/oauth2/token"))[0] == 405


async def test_dead_grant(broker: RunningBroker) -> None:
    """A grant that needs a person is said so, with the command that heals it."""
    await broker.ask("PUT", "/v1/grants/g-dead", json={"provider": "acme", "refresh_token": "never-issued-xxxxxxxx"})
    status, body, _ = await post(broker, {**FORM, "scope": "grant:g-dead"}, Authorization=basic("svc", KEY))
    assert (status, body["error"]) == (409, "reauthorization_required")
    assert "token-broker login g-dead" in body["error_description"]


@pytest.mark.parametrize(
    ("value", "pairs"),
    [
        (base64.b64encode(b"a:b:c").decode(), [("a", "b:c"), ("a", "b:c")]),
        (base64.b64encode(b"a%2B:b+c").decode(), [("a%2B", "b+c"), ("a+", "b c")]),
        ("", []),
    ],
)
def test_clientis_read_both_ways(value: str, pairs: list[tuple[str, str]]) -> None:
    """Plain, as most libraries send it, and form-encoded, as RFC 6749 §2.3.1 says."""
    assert decode_basic(value) == pairs


async def test_requests_oauthlib(broker: RunningBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """requests-oauthlib, unchanged: its token, and the next one after its end."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")  # loopback

    def fetch() -> dict[str, Any]:
        with OAuth2Session(client=BackendApplicationClient("svc", scope="grant:g1")) as session:
            return dict(session.fetch_token(f"{broker.url}/oauth2/token", auth=HTTPBasicAuth("svc", KEY)))

    token = await asyncio.to_thread(fetch)
    assert token["access_token"] == (await broker.token("g1"))["access_token"]
    assert token["scope"] == ["grant:g1"]
    assert time.time() < token["expires_at"] <= time.time() + 3600


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_authlib(broker: RunningBroker, method: str) -> None:
    """Authlib, synchronous on requests and asynchronous on httpx, unchanged."""
    url = f"{broker.url}/oauth2/token"

    def fetch() -> Any:
        with AuthlibSession("svc", KEY, scope="grant:g1", token_endpoint_auth_method=method) as session:
            return session.fetch_token(url, grant_type="client_credentials")

    expected = (await broker.token("g1"))["access_token"]
    assert (await asyncio.to_thread(fetch))["access_token"] == expected
    async with AsyncOAuth2Client("svc", KEY, scope="grant:g1", token_endpoint_auth_method=method) as client:
        token = await client.fetch_token(url, grant_type="client_credentials")
        assert token["access_token"] == expected
        assert not token.is_expired()


async def test_the_rules_of_go_and_spring(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Go's escaped Basic, then the body on any error; Spring's charset, and its asking 60 s before the end.

    Asking again and again inside a client's margin costs reads from memory and no token request.
    """
    escaped = basic(quote_plus("svc"), quote_plus(KEY))
    spring = "application/x-www-form-urlencoded;charset=UTF-8"
    body = "grant_type=client_credentials&scope=grant%3Ag1"
    asked = len(sandbox.rotating.token_requests)
    for _ in range(50):
        status, answer, _ = await post(broker, body, **{"Authorization": escaped, "Content-Type": spring})
        assert status == 200
        assert isinstance(answer["expires_in"], int)
    wrong = await post(broker, FORM, Authorization=basic("svc", "nope"))
    assert wrong[0] == 401
    again = await post(broker, {**FORM, "client_id": "svc", "client_secret": KEY})
    assert again[0] == 200
    assert len(sandbox.rotating.token_requests) == asked


@pytest.mark.parametrize("path", ["/oauth2/token", "/v1/grants/g1/login"])
async def test_who_holds_the_body_back_is_told_to_send_it(broker: RunningBroker, path: str) -> None:
    """`Expect: 100-continue` (RFC 9110 §10.1.1): .NET says it with each POST, and waits."""
    host, port = broker.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = urlencode(FORM).encode()
    client = f"Authorization: {basic('svc', KEY)}"
    credential = client if path == "/oauth2/token" else f'X-Broker-Key: {broker.admin_key}\r\nIf-Match: "1"'
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"{credential}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n"
    )
    writer.write(f"{head}Expect: 100-continue\r\n\r\n".encode())
    async with asyncio.timeout(2):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200" if path == "/oauth2/token" else b"HTTP/1.1 4")
    writer.close()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{head}Expect: the-unexpected\r\n\r\n".encode())
    async with asyncio.timeout(2):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 417")
    writer.close()
