"""Settings that change requests: body, endpoint of refreshes, parameters, headers; each through the real client."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from broker.model import Answered, InvalidGrant, NotSent
from broker.providers import revoke
from broker.secret import Secret
from broker.settings import Provider
from tests.scripted_server import ScriptedServer, http

from .asking import TOKEN, TOKENS, refresh

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from broker.model import Outcome
    from broker.providers import Endpoint
    from tests.scripted_server import Exchange

    Serve = Callable[..., Awaitable[ScriptedServer]]
    EndpointAt = Callable[..., Endpoint]
    MakeAnswer = Callable[..., bytes]

REDIRECT = "http://127.0.0.1:8080/callback"
REFRESH = {"grant_type": "refresh_token", "refresh_token": TOKEN.reveal()}
EXCHANGE = {"grant_type": "authorization_code", "code": "c", "redirect_uri": REDIRECT, "code_verifier": "v"}
POST = {"client_id": "an id", "client_secret": "s3cr3t/+ä"}


async def exchange(endpoint: Endpoint) -> Outcome:
    """Redeem a code."""
    return await endpoint.exchange_code(Secret("c"), redirect_uri=REDIRECT, code_verifier=Secret("v"), timeout=10)


async def sent(server: ScriptedServer, endpoint: Endpoint) -> list[dict[str, str]]:
    """Exchange a code, refresh; return the parameters of both requests."""
    del server.requests[:]
    for outcome in (await exchange(endpoint), await refresh(endpoint)):
        assert isinstance(outcome, Answered)
    return [got.parameters for got in server.requests]


async def test_json_body(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """Every request carries one JSON object with that type; credentials of the body stand in it, Basic does not."""
    server = await serve(answer(TOKENS))
    for method, credentials in (("client_secret_post", POST), ("client_secret_basic", {})):
        endpoint = endpoint_at(server.url, body="json", token_endpoint_auth_method=method)
        await exchange(endpoint)
        await refresh(endpoint)
        await revoke(endpoint, access_token=None, refresh_token=TOKEN, timeout=10)
        revocation = {"token": TOKEN.reveal(), "token_type_hint": "refresh_token"}
        bodies = [json.loads(got.body) for got in server.requests[-3:]]
        assert bodies == [each | credentials for each in (EXCHANGE, REFRESH, revocation)]
        for got in server.requests[-3:]:
            assert got.headers["content-type"] == "application/json"
            assert ("authorization" in got.headers) == (not credentials)


async def test_refreshes_at_an_endpoint_of_their_own(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """Only refreshes go to refresh_endpoint."""
    server = await serve(answer(TOKENS))
    endpoint = endpoint_at(server.url, refresh_endpoint=f"{server.url}/again?v=1")
    await exchange(endpoint)
    await refresh(endpoint)
    assert [got.target for got in server.requests] == ["/token", "/again?v=1"]


async def test_params_of_each_request(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """Basecamp's `type` differs between exchange and refresh; what is redeemed cannot be replaced."""
    server = await serve(answer(TOKENS))
    endpoint = endpoint_at(
        server.url,
        token_params={"audience": "a", "grant_type": "x"},
        exchange_params={"type": "web_server", "code": "x", "code_verifier": ""},
        refresh_params={"type": "refresh", "redirect_uri": "https://x.test", "refresh_token": "x"},
    )
    first, second = await sent(server, endpoint)
    assert first == EXCHANGE | {"audience": "a", "type": "web_server"}
    assert second == REFRESH | {"audience": "a", "type": "refresh", "redirect_uri": "https://x.test"}


async def test_params_replace_and_remove(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """TikTok's client_key stands for client_id everywhere; a refresh may leave out its grant_type."""
    server = await serve(answer(TOKENS))
    endpoint = endpoint_at(
        server.url,
        token_endpoint_auth_method="client_secret_post",
        token_params={"client_id": "", "client_key": "{client_id}"},
        exchange_params={"redirect_uri": ""},
        refresh_params={"grant_type": "", "scope": "{scope}"},
        scope="a b",
        scope_separator=",",
    )
    first, second = await sent(server, endpoint)
    credentials = {"client_key": "an id", "client_secret": "s3cr3t/+ä"}
    assert first == {name: value for name, value in EXCHANGE.items() if name != "redirect_uri"} | credentials
    assert second == {"refresh_token": TOKEN.reveal(), "scope": "a,b"} | credentials
    other = endpoint_at(server.url, client_secret=None, refresh_params={"client_id": "another"})
    first, second = await sent(server, other)
    assert (first["client_id"], second["client_id"]) == ("an id", "another")


async def test_scopes_are_joined(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """The separator holds for the settings' scope and for the grant's own."""
    server = await serve(answer(TOKENS))
    endpoint = endpoint_at(server.url, scope="a b", scope_separator=",", scope_on_refresh=True, scope_on_exchange=True)
    first, second = await sent(server, endpoint)
    assert (first["scope"], second["scope"]) == ("a,b", "a,b")
    await refresh(endpoint, scope="b  a")
    assert server.requests[-1].parameters["scope"] == "b,a"


class TestHeaders:
    """`headers`: text and files."""

    async def test_sent_with_every_request(
        self, serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, tmp_path: Path
    ) -> None:
        """Exchange, refresh, revocation and logout carry them; a file that was rotated is read again."""
        file = tmp_path / "key"
        file.write_text("KEY-1\n")
        server = await serve(answer(TOKENS))
        headers: dict[str, Any] = {"api-key": {"file": str(file)}, "User-Agent": "mine/1", "accept": "text/html"}
        endpoint = endpoint_at(server.url, headers=headers)
        await exchange(endpoint)
        await refresh(endpoint)
        file.write_text("KEY-22\n")
        await revoke(endpoint, access_token=None, refresh_token=TOKEN, timeout=10)
        leaving = endpoint_at(server.url, headers=headers, logout_endpoint=f"{server.url}/logout")
        await revoke(leaving, access_token=Secret("a"), refresh_token=TOKEN, timeout=10)
        assert [got.headers["api-key"] for got in server.requests] == ["KEY-1", "KEY-1", "KEY-22", "KEY-22"]
        for got in server.requests:
            assert (got.headers["user-agent"], got.headers["accept"]) == ("mine/1", "text/html")
        assert server.requests[-1].headers["authorization"] == "Bearer a"

    async def test_authorization_of_the_settings_wins(
        self, serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, tmp_path: Path
    ) -> None:
        """A header that the broker has too is sent once, whatever its case."""
        (tmp_path / "key").write_text("Basic KEY")
        server = await serve(answer(TOKENS))
        await refresh(endpoint_at(server.url, headers={"AUTHORIZATION": {"file": str(tmp_path / "key")}}))
        assert server.requests[0].headers["authorization"] == "Basic KEY"

    async def test_echoed_secrets_are_cut_out(self, serve: Serve, endpoint_at: EndpointAt, tmp_path: Path) -> None:
        """A gateway that repeats the key, plain or in base64, shows it to nobody."""
        key = "api-key-012345678"
        (tmp_path / "key").write_text(f"Bearer {key}")

        async def echo(exchange: Exchange) -> None:
            got = exchange.request.headers["api-key"]
            words = f"{got} {base64.b64encode(got.encode()).decode()} {got.removeprefix('Bearer ')}"
            await exchange.send(http({"error": "invalid_grant", "error_description": words}, 400))

        server = await serve(echo)
        endpoint = endpoint_at(server.url, headers={"api-key": {"file": str(tmp_path / "key")}})
        outcome = await refresh(endpoint)
        assert isinstance(outcome, InvalidGrant)
        assert outcome.detail == "[secret] [secret] [secret]"
        revocation = await revoke(endpoint, access_token=None, refresh_token=TOKEN, timeout=10)
        assert revocation.detail == "[secret] [secret] [secret]"
        assert key not in repr(endpoint.headers.__dict__)

    @pytest.mark.parametrize("content", [None, b"", b"a\nb", b"a\x00b", b"\xff\xfe"])
    async def test_unreadable(
        self, serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, tmp_path: Path, content: bytes | None
    ) -> None:
        """Without a readable value nothing is sent, and the operator reads path and reason, never the value."""
        file = tmp_path / "key"
        if content is not None:
            file.write_bytes(content)
        server = await serve(answer(TOKENS))
        endpoint = endpoint_at(
            server.url, headers={"api-key": {"file": str(file)}}, logout_endpoint=f"{server.url}/logout"
        )
        outcome = await refresh(endpoint)
        assert isinstance(outcome, NotSent)
        assert outcome.code == "header_unreadable"
        assert f"headers.api-key.file {file}: " in outcome.detail
        left = await revoke(endpoint, access_token=Secret("a"), refresh_token=TOKEN, timeout=10)
        assert (left.result, left.code) == ("failed", "header_unreadable")
        assert server.connections == 0

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "x"},
            {"content-type": "x"},
            {"a b": "x"},
            {"": "x"},
            {"a": "x\r\nb: y"},
            {"a": ""},
            {"a": "x", "A": "y"},
            {"a": {"file": "x", "b": "y"}},
            {"a": {"value": "x"}},
            {"a": 5},
        ],
    )
    def test_what_is_no_header(self, headers: dict[str, Any]) -> None:
        """A name or a value that could change the request around it, or that the broker sets itself."""
        given = {"kind": "oauth2", "client_id": "x", "token_endpoint": "https://a.test", "headers": headers}
        with pytest.raises(ValidationError):
            Provider.model_validate(given)
