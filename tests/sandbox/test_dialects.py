"""Each dialect over HTTP, from login to log-out."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from broker.sandbox import BrowserError, Sandbox, walk_login

from .relying import CHALLENGE, LANDING, VERIFIER, basic

if TYPE_CHECKING:
    from .relying import RelyingParty

NAMES = ["cameramanager", "v3", "rotating"]


@pytest.mark.parametrize("name", NAMES)
async def test_login(sandbox: Sandbox, client: RelyingParty, name: str) -> None:
    """A person signs in, the code yields tokens, the access token works, the ledger holds everything."""
    authority = sandbox.authorities[name]
    came_back = await client.login(authority)
    answer = await client.exchange(authority, came_back["code"])
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json["expires_in"] == 30
    assert answer.json["scope"] == authority.dialect.default_scope
    access, refresh = answer.json["access_token"], answer.json["refresh_token"]
    assert (await client.api(authority, access)).status == 200
    assert (await client.api(authority, "wrong")).status == 401
    (family,) = authority.families
    assert (family.user, family.refresh_token, family.access_tokens) == ("demo", refresh, (access,))
    assert {access, refresh, came_back["code"], authority.client_secret} <= authority.secrets()
    assert sandbox.secrets() >= authority.secrets()
    (record,) = authority.token_requests
    assert (record.grant_type, record.family, record.status) == ("authorization_code", family.id, 200)


@pytest.mark.parametrize("name", NAMES)
async def test_state_and_iss(sandbox: Sandbox, client: RelyingParty, name: str) -> None:
    """CameraManager does not return `state`, the others return it unchanged; only one sends `iss`."""
    came_back = await client.login(sandbox.authorities[name])
    expected = {
        "cameramanager": {"code"},
        "v3": {"code", "state"},
        "rotating": {"code", "state", "iss"},
    }
    assert set(came_back) == expected[name]
    assert came_back.get("state", "st+a te") == "st+a te"
    assert came_back.get("iss", f"{sandbox.url}/rotating") == f"{sandbox.url}/rotating"


@pytest.mark.parametrize("name", NAMES)
async def test_deny(sandbox: Sandbox, client: RelyingParty, name: str) -> None:
    """Deny redirects to the client with access_denied."""
    came_back = await client.login(sandbox.authorities[name], consent="deny")
    assert came_back["error"] == "access_denied"
    assert "code" not in came_back


@pytest.mark.parametrize("name", NAMES)
async def test_code_used_twice(sandbox: Sandbox, client: RelyingParty, name: str) -> None:
    """A code's second use is rejected and revokes the tokens of the first (RFC 6749 §4.1.2)."""
    authority = sandbox.authorities[name]
    code = (await client.login(authority))["code"]
    tokens = (await client.exchange(authority, code)).json
    assert (await client.exchange(authority, code)).json["error"] == "invalid_grant"
    assert not authority.is_live_access(tokens["access_token"])
    assert not authority.is_live_refresh(tokens["refresh_token"])


async def test_cameramanager(sandbox: Sandbox, client: RelyingParty) -> None:
    """CameraManager: query or form, scope always, no rotation, the old access token stays valid."""
    authority = sandbox.cameramanager
    pair = authority.issue()
    assert pair.refresh_token is not None
    query = f"grant_type=refresh_token&scope=write&refresh_token={pair.refresh_token}"
    url = f"{authority.endpoint('token')}?{query}"
    in_query = await client.call("POST", url, authorization=basic(authority))
    in_form = await client.refresh(authority, pair.refresh_token)
    for answer in (in_query, in_form):
        assert answer.json["refresh_token"] == pair.refresh_token
        assert answer.json["token_type"] == "bearer"
        assert answer.json["access_token"].endswith(":10003")
    assert authority.is_live_access(pair.access_token)
    assert authority.families[0].generation == 3
    without_scope = await client.token(authority, grant_type="refresh_token", refresh_token=pair.refresh_token)
    assert without_scope.error == (400, "invalid_scope")
    dead = await client.refresh(authority, "dead")
    assert dead.error == (400, "invalid_grant")


async def test_cameramanager_logs_out(sandbox: Sandbox, client: RelyingParty) -> None:
    """Log-out needs a valid access token, responds 204 and ends the whole grant."""
    authority = sandbox.cameramanager
    pair = authority.issue()
    url = authority.endpoint("logout")
    refused = await client.call("DELETE", url, authorization="Bearer wrong")
    assert refused.status == 401
    assert set(refused.json) == {"code", "title", "detail"}
    done = await client.call("DELETE", url, authorization=f"Bearer {pair.access_token}")
    assert (done.status, done.text) == (204, "")
    assert authority.families[0].revoked
    assert (await client.call("DELETE", url, authorization=f"Bearer {pair.access_token}")).status == 401


async def test_default_lifetimes() -> None:
    """Without a configured lifetime the dialects state those seen in the field."""
    sandbox = Sandbox()
    lifetimes = {name: authority.issue().expires_in for name, authority in sandbox.authorities.items()}
    assert lifetimes == {"cameramanager": 43199, "v3": 43198, "rotating": 3600}


async def test_v3(sandbox: Sandbox, client: RelyingParty) -> None:
    """V3 rotates, invalidates the old access token at once, names its base URL; a dead token is a 401."""
    authority = sandbox.v3
    pair = authority.issue()
    assert pair.refresh_token is not None
    answer = await client.refresh(authority, pair.refresh_token)
    assert answer.json["refresh_token"] != pair.refresh_token
    port = int(sandbox.url.rpartition(":")[2])
    assert answer.json["httpsBaseUrl"] == {"hostname": "127.0.0.1", "port": port}
    assert (await client.api(authority, pair.access_token)).status == 401
    assert (await client.api(authority, answer.json["access_token"])).json["id"] == "demo"
    assert (await client.refresh(authority, pair.refresh_token)).error == (401, "invalid_grant")
    assert authority.reuse == 1
    assert not authority.is_live_refresh(answer.json["refresh_token"])


async def test_v3_refuses_an_encoded_redirect_uri(sandbox: Sandbox, client: RelyingParty) -> None:
    """V3 checks the raw query: the same redirect URI, percent-encoded, is a 400 page."""
    plain = client.authorization_url(sandbox.v3)
    encoded = plain.replace("http://127.0.0.1:", "http%3A%2F%2F127.0.0.1%3A", 2)
    encoded = encoded.replace("http%3A%2F%2F127.0.0.1%3A", "http://127.0.0.1:", 1)
    assert encoded != plain
    with pytest.raises(BrowserError, match="HTTP 400") as caught:
        await walk_login(encoded)
    assert caught.value.status == 400
    assert "percent-encoded" in caught.value.text
    assert await walk_login(plain) == LANDING


@pytest.mark.parametrize("uri", ["http://localhost:3333", "http://127.0.0.1:3333/", "http://example.com/cb"])
async def test_v3_redirect_uris(sandbox: Sandbox, client: RelyingParty, uri: str) -> None:
    """V3 allows neither localhost nor a trailing slash; no authority allows an unregistered host off loopback."""
    with pytest.raises(BrowserError, match="HTTP 400"):
        await walk_login(client.authorization_url(sandbox.v3, redirect_uri=uri))


async def test_registered_redirect_uris(sandbox: Sandbox, client: RelyingParty) -> None:
    """Once redirect URIs are registered, only an exact match is allowed."""
    sandbox.rotating.redirect_uris = {client.redirect_uri}
    assert "code" in await client.login(sandbox.rotating)
    with pytest.raises(BrowserError, match="HTTP 400"):
        await client.login(sandbox.rotating, redirect_uri=client.redirect_uri + "x")


async def test_pkce(sandbox: Sandbox, client: RelyingParty) -> None:
    """A challenge binds the code to its verifier; a verifier without a challenge is a downgrade."""
    authority = sandbox.rotating
    pkce = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
    for given, fits in ((VERIFIER, True), ("x" * 43, False)):
        code = (await client.login(authority, **pkce))["code"]
        answer = await client.exchange(authority, code, code_verifier=given)
        assert answer.status == (200 if fits else 400)
    code = (await client.login(authority, **pkce))["code"]
    assert (await client.exchange(authority, code)).error == (400, "invalid_grant")
    code = (await client.login(authority))["code"]
    assert (await client.exchange(authority, code, code_verifier=VERIFIER)).error == (400, "invalid_grant")
    authority.options.require_pkce = True
    assert (await client.login(authority))["error"] == "invalid_request"
    assert (await client.login(authority, code_challenge=CHALLENGE))["error"] == "invalid_request"


async def test_code_is_bound_to_its_redirect_uri(sandbox: Sandbox, client: RelyingParty) -> None:
    """The exchange must name the redirect URI of the authorization request (RFC 6749 §4.1.3)."""
    code = (await client.login(sandbox.rotating))["code"]
    answer = await client.exchange(sandbox.rotating, code, redirect_uri="http://127.0.0.1/other")
    assert answer.error == (400, "invalid_grant")


async def test_client_credentials(sandbox: Sandbox, client: RelyingParty) -> None:
    """Basic and body are accepted as the RFC says; a wrong secret is 401 with a challenge, both at once a 400."""
    authority = sandbox.rotating
    authority.client_id, authority.client_secret = "a b:c", "s%c+r t&"
    url, refresh = authority.endpoint("token"), authority.issue().refresh_token
    assert refresh is not None
    form = {"grant_type": "refresh_token", "refresh_token": refresh}
    credentials = {"client_id": authority.client_id, "client_secret": authority.client_secret}
    answer = await client.call("POST", url, form=form, authorization=basic(authority))
    form["refresh_token"] = answer.json["refresh_token"]
    answer = await client.call("POST", url, form=form | credentials)
    form["refresh_token"] = answer.json["refresh_token"]
    wrong = await client.call("POST", url, form=form, authorization=basic(authority, "wrong"))
    assert wrong.error == (401, "invalid_client")
    assert wrong.headers["WWW-Authenticate"].startswith("Basic")
    assert (await client.call("POST", url, form=form, authorization="Basic !")).error == (
        401,
        "invalid_client",
    )
    assert (await client.call("POST", url, form=form)).error == (401, "invalid_client")
    twice = await client.call("POST", url, form=form | credentials, authorization=basic(authority))
    assert twice.error == (400, "invalid_request")
    assert authority.is_live_refresh(form["refresh_token"])


@pytest.mark.parametrize("name", ["cameramanager", "v3"])
async def test_eagle_eye_takes_basic_only(sandbox: Sandbox, client: RelyingParty, name: str) -> None:
    """Eagle Eye's servers do not read client credentials from the body, and decode nothing."""
    authority = sandbox.authorities[name]
    authority.client_secret = "100%25+"
    pair = authority.issue()
    form = {"grant_type": "refresh_token", "refresh_token": str(pair.refresh_token), "scope": pair.scope}
    credentials = {"client_id": authority.client_id, "client_secret": authority.client_secret}
    answer = await client.call("POST", authority.endpoint("token"), form=form | credentials)
    assert answer.error == (401, "invalid_client")
    assert (await client.refresh(authority, str(pair.refresh_token))).status == 200


@pytest.mark.parametrize("name", ["v3", "rotating"])
async def test_no_parameters_in_the_query(sandbox: Sandbox, client: RelyingParty, name: str) -> None:
    """Parameters in the query of a token request are rejected, and nothing is spent."""
    authority = sandbox.authorities[name]
    refresh = authority.issue().refresh_token
    url = f"{authority.endpoint('token')}?grant_type=refresh_token&refresh_token={refresh}"
    assert (await client.call("POST", url, authorization=basic(authority))).error == (400, "invalid_request")
    assert authority.is_live_refresh(str(refresh))


@pytest.mark.parametrize("body", [b"scope=a&scope=b", b"scope=\xff", b"client_id=other"])
async def test_unreadable_forms(sandbox: Sandbox, body: bytes) -> None:
    """A repeated parameter, a body that is not UTF-8, and two different client ids are rejected."""
    form = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": basic(sandbox.rotating)}
    async with (
        aiohttp.ClientSession(headers=form) as http,
        http.post(sandbox.rotating.endpoint("token"), data=body) as response,
    ):
        assert (response.status, (await response.json())["error"]) == (400, "invalid_request")


async def test_the_least_answer(sandbox: Sandbox, client: RelyingParty) -> None:
    """A response may lack the refresh token, the lifetime and the scope (RFC 6749 §5.1)."""
    authority = sandbox.rotating
    authority.options.issue_refresh_token = False
    authority.options.access_lifetime = None
    url = client.redirect_uri
    answer = await client.token(
        authority,
        grant_type="authorization_code",
        code=authority.authorize("demo", "", url),
        redirect_uri=url,
    )
    assert set(answer.json) == {"access_token", "token_type"}


@pytest.mark.parametrize(
    ("scope", "prompt", "granted", "refreshable"),
    [
        ("openid offline_access", "consent", "openid offline_access", True),
        ("openid offline_access", "login consent", "openid offline_access", True),
        ("openid offline_access", "login", "openid", False),
        ("openid offline_access", "", "openid", False),
        ("openid", "consent", "openid", False),
    ],
)
async def test_offline_access_by_consent(
    sandbox: Sandbox, client: RelyingParty, scope: str, prompt: str, granted: str, refreshable: bool
) -> None:
    """To the letter of OpenID Connect Core §11, offline_access counts only with prompt=consent."""
    authority = sandbox.rotating
    authority.options.offline_by_consent = True
    callback = await client.login(authority, scope=scope, **({"prompt": prompt} if prompt else {}))
    answer = await client.exchange(authority, callback["code"])
    assert answer.json["scope"] == granted
    assert ("refresh_token" in answer.json) is refreshable


async def test_malformed_requests(sandbox: Sandbox, client: RelyingParty) -> None:
    """A missing or unknown parameter, and a body that is not a form, get the error of RFC 6749 §5.2."""
    authority = sandbox.rotating
    assert (await client.token(authority)).error == (400, "invalid_request")
    assert (await client.token(authority, grant_type="refresh_token")).error == (400, "invalid_request")
    assert (await client.token(authority, grant_type="password")).error == (400, "unsupported_grant_type")
    async with (
        aiohttp.ClientSession(headers={"Authorization": basic(authority)}) as http,
        http.post(authority.endpoint("token"), json={"grant_type": "refresh_token"}) as response,
    ):
        assert (response.status, (await response.json())["error"]) == (400, "invalid_request")
    more = await client.refresh(authority, str(authority.issue("openid").refresh_token), scope="openid more")
    assert more.error == (400, "invalid_scope")


@pytest.mark.parametrize("name", ["v3", "rotating"])
async def test_revocation(sandbox: Sandbox, client: RelyingParty, name: str) -> None:
    """RFC 7009: a spent token changes nothing, the current one ends the grant, unknown ones get a 200."""
    authority = sandbox.authorities[name]
    spent = str(authority.issue().refresh_token)
    current = (await client.refresh(authority, spent)).json
    for token, lives in ((spent, True), ("unknown", True), (current["refresh_token"], False)):
        assert (await client.token(authority, endpoint="revoke", token=token)).status == 200
        assert authority.is_live_refresh(current["refresh_token"]) is lives
        assert authority.is_live_access(current["access_token"]) is lives
    assert authority.reuse == 0
    assert (await client.token(authority, endpoint="revoke")).error == (400, "invalid_request")
    access = authority.issue()
    await client.token(authority, endpoint="revoke", token=access.access_token)
    assert not authority.is_live_access(access.access_token)
    assert authority.is_live_refresh(str(access.refresh_token))
    url = authority.endpoint("revoke")
    assert (await client.call("POST", url, form={"token": "x"})).error == (401, "invalid_client")


async def test_discovery(sandbox: Sandbox, client: RelyingParty) -> None:
    """Both well-known documents name the exact issuer and endpoints that exist."""
    url = f"{sandbox.url}/rotating/.well-known/openid-configuration"
    document = (await client.call("GET", url)).json
    assert document["issuer"] == f"{sandbox.url}/rotating"
    assert document["token_endpoint"] == f"{sandbox.url}/rotating/token"
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert document["authorization_response_iss_parameter_supported"] is True
    other = f"{sandbox.url}/.well-known/oauth-authorization-server/rotating"
    assert (await client.call("GET", other)).json == document
    assert (await client.call("GET", document["jwks_uri"])).json == {"keys": []}


async def test_id_token(sandbox: Sandbox, client: RelyingParty) -> None:
    """With openid the exchange yields an ID token for this client and nonce, and it counts as a secret."""
    code = (await client.login(sandbox.rotating, nonce="n1"))["code"]
    token = (await client.exchange(sandbox.rotating, code)).json["id_token"]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert (claims["aud"], claims["sub"], claims["nonce"]) == (sandbox.rotating.client_id, "demo", "n1")
    assert token in sandbox.rotating.secrets()


async def test_userinfo_challenges(sandbox: Sandbox, client: RelyingParty) -> None:
    """The API responds to a dead token as RFC 6750 §3 says."""
    answer = await client.api(sandbox.rotating, "wrong")
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
