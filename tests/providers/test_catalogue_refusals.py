"""What the providers of the catalogue say when they refuse, and what it means: the words in their files fit."""

from __future__ import annotations

from typing import Any

import pytest

from broker.model import Busy, InvalidClient, InvalidGrant, Outcome, Rejected, Unknown
from broker.providers.dialects import Dialect
from broker.settings import Provider, catalogue

from .reading import read

KINDS = sorted(set(catalogue.names()) - {"oauth2", "oidc"})
BARE_STATUS = {"een-v3": 401, "reddit": 400}
"""Kinds that refuse a dead token without a code, and the status that says so."""
DEAD: list[tuple[str, int, dict[str, Any]]] = [
    ("atlassian", 403, {"error": "unauthorized_client", "error_description": "refresh_token is invalid"}),
    ("basecamp", 400, {"error": "authorization_expired"}),
    ("docusign", 400, {"error": "invalid_grant", "error_description": "expired_client_token"}),
    ("entra", 400, {"error": "interaction_required", "error_description": "AADSTS50076: Due to a change …"}),
    ("exact-online", 401, {"error": "unauthorized_client", "error_description": "Old refresh token used."}),
    (
        "exact-online",
        400,
        {"error": "invalid_request", "error_description": "The refresh token expired at 10/11/2022 9:18"},
    ),
    ("fitbit", 400, {"errors": [{"errorType": "invalid_grant", "message": "Refresh token invalid"}], "success": False}),
    ("github-app", 200, {"error": "bad_refresh_token"}),
    ("hubspot", 400, {"status": "BAD_REFRESH_TOKEN", "message": "missing or invalid refresh token"}),
    (
        "linkedin",
        400,
        {
            "error": "invalid_request",
            "error_description": "The provided authorization grant or refresh token is invalid, expired or revoked.",
        },
    ),
    ("reddit", 400, {"message": "Bad Request", "error": 400}),
    ("salesforce", 400, {"error": "invalid_grant", "error_description": "expired access/refresh token"}),
    ("slack", 200, {"ok": False, "error": "invalid_refresh_token"}),
    ("slack-user", 200, {"ok": False, "error": "token_revoked"}),
    ("square", 401, {"message": "Invalid refresh token", "type": "service.not_authorized"}),
    (
        "strava",
        400,
        {
            "message": "Bad Request",
            "errors": [{"resource": "RefreshToken", "field": "refresh_token", "code": "invalid"}],
        },
    ),
    ("twitch", 400, {"error": "Bad Request", "status": 400, "message": "Invalid refresh token"}),
    ("x", 400, {"error": "invalid_request", "error_description": "Value passed for the token was invalid."}),
    ("zoho", 200, {"error": "invalid_code"}),
    ("zoom", 400, {"reason": "Invalid Token!", "error": "invalid_request"}),
]
BUSY: list[tuple[str, int, dict[str, Any]]] = [
    (
        "exact-online",
        400,
        {"error": "access_denied", "error_description": "Rate limit exceeded: access_token not expired"},
    ),
    ("google", 400, {"error": "internal_failure"}),
    ("notion", 429, {"object": "error", "status": 429, "code": "rate_limited"}),
    ("salesforce", 400, {"error": "invalid_grant", "error_description": "token request is already being processed"}),
    ("salesforce", 400, {"error": "unknown_error", "error_description": "retry your request"}),
    ("slack", 200, {"ok": False, "error": "internal_error"}),
    (
        "strava",
        429,
        {
            "message": "Rate Limit Exceeded",
            "errors": [{"resource": "Application", "field": "rate limit", "code": "exceeded"}],
        },
    ),
    ("zoho", 200, {"error": "Access Denied"}),
    ("zoho", 400, {"error": "Access Denied", "error_description": "You have made too many requests continuously."}),
]
REGISTRATION: list[tuple[str, int, dict[str, Any]]] = [
    ("atlassian", 401, {"error": "access_denied", "error_description": "Unauthorized"}),
    ("auth0", 401, {"error": "access_denied", "error_description": "Unauthorized"}),
    ("fitbit", 401, {"errors": [{"errorType": "invalid_client", "message": "Invalid authorization header"}]}),
    ("github-app", 200, {"error": "incorrect_client_credentials"}),
    ("hubspot", 400, {"status": "BAD_CLIENT_SECRET", "message": "missing or invalid client secret"}),
    (
        "keycloak",
        401,
        {"error": "unauthorized_client", "error_description": "Invalid client or Invalid client credentials"},
    ),
    ("salesforce", 400, {"error": "invalid_client", "error_description": "invalid client credentials"}),
    ("slack", 200, {"ok": False, "error": "bad_client_secret"}),
    ("square", 401, {"message": "Not Authorized", "type": "service.not_authorized"}),
    (
        "strava",
        401,
        {"message": "Authorization Error", "errors": [{"resource": "Application", "field": "", "code": "invalid"}]},
    ),
    (
        "stripe-apps",
        401,
        {"error": {"type": "invalid_request_error", "message": "Invalid API Key provided: sk_live_***"}},
    ),
    ("twitch", 403, {"status": 403, "message": "invalid client secret"}),
    ("x", 401, {"error": "unauthorized_client", "error_description": "Missing valid authorization header"}),
    ("zoho", 200, {"error": "invalid_client"}),
]


def _dialect(kind: str) -> Dialect:
    examples = {name: template.example for name, template in catalogue.load(kind).templates.items()}
    given = {"kind": kind, "client_id": "id", "client_secret": "secret", "parameters": examples or None}
    return Dialect.from_settings("acme", Provider.model_validate(given))


def _read(kind: str, status: int, body: dict[str, Any] | bytes) -> Outcome:
    return read(body, status, _dialect(kind))


@pytest.mark.parametrize(("kind", "status", "body"), DEAD)
def test_a_dead_token_is_seen(kind: str, status: int, body: dict[str, Any]) -> None:
    """The provider's own words end the grant; a status alone does so only by evidence."""
    outcome = _read(kind, status, body)
    assert isinstance(outcome, InvalidGrant)
    assert outcome.sure == (kind not in BARE_STATUS)


@pytest.mark.parametrize(("kind", "status", "body"), BUSY)
def test_a_busy_minute_is_seen(kind: str, status: int, body: dict[str, Any]) -> None:
    """A provider that asks for patience is asked again, whatever the code beside it says."""
    assert isinstance(_read(kind, status, body), Busy)


@pytest.mark.parametrize(("kind", "status", "body"), REGISTRATION)
def test_a_wrong_secret_is_seen(kind: str, status: int, body: dict[str, Any]) -> None:
    """A refusal of the client ends no grant."""
    assert isinstance(_read(kind, status, body), InvalidClient)


@pytest.mark.parametrize("kind", KINDS)
def test_the_standard_holds_everywhere(kind: str) -> None:
    """Words of a kind change nothing of what RFC 6749 says, and of what nobody said."""
    assert isinstance(_read(kind, 400, {"error": "invalid_grant"}), InvalidGrant)
    assert isinstance(_read(kind, 401, {"error": "invalid_client"}), InvalidClient)
    assert isinstance(_read(kind, 429, {"error": "invalid_grant"}), Busy)
    assert isinstance(_read(kind, 500, {"error": "invalid_grant"}), Unknown)
    assert isinstance(_read(kind, 403, b"<html><h1>403 Forbidden</h1></html>"), Rejected)
    unclear = _read(kind, 400, {"error": "invalid_request", "error_description": "a parameter is missing"})
    if BARE_STATUS.get(kind) == 400:
        assert isinstance(unclear, InvalidGrant)
        assert not unclear.sure
    else:
        assert isinstance(unclear, Rejected)
