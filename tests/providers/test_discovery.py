"""Discovery: the validation of the document, its cache, and the backoff after failures."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import BrokerError, InvalidSettings, ProviderUnavailable
from broker.model import Answered, NotSent
from broker.providers import Endpoint, revoke
from broker.providers.dialects import Dialect
from broker.providers.discovery import FRESH, Discovery, backoff, check, discovery_url
from broker.secret import Secret
from broker.settings import Provider

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.providers import Http
    from tests.scripted_server import Exchange, ScriptedServer

    Serve = Callable[..., Awaitable[ScriptedServer]]
    MakeAnswer = Callable[..., bytes]
    EndpointAt = Callable[..., Endpoint]

TOKENS = {"access_token": "a2", "refresh_token": "r2", "expires_in": 3600}


def dialect(issuer: str = "https://as.test/r", **settings: Any) -> Dialect:
    """Make an oidc dialect."""
    return Dialect.from_settings(
        "acme", Provider.model_validate({"kind": "oidc", "client_id": "id", "issuer": issuer, **settings})
    )


def document(issuer: str, **more: Any) -> dict[str, Any]:
    """Make a discovery document whose endpoints are below *issuer*."""
    base = issuer.rstrip("/")
    found = {"token_endpoint": f"{base}/token", "revocation_endpoint": f"{base}/revoke"}
    return {"issuer": issuer, "authorization_endpoint": f"{base}/authorize", **found, **more}


@pytest.mark.parametrize("issuer", ["https://as.test/r", "https://as.test/r/"])
def test_no_double_slash(issuer: str) -> None:
    """The URL never has `//.well-known`."""
    assert discovery_url(issuer) == "https://as.test/r/.well-known/openid-configuration"


@pytest.mark.parametrize("said", ["https://as.test/r/", "https://AS.test/r", None, 7])
def test_issuer_must_be_equal_to_the_letter(said: object) -> None:
    """A mismatch is a settings error that names both."""
    with pytest.raises(InvalidSettings) as caught:
        check({**document("https://as.test/r"), "issuer": said}, dialect())
    assert "'https://as.test/r'" in str(caught.value)
    assert (repr(said) if isinstance(said, str) else "no issuer") in str(caught.value)


@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        ("https://other.test/token", True),
        ("https://[::1]:8443/token", True),
        ("http://127.0.0.1:8080/token", False),
        ("http://[::1]/token", False),
        ("http://as.test/token", False),
        ("ftp://as.test/token", False),
        ("https://user@as.test/token", False),
        ("https://as.test/token#f", False),
        ("https://as.test:x/token", False),
        ("https://[as.test/token", False),
        ("https:///token", False),
        ("https://as.test/to ken", False),
        ("https://as.test/\x00", False),
        ("https://é.test/", False),
        ("//as.test/token", False),
        ("", False),
        (7, False),
        (None, False),
    ],
)
def test_endpoints_must_be_safe(url: object, accepted: bool) -> None:
    """Only endpoints on https may receive secrets, whatever runs on the broker's own host."""
    found = document("https://as.test/r", token_endpoint=url, revocation_endpoint=url)
    if accepted:
        metadata = check(found, dialect())
        assert metadata.token_endpoint == metadata.revocation_endpoint == url
    else:
        with pytest.raises(InvalidSettings, match="token_endpoint"):
            check(found, dialect())
        assert check(found, dialect(token_endpoint="https://as.test/set")).revocation_endpoint is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/token", "http://[::1]/token", "http://localhost/token"])
def test_plain_http_on_this_host_is_for_an_issuer_there(url: str) -> None:
    """A document of an issuer on this host may name it."""
    issuer = "http://127.0.0.1:9/r"
    assert check(document(issuer, token_endpoint=url), dialect(issuer)).token_endpoint == url


def test_plain_http_with_an_explicit_word() -> None:
    """`allow_http` extends to discovered endpoints."""
    found = document("https://as.test/r", token_endpoint="http://as.test/token")
    assert check(found, dialect(allow_http=True)).token_endpoint == "http://as.test/token"


def test_what_a_document_says_of_itself() -> None:
    """RFC 9207 support and the authentication methods are read."""
    found = document(
        "https://as.test/r",
        authorization_response_iss_parameter_supported=True,
        token_endpoint_auth_methods_supported=["client_secret_post", 7],
    )
    metadata = check(found, dialect())
    assert (metadata.iss_parameter_supported, metadata.body_credentials_only) == (True, True)
    assert not check(document("https://as.test/r"), dialect()).body_credentials_only


def test_backoff() -> None:
    """The pause is one second, doubles, and is a minute at most, however long discovery fails."""
    assert [backoff(failures) for failures in (1, 2, 3, 7, 10_000)] == [1, 2, 4, 60, 60]


class Clock:
    """A monotonic clock that is moved by hand."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_fetched_once_and_kept(serve: Serve, http: Http, answer: MakeAnswer) -> None:
    """Twenty callers cause one request, an hour passes without another, and an old document outlives failures."""
    server = await serve(b"")
    issuer = server.url
    server.steps = [answer(document(issuer)), answer(b"", 503), answer(document(issuer, revocation_endpoint=None))]
    clock = Clock()
    discovery = Discovery(dialect(issuer), http, clock)
    found = await asyncio.gather(*(discovery.metadata(1) for _ in range(20)))
    assert {metadata.token_endpoint for metadata in found} == {f"{issuer}/token"}
    clock.now += FRESH - 1
    await discovery.metadata(1)
    assert len(server.requests) == 1
    clock.now += 2
    assert (await discovery.metadata(1)).revocation_endpoint
    assert (await discovery.metadata(1)).revocation_endpoint
    assert len(server.requests) == 2
    clock.now += 1.5
    assert (await discovery.metadata(1)).revocation_endpoint is None
    assert [got.target for got in server.requests] == ["/.well-known/openid-configuration"] * 3


async def test_a_hanging_issuer_costs_little_where_an_old_document_will_do(
    serve: Serve, http: Http, answer: MakeAnswer
) -> None:
    """Fetching again takes at most half the time, so the token request can still be sent."""

    async def hang(exchange: Exchange) -> None:
        await asyncio.sleep(30)

    server = await serve(b"")
    server.steps = [answer(document(server.url)), hang]
    clock = Clock()
    discovery = Discovery(dialect(server.url), http, clock)
    await discovery.metadata(1)
    clock.now += FRESH
    asking = asyncio.create_task(discovery.metadata(1))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(discovery.metadata(1), 0.1)
    await asyncio.wait_for(asking, 0.6)


async def test_failures_back_off(serve: Serve, http: Http, answer: MakeAnswer) -> None:
    """While discovery is down requests are 1, 2, 4 … seconds apart, and it recovers by itself."""
    server = await serve(answer(b"", 503))
    clock = Clock()
    discovery = Discovery(dialect(server.url), http, clock)
    for seconds, requests in ((0, 1), (0.5, 1), (0.6, 2), (1.5, 2), (0.6, 3)):
        clock.now += seconds
        with pytest.raises(ProviderUnavailable, match="HTTP 503") as caught:
            await discovery.metadata(1)
        assert caught.value.retry_after
        assert len(server.requests) == requests
    server.steps = [answer(document(server.url))]
    clock.now += 5
    assert (await discovery.metadata(1)).token_endpoint


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b" " * 300_000, b'{"issuer":' * 3_000])
async def test_odd_documents(serve: Serve, http: Http, answer: MakeAnswer, body: bytes) -> None:
    """A body that is not a document is an error with a name, and nothing else."""
    server = await serve(answer(body))
    with pytest.raises(BrokerError):
        await Discovery(dialect(server.url), http).metadata(1)


async def test_redirect_is_not_followed(serve: Serve, http: Http, answer: MakeAnswer) -> None:
    """A redirect is not followed: only the issuer speaks for the issuer."""
    other = await serve(answer({}))
    server = await serve(answer(b"", 302, Location=other.url))
    with pytest.raises(ProviderUnavailable, match="302"):
        await Discovery(dialect(server.url), http).metadata(1)
    assert other.connections == 0


async def test_waiting_is_bounded(serve: Serve, http: Http) -> None:
    """A caller that waits behind a hanging fetch gives up in its own time; a cancelled one hands over."""

    async def hang(exchange: Exchange) -> None:
        await asyncio.sleep(30)

    server = await serve(hang)
    discovery = Discovery(dialect(server.url), http)
    first = asyncio.create_task(discovery.metadata(5))
    while not server.requests:
        await asyncio.sleep(0.01)
    with pytest.raises(ProviderUnavailable):
        await discovery.metadata(0.1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(ProviderUnavailable, match="timeout"):
        await discovery.metadata(0.1)


async def test_refresh_by_discovery(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """A refresh, a second one and a revocation use the discovered endpoints after one fetch."""
    server = await serve(b"")
    methods = ["client_secret_post"]
    server.steps = [answer(document(server.url, token_endpoint_auth_methods_supported=methods)), answer(TOKENS)]
    endpoint = endpoint_at(server.url, kind="oidc", issuer=server.url, token_endpoint=None, revocation_endpoint=None)
    for _ in range(2):
        assert isinstance(await endpoint.refresh(Secret("r1"), timeout=10), Answered)
    gone = await revoke(endpoint, access_token=None, refresh_token=Secret("r1"), timeout=10)
    assert gone.result == "revoked"
    assert [got.path for got in server.requests[1:]] == ["/token", "/token", "/revoke"]
    assert all(got.form["client_secret"] for got in server.requests[1:])
    assert (await endpoint.resolve()).authorization_endpoint == f"{server.url}/authorize"


async def test_failed_discovery_is_not_sent(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer) -> None:
    """A refresh without an endpoint to go to is not sent, and says why."""
    server = await serve(answer(document("https://other.test")))
    endpoint = endpoint_at(server.url, kind="oidc", issuer=server.url, token_endpoint=None)
    outcome = await endpoint.refresh(Secret("r1"), timeout=10)
    assert isinstance(outcome, NotSent)
    assert outcome.code == "discovery"
    assert "https://other.test" in outcome.detail
    assert server.url in outcome.detail
    with pytest.raises(InvalidSettings):
        await endpoint.resolve()


async def test_token_endpoint_from_the_settings_needs_no_discovery(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer
) -> None:
    """Endpoints from the settings work while discovery is down."""
    server = await serve(answer(TOKENS))
    endpoint = endpoint_at(server.url, kind="oidc", issuer="http://127.0.0.1:1")
    assert isinstance(await endpoint.refresh(Secret("r1"), timeout=10), Answered)


async def test_unreachable_issuer(http: Http) -> None:
    """The reason that the document is missing is shown by its code."""
    with pytest.raises(ProviderUnavailable, match="connection_refused"):
        await Discovery(dialect("http://127.0.0.1:1"), http).metadata(1)


async def test_without_discovery_everything_is_known(endpoint_at: EndpointAt) -> None:
    """Other kinds than oidc resolve to what the settings say, without a request."""
    endpoint = endpoint_at("http://127.0.0.1:1")
    assert await endpoint.resolve() is endpoint.dialect
