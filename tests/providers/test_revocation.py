"""Revocation by RFC 7009, and CameraManager's logout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.providers import Endpoint, Revocation, revoke
from broker.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.scripted_server import Exchange, ScriptedServer

    Serve = Callable[..., Awaitable[ScriptedServer]]
    MakeAnswer = Callable[..., bytes]
    EndpointAt = Callable[..., Endpoint]

ACCESS, REFRESH = Secret("access:10003"), Secret("refresh:10003")


async def test_rfc_7009(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """The refresh token goes to the revocation endpoint, in the body and with the client's credentials."""
    server = await serve(answer(b""))
    endpoint = endpoint_at(server.url, parameters="query", token_params={"x": "y"})
    assert await revoke(endpoint, access_token=ACCESS, refresh_token=REFRESH, timeout=10) == Revocation("revoked")
    (got,) = server.requests
    assert (got.method, got.target) == ("POST", "/revoke")
    assert got.form == {"token": ["refresh:10003"], "token_type_hint": ["refresh_token"]}
    assert got.headers["authorization"].startswith("Basic ")


async def test_no_revocation_endpoint(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """A provider without a revocation endpoint is not supported, and receives no request."""
    server = await serve(answer(b""))
    endpoint = endpoint_at(server.url, revocation_endpoint=None)
    gone = await revoke(endpoint, access_token=ACCESS, refresh_token=REFRESH, timeout=10)
    assert gone == Revocation("not_supported")
    assert server.connections == 0


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, b'{"error":"unsupported_token_type"}', "unsupported_token_type"),
        (401, b'{"error":"invalid_client"}', "invalid_client"),
        (503, b"", "http_503"),
        (500, b"", "http_500"),
        (302, b"", "http_302"),
        (200, b'{"error":"invalid_request"}', "invalid_request"),
        (200, b'{"error":"x","access_token":"a"}', "http_200"),
    ],
)
async def test_failure_is_told(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, status: int, body: bytes, code: str
) -> None:
    """A failed revocation never counts as a success."""
    server = await serve(answer(body, status))
    gone = await revoke(endpoint_at(server.url), access_token=None, refresh_token=REFRESH, timeout=10)
    assert (gone.result, gone.code) == ("failed", code)


@pytest.mark.parametrize(("status", "result"), [(200, "revoked"), (204, "revoked"), (401, "failed"), (404, "failed")])
async def test_cameramanager_logs_out_with_the_access_token(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, status: int, result: str
) -> None:
    """Logout is DELETE with the valid access token, any 2xx is a success, and a failure shows no token."""
    server = await serve(answer({"detail": "no access:10003"} if status > 299 else b"", status))
    endpoint = endpoint_at(
        server.url, kind="cameramanager", revocation_endpoint=None, logout_endpoint=f"{server.url}/tokens/current"
    )
    gone = await revoke(endpoint, access_token=ACCESS, refresh_token=REFRESH, timeout=10)
    assert gone.result == result
    assert "access:10003" not in gone.detail
    (got,) = server.requests
    assert (got.method, got.target, got.headers["authorization"]) == (
        "DELETE",
        "/tokens/current",
        "Bearer access:10003",
    )
    assert got.body == b""


async def test_cameramanager_needs_a_live_access_token(endpoint_at: EndpointAt) -> None:
    """Without an access token the caller reads what to do first."""
    url = "http://127.0.0.1:1"
    endpoint = endpoint_at(url, kind="cameramanager", revocation_endpoint=None, logout_endpoint=f"{url}/tokens/current")
    gone = await revoke(endpoint, access_token=None, refresh_token=REFRESH, timeout=10)
    assert (gone.result, gone.code) == ("failed", "access_token_required")


async def test_logout_is_sent_once_on_a_connection_that_was_closed(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer
) -> None:
    """A plain aiohttp client would repeat a DELETE on a kept connection that closes; here nothing is sent twice."""

    async def close(exchange: Exchange) -> None:
        exchange.writer.close()

    server = await serve(answer(b""), close)
    endpoint = endpoint_at(
        server.url, kind="cameramanager", revocation_endpoint=None, logout_endpoint=f"{server.url}/tokens/current"
    )
    await revoke(endpoint, access_token=ACCESS, refresh_token=REFRESH, timeout=10)
    gone = await revoke(endpoint, access_token=ACCESS, refresh_token=REFRESH, timeout=10)
    assert (gone.result, gone.code) == ("failed", "disconnected")
    assert (len(server.requests), server.connections) == (2, 1)


@pytest.mark.parametrize("limit", [0.0, -1.0, 1.0])
async def test_not_sent(endpoint_at: EndpointAt, limit: float) -> None:
    """Neither a refused connection nor a time-out of zero raises."""
    endpoint = endpoint_at("http://127.0.0.1:1")
    gone = await revoke(endpoint, access_token=None, refresh_token=REFRESH, timeout=limit)
    assert (gone.result, gone.code) == ("failed", "connection_refused" if limit > 0 else "too_late")


async def test_failed_discovery(endpoint_at: EndpointAt) -> None:
    """An issuer whose discovery fails is a failure, not a missing endpoint."""
    endpoint = endpoint_at(
        "http://127.0.0.1:1", kind="oidc", issuer="http://127.0.0.1:1", token_endpoint=None, revocation_endpoint=None
    )
    gone = await revoke(endpoint, access_token=None, refresh_token=REFRESH, timeout=10)
    assert (gone.result, gone.code) == ("failed", "discovery")


async def test_the_body_of_a_success_does_not_matter(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """RFC 7009 §2.2: the content of a 200 is ignored, unless it says `error`."""
    server = await serve(answer(b"<html>done"))
    gone = await revoke(endpoint_at(server.url), access_token=None, refresh_token=REFRESH, timeout=10)
    assert gone == Revocation("revoked")


async def test_issuer_without_a_revocation_endpoint(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """If discovery names no endpoint either, revocation is not supported."""
    server = await serve(b"")
    server.steps = [answer({"issuer": server.url, "token_endpoint": f"{server.url}/token"})]
    endpoint = endpoint_at(server.url, kind="oidc", issuer=server.url, token_endpoint=None, revocation_endpoint=None)
    gone = await revoke(endpoint, access_token=None, refresh_token=REFRESH, timeout=10)
    assert gone == Revocation("not_supported")
