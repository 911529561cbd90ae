"""Token requests over real loopback sockets: what is sent, how it authenticates, and what is never sent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import pytest

from broker.errors import InvalidSettings
from broker.model import Answered, InvalidGrant, NotSent, Rejected
from broker.providers import http as provider_http
from broker.providers.client_secret import ClientSecret, require_secrets
from broker.providers.credentials import Credentials
from broker.providers.request_form import authenticate
from broker.secret import Secret
from broker.settings import Provider

from .asking import TOKEN, TOKENS, raw, refresh

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from broker.providers import Endpoint
    from tests.scripted_server import Exchange, ScriptedServer

    Serve = Callable[..., Awaitable[ScriptedServer]]
    EndpointAt = Callable[..., Endpoint]
    MakeAnswer = Callable[..., bytes]


async def test_refresh_request(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """A refresh is exactly RFC 6749 §6, with form-encoded Basic and a stable set of headers."""
    server = await serve(answer(TOKENS))
    outcome = await refresh(endpoint_at(server.url, scope="write"))
    assert isinstance(outcome, Answered)
    assert outcome.answer.refresh_token == Secret("r2")
    (got,) = server.requests
    assert (got.method, got.target) == ("POST", "/token")
    assert got.form == {"grant_type": ["refresh_token"], "refresh_token": [TOKEN.reveal()]}
    user, _, password = base64.b64decode(got.headers["authorization"].removeprefix("Basic ")).decode().partition(":")
    assert (user, unquote_plus(password)) == ("an+id", "s3cr3t/+ä")
    assert got.headers["content-type"] == "application/x-www-form-urlencoded"
    assert (got.headers["accept"], got.headers["accept-encoding"]) == ("application/json", "identity")
    assert got.headers["user-agent"].startswith("token-broker/")
    assert "cookie" not in got.headers


async def test_exchange_request(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """A code exchange carries code, redirect_uri and verifier, and its response is read like a refresh's."""
    server = await serve(answer(TOKENS))
    outcome = await endpoint_at(server.url).exchange_code(
        Secret("4/0A+b%2Fc=="), redirect_uri="http://127.0.0.1:8080/callback", code_verifier=Secret("v"), timeout=1
    )
    assert isinstance(outcome, Answered)
    assert server.requests[0].form == {
        "grant_type": ["authorization_code"],
        "code": ["4/0A+b%2Fc=="],
        "redirect_uri": ["http://127.0.0.1:8080/callback"],
        "code_verifier": ["v"],
    }


async def test_cameramanager_sends_its_scope_on_every_call(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer
) -> None:
    """CameraManager requires `scope` on refresh and exchange; the grant's own wins on refresh."""
    server = await serve(answer(TOKENS))
    endpoint = endpoint_at(server.url, kind="cameramanager", revocation_endpoint=None)
    await refresh(endpoint)
    await refresh(endpoint, scope="read")
    await endpoint.exchange_code(Secret("c"), redirect_uri="http://x/callback", code_verifier=None, timeout=10)
    assert [got.form["scope"] for got in server.requests] == [["write"], ["read"], ["write"]]
    assert all(got.query == {} for got in server.requests)


async def test_parameters_in_the_query_never_carry_credentials(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer
) -> None:
    """The documented form of CameraManager puts parameters into the URL, beside a query that is already there."""
    server = await serve(answer(TOKENS))
    url = f"{server.url}/token?tenant=1"
    for method in ("client_secret_basic", "client_secret_post"):
        outcome = await refresh(
            endpoint_at(server.url, token_endpoint=url, parameters="query", token_endpoint_auth_method=method)
        )
        assert isinstance(outcome, Answered)
    basic, post = server.requests
    assert basic.query == {"tenant": ["1"], "grant_type": ["refresh_token"], "refresh_token": [TOKEN.reveal()]}
    assert (basic.body, basic.headers["content-length"]) == (b"", "0")
    assert post.query == basic.query
    assert post.form == {"client_id": ["an id"], "client_secret": ["s3cr3t/+ä"]}


@pytest.mark.parametrize(
    ("settings", "authorization", "credentials"),
    [
        ({"basic_encoding": "plain"}, "an id:s3cr3t/+ä", {}),
        ({"token_endpoint_auth_method": "client_secret_post"}, None, {"client_id", "client_secret"}),
        ({"client_secret": None}, None, {"client_id"}),
        ({"token_endpoint_auth_method": "none"}, None, {"client_id"}),
    ],
)
async def test_client_authentication(
    serve: Serve,
    endpoint_at: EndpointAt,
    answer: MakeAnswer,
    settings: dict[str, Any],
    authorization: str | None,
    credentials: set[str],
) -> None:
    """Basic in plain, credentials in the body, and public clients, all as the settings say."""
    server = await serve(answer(TOKENS))
    await refresh(endpoint_at(server.url, **settings))
    (got,) = server.requests
    if authorization is None:
        assert "authorization" not in got.headers
    else:
        assert base64.b64decode(got.headers["authorization"].removeprefix("Basic ")).decode() == authorization
    assert got.form.keys() - {"grant_type", "refresh_token"} == set(credentials)


async def test_token_params_are_added_but_replace_nothing(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer
) -> None:
    """A server that insists on a further parameter gets it; it cannot override a standard one by accident."""
    server = await serve(answer(TOKENS))
    params = {"redirect_uri": "https://x/cb", "refresh_token": "evil", "audience": "é"}
    await refresh(endpoint_at(server.url, token_params=params))
    assert server.requests[0].form == {
        "grant_type": ["refresh_token"],
        "refresh_token": [TOKEN.reveal()],
        "redirect_uri": ["https://x/cb"],
        "audience": ["é"],
    }


async def test_the_clock_is_asked_when_the_answer_is_there(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer
) -> None:
    """A point in time in the response counts from its receipt."""
    server = await serve(answer({"access_token": "a2", "expires_on": 1_900_000_000}))
    outcome = await refresh(endpoint_at(server.url, clock=lambda: 1_899_999_000_000))
    assert isinstance(outcome, Answered)
    assert outcome.answer.lifetime_ms == 1_000_000


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, status: int
) -> None:
    """No redirect ever takes a refresh token to another host."""
    listener = await serve(answer(TOKENS))
    server = await serve(answer(b"", status, Location=f"{listener.url}/login?session=s"))
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, Rejected)
    assert outcome.code == f"http_{status}"
    assert "session" not in repr(outcome)
    assert listener.connections == 0


async def test_no_cookie_is_kept(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """A session cookie of one grant must not travel with another's request."""
    server = await serve(answer(TOKENS, Set_Cookie="s=1"))
    endpoint = endpoint_at(server.url)
    await refresh(endpoint)
    await refresh(endpoint)
    assert all("cookie" not in got.headers for got in server.requests)
    assert server.connections == 1


async def test_echoed_credentials_are_cut_out(serve: Serve, endpoint_at: EndpointAt) -> None:
    """A server that echoes token, secret and Authorization header shows the operator none of them."""

    async def echo(exchange: Exchange) -> None:
        got = server.requests[-1]
        said = f"{TOKEN.reveal()} {got.body.decode()} {got.headers['authorization']} s3cr3t/+ä"
        body = json.dumps({"error": "invalid_grant", "error_description": said}).encode()
        exchange.writer.write(raw("HTTP/1.1 400 No|Connection: close", body))

    server = await serve(echo)
    outcome = await refresh(endpoint_at(server.url))
    assert isinstance(outcome, InvalidGrant)
    basic = server.requests[-1].headers["authorization"].removeprefix("Basic ")
    for secret in (TOKEN.reveal(), "s3cr3t", "r1%2F", basic[:12], "10003"):
        assert secret not in outcome.detail


class TestClientSecretFile:
    """The client secret in a file."""

    async def test_rotated_file_is_read_again(
        self, serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, tmp_path: Path
    ) -> None:
        """The next request uses a secret that was swapped by symlink, as mounted secrets are."""
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "secret").write_text(f"{name}\n")
        (tmp_path / "data").symlink_to("one")
        server = await serve(answer(TOKENS))
        endpoint = endpoint_at(server.url, client_secret=None, client_secret_file=tmp_path / "data" / "secret")
        await refresh(endpoint)
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").replace(tmp_path / "data")
        await refresh(endpoint)
        await refresh(endpoint)
        sent = [base64.b64decode(got.headers["authorization"].split()[1]).decode() for got in server.requests]
        assert sent == ["an+id:one", "an+id:two", "an+id:two"]

    async def test_many_at_once_read_it_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Refreshes that begin together share one read in one thread; the next one reads again."""
        (tmp_path / "secret").write_text("one\n")
        secret, reads, read = ClientSecret(file=tmp_path / "secret"), 0, ClientSecret._read

        def counted(self: ClientSecret, file: Path) -> Secret:
            nonlocal reads
            reads += 1
            return read(self, file)

        monkeypatch.setattr(ClientSecret, "_read", counted)
        assert await asyncio.gather(*(secret.current(1) for _ in range(8))) == [Secret("one")] * 8
        assert reads == 1
        (tmp_path / "secret").write_text("another\n")
        assert await secret.current(1) == Secret("another")

    @pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
    async def test_unreadable_file(
        self, serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, tmp_path: Path, content: bytes | None
    ) -> None:
        """Without a readable secret nothing is sent, and the operator reads path and reason."""
        path = tmp_path / "secret"
        if content is not None:
            path.write_bytes(content)
        server = await serve(answer(TOKENS))
        outcome = await refresh(endpoint_at(server.url, client_secret=None, client_secret_file=path))
        assert isinstance(outcome, NotSent)
        assert outcome.code == "client_secret_unreadable"
        assert str(path) in outcome.detail
        assert server.connections == 0


async def test_a_file_system_that_hangs(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret file that cannot be read in time costs its own provider the time, and nothing is sent."""
    monkeypatch.setattr(ClientSecret, "_read", lambda *_: time.sleep(0.4))
    server = await serve(answer(TOKENS))
    endpoint = endpoint_at(server.url, client_secret=None, client_secret_file=tmp_path)
    outcome = await refresh(endpoint, 0.1)
    assert isinstance(outcome, NotSent)
    assert outcome.code == "client_secret_unreadable"
    assert server.connections == 0


def test_half_a_surrogate_pair_can_be_sent(endpoint_at: EndpointAt) -> None:
    """A refresh token that JSON could carry and UTF-8 cannot still becomes a request."""
    dialect = endpoint_at("http://127.0.0.1").dialect
    request = authenticate(
        "http://127.0.0.1/", {"refresh_token": "r\ud800"}, Credentials.for_client(dialect, Secret("s")), "body"
    )
    assert request.body == b"refresh_token=r%ED%A0%80"


def test_requests_and_replies_show_no_secret() -> None:
    """`repr` of a request shows its method alone, `repr` of a reply its status."""
    request = provider_http.Request(
        method="POST", url="https://as.test/?x=SECRET", headers={"a": "SECRET"}, body=b"SECRET"
    )
    reply = provider_http.Reply(status=200, headers={"a": "SECRET"}, body=b"SECRET")
    assert "SECRET" not in f"{request!r}{reply!r}"


def test_a_pipe_is_left_to_the_first_request(tmp_path: Path) -> None:
    """What a pipe holds can be read once: the check at start does not wait for it, nor empty it."""
    os.mkfifo(tmp_path / "pipe")
    given = {"kind": "oauth2", "client_id": "x", "token_endpoint": "https://as.test/t"}
    for name, wrong in (("pipe", False), ("missing", True), ("pipe/below", True)):
        provider = Provider.model_validate({**given, "client_secret_file": tmp_path / name})
        with pytest.raises(InvalidSettings, match="client_secret_file") if wrong else contextlib.nullcontext():
            require_secrets({"acme": provider})
