"""Read responses of a token endpoint as they arrived at one moment, in one dialect or another."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from broker.model import Answered, GrantLife, Outcome, TokenResponse
from broker.providers import token_response
from broker.providers.dialects import Dialect
from broker.secret import Secret
from broker.settings import Provider

NOW = 1_800_000_000_000
SENT = (Secret("r1-sent-refresh-token"), Secret("client-secret"))
OAUTH2 = Dialect.from_settings("acme", Provider(kind="oauth2", client_id="id", token_endpoint="https://as.test/token"))
V3 = Dialect.from_settings("v3", Provider(kind="een-v3", client_id="id"))
TOKENS = {"access_token": "a2", "refresh_token": "r2-new-refresh-token", "expires_in": 3600}


def read(
    body: bytes | dict[str, Any] | list[Any] | None,
    status: int = 200,
    dialect: Dialect = OAUTH2,
    fault: str | None = None,
    headers: dict[str, str] | None = None,
) -> Outcome:
    """Read *body* as a response that arrived at NOW."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    return token_response.read(status, headers or {}, data, dialect=dialect, now=NOW, sent=SENT, fault=fault)


def answered(body: bytes | dict[str, Any], **more: Any) -> TokenResponse:
    """Read *body* as a success."""
    outcome = read(body, **more)
    assert isinstance(outcome, Answered), outcome
    return outcome.answer


def strict(outcome: Outcome) -> str:
    """Return the outcome as strict JSON in UTF-8, as `api` and pub/sub write it."""

    def plain(value: object) -> object:
        if isinstance(value, GrantLife):
            return dataclasses.asdict(value)
        return value.reveal().encode("utf-8", "surrogatepass").hex() if isinstance(value, Secret) else value

    read = outcome.answer if isinstance(outcome, Answered) else outcome
    shown = {field.name: getattr(read, field.name) for field in dataclasses.fields(read)}
    text = json.dumps(shown, allow_nan=False, ensure_ascii=False, default=plain)
    text.encode()
    json.loads(text, parse_constant=pytest.fail)
    return text
