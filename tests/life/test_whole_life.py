"""One grant's whole life, for each dialect: log in, refresh again and again, serve, publish, log out."""

from __future__ import annotations

import pytest

from broker.sandbox import Sandbox, walk_login
from tests.conftest import RunningBroker


async def log_in(broker: RunningBroker, grant: str, provider: str) -> str:
    """Walk through a login as a person would; the last page's text."""
    status, started, _ = await broker.ask("POST", f"/v1/grants/{grant}/login", json={"provider": provider})
    assert status == 200, started
    return await walk_login(started["login_url"])


@pytest.mark.parametrize("provider", ["cameramanager", "een", "acme"])
async def test_login_brings_a_token(broker: RunningBroker, sandbox: Sandbox, provider: str) -> None:
    """After one login through the provider's pages the broker serves a live token."""
    page = await log_in(broker, "g1", provider)
    assert "Logged in" in page
    token = await broker.token("g1")
    authority = {"cameramanager": sandbox.cameramanager, "een": sandbox.v3, "acme": sandbox.rotating}[provider]
    assert authority.is_live_access(token["access_token"])
    assert "refresh_token" not in token
    assert "id_token" not in token
