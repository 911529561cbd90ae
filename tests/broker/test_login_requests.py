"""Logins at providers with names of their own: for the code, for the redirect URI and for the client id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.broker.logins import browser, opened, start
from tests.scripted_server import http, scripted_server

if TYPE_CHECKING:
    from tests.conftest import StartBroker

TOKENS = http({"access_token": "AT-of-login", "refresh_token": "RT-of-login", "expires_in": 3600})


def provider(url: str, **settings: Any) -> dict[str, Any]:
    """Return settings of a provider whose token endpoint is at *url*."""
    given = {"kind": "oauth2", "client_id": "id", "authorization_endpoint": f"{url}/a", "token_endpoint": f"{url}/t"}
    return {"acme": given | settings}


async def test_code_parameter(start_broker: StartBroker) -> None:
    """Amazon's `spapi_oauth_code` is the code, in a browser and pasted, a plus in it included; `code` then is none."""
    async with scripted_server(TOKENS) as server:
        providers = provider(server.url, code_parameter="spapi_oauth_code", client_secret="s")
        async with start_broker(providers=providers) as broker, browser() as session:
            started = await start(broker, "g1", "acme")
            callback = f"{broker.settings.redirect_uri}?state={started['state']}"
            body = {"redirected_to": f"{callback}&spapi_oauth_code=a+b", "state": started["state"]}
            status, answer, _ = await broker.ask("POST", "/v1/grants/g1/login/complete", json=body)
            assert status == 200, answer
            started = await start(broker, "g2", "acme")
            (state,) = parse_qs(urlsplit(await opened(session, started["login_url"])).query)["state"]
            callback = f"{broker.settings.redirect_uri}?state={state}"
            async with session.get(f"{callback}&spapi_oauth_code=c%2Fd") as page:
                assert page.status == 200
            assert [got.parameters["code"] for got in server.requests] == ["a+b", "c/d"]
            started = await start(broker, "g3", "acme")
            body = {"redirected_to": f"{broker.settings.redirect_uri}?state={started['state']}&code=x"}
            status, answer, _ = await broker.ask("POST", "/v1/grants/g3/login/complete", json=body)
            assert (status, answer["error"]) == (400, "no_code")
            assert len(server.requests) == 2


async def test_redirect_uri(start_broker: StartBroker) -> None:
    """EBay's RuName is sent at both requests though it is no URL; a URL of its own may be pasted too."""
    async with scripted_server(TOKENS) as server:
        names = provider(server.url, redirect_uri="Acme-Acme-abc-xyz")
        urls = {"other": provider(server.url, redirect_uri="https://acme.test/back")["acme"]}
        async with start_broker(providers=names | urls) as broker:
            for grant, name, sent, back in (
                ("g1", "acme", "Acme-Acme-abc-xyz", broker.settings.redirect_uri),
                ("g2", "other", "https://acme.test/back", "https://acme.test/back"),
            ):
                started = await start(broker, grant, name)
                assert parse_qs(urlsplit(started["authorization_url"]).query)["redirect_uri"] == [sent]
                body = {"redirected_to": f"{back}?state={started['state']}&code=c"}
                status, answer, _ = await broker.ask("POST", f"/v1/grants/{grant}/login/complete", json=body)
                assert status == 200, answer
                assert server.requests[-1].parameters["redirect_uri"] == sent
            started = await start(broker, "g2", "other")
            body = {"redirected_to": f"https://evil.test/back?state={started['state']}&code=c"}
            status, answer, _ = await broker.ask("POST", "/v1/grants/g2/login/complete", json=body)
            assert (status, answer["error"]) == (400, "invalid_request")


async def test_een_v3_sends_its_scope(start_broker: StartBroker) -> None:
    """`scope=vms.all` stands in authorization URL, exchange and refresh; a token may live a minute or a year."""
    lifetimes = [60, 525_600 * 60]
    answers = [
        http({"access_token": f"AT-{life}", "refresh_token": f"RT-{life}", "expires_in": life, "scope": "vms.all"})
        for life in lifetimes
    ]
    async with scripted_server(*answers) as server:
        providers = {"een": provider(server.url, kind="een-v3", client_secret="s")["acme"]}
        async with start_broker(providers=providers, refresh={"min_interval": "0s"}) as broker:
            started = await start(broker, "g1", "een")
            assert parse_qs(urlsplit(started["authorization_url"]).query)["scope"] == ["vms.all"]
            body = {"redirected_to": f"{broker.settings.redirect_uri}?state={started['state']}&code=c"}
            status, answer, _ = await broker.ask("POST", "/v1/grants/g1/login/complete", json=body)
            assert status == 200, answer
            first = await broker.token("g1")
            assert 50 <= first["expires_in"] <= 58  # a refresh ends the token before it, so it is shown until then
            refreshed = {"If-Match": f'"{first["generation"]}"'}
            status, second, _ = await broker.ask("POST", "/v1/grants/g1/refresh", headers=refreshed)
            assert status == 200, second
            assert second["access_token"] == "AT-31536000"
            # The idle limit of the refresh token bounds what is planned: 14 days.
            assert 12 * 86_400 < second["expires_in"] < 14 * 86_400
            assert [got.parameters["scope"] for got in server.requests] == ["vms.all", "vms.all"]
