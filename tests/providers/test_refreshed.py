"""Answers of real providers to a refresh, line by line: how long token and grant live, and what is warned of.

Each line of `refreshed.ndjson` is one answer as its provider sends it. `%RT%` stands for the refresh token sent, `%AT%`
for the access token held. `want` and what follows it is what must come of it; `why` names the source.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.model import Answered, Commit
from broker.providers import Dialect, token_response
from broker.refresh import policy
from broker.secret import Secret
from broker.settings import Provider
from tests.refresh.claims import HOUR, claim

NOW = 1_796_040_000_000
"""When all of them arrive: 2026-11-30T12:00:00Z, by the server's clock too."""
SENT, HELD = Secret("rt-sent-0123456789abcdef"), Secret("at-held-0123456789abcdef")
LINES = [json.loads(line) for line in Path(__file__).with_name("refreshed.ndjson").read_text().splitlines()]


def dialect(**settings: Any) -> Dialect:
    """Return the dialect of a provider with these settings, and no others."""
    made = Provider.model_validate(
        {"kind": "oauth2", "client_id": "c", "token_endpoint": "https://as.test/token", **settings}
    )
    return Dialect.from_settings("p", made)


def decided(line: dict[str, Any]) -> Commit:
    """Return what is decided when the answer of *line* arrives, three quarters through the hour of the token held."""
    spoken = dialect(**line.get("settings", {}))
    body = line["body"].replace("%RT%", SENT.reveal()).replace("%AT%", HELD.reveal())
    outcome = token_response.read(line["status"], line["headers"], body.encode(), dialect=spoken, now=NOW, sent=(SENT,))
    assert isinstance(outcome, Answered), outcome
    leased = claim(
        refresh_token=SENT,
        access_token=HELD,
        issued_at=NOW - HOUR * 3 // 4,
        expires_at=NOW + HOUR // 4,
        granted_at=NOW - HOUR,
    )
    step = policy.decide(leased, outcome, spoken, NOW, 0.5)
    assert isinstance(step, Commit)
    return step


@pytest.mark.parametrize("line", LINES, ids=lambda line: line["id"])
def test_answer(line: dict[str, Any]) -> None:
    """The token lives as long as the answer says, the grant ends when it says, and nothing else is warned of."""
    step = decided(line)
    assert step.token is not None
    wanted = HOUR if line["expires_in"] == "default" else line["expires_in"] * 1000
    assert step.token.expires_at - NOW == wanted
    assert step.outcome == ("unchanged" if line.get("unchanged") else "refreshed")
    ends_in = line.get("reauthorize_in")
    assert step.ending.reauthorize_by == (None if ends_in is None else NOW + ends_in * 1000)
    warned = (step.detail or "").split("; ") if step.detail else []
    assert [warning.split()[0] for warning in warned] == line.get("warns", [])


@pytest.mark.parametrize("line", LINES, ids=lambda line: line["id"])
def test_next_request_comes_before_the_end(line: dict[str, Any]) -> None:
    """The next request comes while the token lives: in the window, and at half of what is left of an unchanged one."""
    step = decided(line)
    assert step.token is not None
    left = step.token.expires_at - NOW
    share = (step.refresh_at - NOW) / left
    assert share == 0.5 if line.get("unchanged") else 0.70 <= share <= 0.85


def test_no_secret_is_passed_on() -> None:
    """What stood in for the refresh token reaches neither callers nor warnings."""
    for line in LINES:
        step = decided(line)
        assert step.token is not None
        assert SENT.reveal() not in json.dumps([dict(step.token.extra), step.detail])
