"""Issuers: equal to the letter, except for the document of many tenants that Microsoft Entra ID publishes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import InvalidRequest, InvalidSettings
from broker.providers import Endpoint, check_issuer
from broker.providers.issuers import is_document_of, issuer_matches

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.scripted_server import ScriptedServer

    Serve = Callable[..., Awaitable[ScriptedServer]]
    MakeAnswer = Callable[..., bytes]
    EndpointAt = Callable[..., Endpoint]

HOST = "https://login.microsoftonline.com"
MANY = f"{HOST}/{{tenantid}}/v2.0"
TENANT = "b9419818-09af-49c2-b0c3-653adc1f376e"
PERSONAL = "9188040d-6c67-4c5b-b112-36a304b66dad"


@pytest.mark.parametrize(
    ("documented", "configured", "accepted"),
    [
        ("https://as.test", "https://as.test", True),
        ("https://as.test", "https://as.test/", False),
        (MANY, f"{HOST}/common/v2.0", True),
        (MANY, f"{HOST}/organizations/v2.0", True),
        (MANY, f"{HOST}/consumers/v2.0", True),
        (f"{HOST}/{PERSONAL}/v2.0", f"{HOST}/consumers/v2.0", True),
        (f"{HOST}/{TENANT}/v2.0", f"{HOST}/consumers/v2.0", False),
        (f"{HOST}/{TENANT}/v2.0", f"{HOST}/common/v2.0", False),
        (f"{HOST}/{TENANT}/v2.0", f"{HOST}/acme.onmicrosoft.com/v2.0", False),
        (MANY, f"{HOST}/{TENANT}/v2.0", False),
        (MANY, f"{HOST}/common", False),
        (MANY, f"{HOST}/common/v2.0/", False),
        (MANY, f"{HOST}//v2.0", False),
        (MANY, f"{HOST}/common/evil/v2.0", False),
        (MANY, "https://login.microsoftonline.us/common/v2.0", False),
        ("https://sts.windows.net/{tenantid}/", f"{HOST}/common/v2.0", False),
        ("{tenantid}", "common", True),
        ("", "", True),
    ],
)
def test_which_document_belongs_to_an_issuer(documented: str, configured: str, accepted: bool) -> None:
    """Only the shared names of tenants stand for `{tenantid}`, and everything around it is equal."""
    assert is_document_of(documented, configured) is accepted


@pytest.mark.parametrize(
    ("documented", "wanted", "tid", "accepted"),
    [
        ("https://as.test", "https://as.test", None, True),
        ("https://as.test", "https://as.test", TENANT, True),
        ("https://as.test", "https://evil.test", None, False),
        (MANY, f"{HOST}/{TENANT}/v2.0", None, True),
        (MANY, f"{HOST}/{TENANT}/v2.0", TENANT, True),
        (MANY, f"{HOST}/{TENANT}/v2.0", PERSONAL, False),
        (MANY, f"{HOST}/{TENANT}/v2.0", "", False),
        (MANY, f"{HOST}/common/v2.0", None, False),
        (MANY, f"{HOST}/common/v2.0", "common", False),
        (MANY, MANY, None, False),
        (MANY, f"https://evil.test/{TENANT}/v2.0", TENANT, False),
        (MANY, f"{HOST}/{TENANT}/v2.0/x", None, False),
        (f"{HOST}/{PERSONAL}/v2.0", f"{HOST}/{PERSONAL}/v2.0", PERSONAL, True),
    ],
)
def test_which_iss_is_that_of_a_document(documented: str, wanted: str, tid: str | None, accepted: bool) -> None:
    """A document of many tenants fits the tenant that the id_token names, and in a callback any tenant's id."""
    assert issuer_matches(documented, wanted, tid) is accepted


def _document(issuer: str, base: str, **more: Any) -> dict[str, Any]:
    endpoints = {name: f"{base}/{name}" for name in ("authorization_endpoint", "token_endpoint")}
    return {"issuer": issuer, **endpoints, **more}


@pytest.mark.parametrize("tenant", ["common", "organizations", "consumers"])
async def test_document_of_many_tenants(serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer, tenant: str) -> None:
    """Discovery accepts `{tenantid}`, and the `iss` of a callback may be that of any tenant, and of nobody else."""
    server = await serve(b"")
    server.steps = [answer(_document(f"{server.url}/{{tenantid}}/v2.0", server.url))]
    endpoint = endpoint_at(server.url, kind="oidc", issuer=f"{server.url}/{tenant}/v2.0", token_endpoint=None)
    dialect = await endpoint.resolve()
    assert dialect.token_endpoint == f"{server.url}/token_endpoint"
    check_issuer(dialect, f"{server.url}/{TENANT}/v2.0", required=True)
    for foreign in (f"https://evil.test/{TENANT}/v2.0", f"{server.url}/evil/v2.0", ""):
        with pytest.raises(InvalidRequest, match="issuer"):
            check_issuer(dialect, foreign, required=True)


async def test_pinned_tenant_takes_no_document_of_many(
    serve: Serve, endpoint_at: EndpointAt, answer: MakeAnswer
) -> None:
    """Settings that name one tenant by its id are not widened by a document."""
    server = await serve(b"")
    server.steps = [answer(_document(f"{server.url}/{{tenantid}}/v2.0", server.url))]
    endpoint = endpoint_at(server.url, kind="oidc", issuer=f"{server.url}/{TENANT}/v2.0", token_endpoint=None)
    with pytest.raises(InvalidSettings, match="equal in every character"):
        await endpoint.resolve()
