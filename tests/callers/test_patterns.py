"""A caller's rights cover what its patterns match, as long as its key is in the settings."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest
from aiohttp.test_utils import make_mocked_request

from broker.api.callers import Callers
from broker.api.routes.client_credentials import RequestRefused, authenticate_client
from broker.secret import key_digest
from broker.settings import Caller as CallerSettings

if TYPE_CHECKING:
    from pathlib import Path

KEY = "tbk_service-key-0123456789-0123456789_abc"


def callers(folder: Path, *patterns: str) -> Callers:
    """Return the callers of settings in which one caller may read these patterns."""
    settings = {"svc": CallerSettings(key_sha256=key_digest(KEY), read=list(patterns))}
    return Callers.load(settings, folder)


@pytest.mark.parametrize(
    ("pattern", "grant_id", "may"),
    [
        ("acme-1", "acme-1", True),
        ("acme-1", "acme-10", False),
        ("acme-1", "my-acme-1", False),
        ("acme-*", "acme-1", True),
        ("acme-*", "not-acme-1", False),
        ("*-acme", "one-acme", True),
        ("*-acme", "one-acme-2", False),
        ("site-?", "site-1", True),
        ("site-?", "site-12", False),
        ("a.b", "a.b", True),
        ("a.b", "axb", False),
    ],
)
def test_a_pattern_is_of_the_whole_id(tmp_path: Path, pattern: str, grant_id: str, may: bool) -> None:
    """A pattern, alone or among several, must match the whole grant id; an id that only contains it is not covered."""
    for patterns in ((pattern,), ("x", pattern, "y")):
        caller = callers(tmp_path, *patterns).identify(None, KEY)
        assert caller.may("read", grant_id) == may
        assert not caller.may("refresh", grant_id)
        assert not caller.may("admin", grant_id)


def test_a_key_that_was_taken_away_is_not_remembered(tmp_path: Path) -> None:
    """A client that repeats a request is refused once its key is no longer in the settings."""
    known = callers(tmp_path, "g*")
    basic = "Basic " + b64encode(f"svc:{KEY}".encode()).decode()
    body = b"grant_type=client_credentials&scope=grant%3Ag1"
    headers = {"Authorization": basic, "Content-Type": "application/x-www-form-urlencoded"}
    request = make_mocked_request("POST", "/oauth2/token", headers=headers)
    for _ in range(2):
        assert authenticate_client(known, request, body)[1] == "g1"
    known.replace(Callers.load({}, tmp_path))
    with pytest.raises(RequestRefused) as refused:
        authenticate_client(known, request, body)
    assert refused.value.code == "invalid_client"
