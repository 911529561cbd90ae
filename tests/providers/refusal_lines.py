"""Answers of token endpoints to a refresh that bring no token, each with what it must lead to: `refusals.ndjson`.

A line has the settings of the provider, the answer (`%RT%` stands for the refresh token that was sent), what other
grants of the provider met meanwhile (`context`), and what must come of it (`want`): `dead`, `busy`, `registration` (the
provider is suspended), `rejected` (parked with its code) or `retry` (tried again like a server's bad minute).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.model import Outcome
from broker.providers import token_response
from broker.providers.dialects import Dialect
from broker.secret import Secret
from broker.settings import Provider

NOW = 1_796_040_000_000
# Codes that mean the same at every provider, as OAuth 2.0, OpenID Connect and the providers themselves list them.
DEAD = [
    "invalid_grant",
    "interaction_required",
    "login_required",
    "consent_required",
    "account_selection_required",
    "bad_refresh_token",
    "invalid_refresh_token",
    "token_revoked",
    "token_expired",
    "authorization_expired",
    "refresh_token_reused",
]
BUSY = [
    "temporarily_unavailable",
    "slow_down",
    "server_error",
    "internal_error",
    "internal_failure",
    "service_unavailable",
    "rate_limit_exceeded",
    "ratelimited",
    "fatal_error",
]
REFRESH_TOKEN = "rt-0123456789abcdef-sent"


@dataclass(frozen=True)
class Line:
    """One line of the file."""

    id: str
    status: int
    headers: dict[str, str]
    body: str
    context: str
    want: str
    dialect: Dialect

    def read(self) -> Outcome:
        """Return what the answer means to the broker."""
        body = self.body.replace("%RT%", REFRESH_TOKEN).encode()
        sent = (Secret(REFRESH_TOKEN), Secret("client-secret-0123456789"))
        return token_response.read(self.status, self.headers, body, dialect=self.dialect, now=NOW, sent=sent)


def _line(row: dict[str, Any]) -> Line:
    kind = row.get("kind", "oauth2")
    given = {"token_endpoint": "https://as.test/token"} if kind == "oauth2" else {}
    provider = Provider(kind=kind, client_id="id", **given, **row.get("settings", {}))
    fields = {name: row[name] for name in ("id", "status", "headers", "body", "context", "want")}
    return Line(**fields, dialect=Dialect.from_settings("p", provider))


LINES = [_line(json.loads(text)) for text in Path(__file__).with_name("refusals.ndjson").read_text().splitlines()]
