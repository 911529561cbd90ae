"""OpenID Connect at the first try: a server that keeps to the letter, and the words where it gives no refresh token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.sandbox import BrowserError, walk_login, walk_to_redirect
from tests.broker.logins import start
from tests.conftest import provider_settings
from tests.steps import assert_sound, log_in

if TYPE_CHECKING:
    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker, StartBroker


async def test_first_login_at_a_server_to_the_letter(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Where offline_access counts only with prompt=consent, the default settings bring a refresh token."""
    sandbox.rotating.options.offline_by_consent = True
    await log_in(broker, "g1", "acme")
    assert (await broker.token("g1"))["scope"] == "openid offline_access"
    await assert_sound(broker, sandbox, ("g1", "acme"))


async def test_dropped_scope_is_named_with_its_cure(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """Without prompt=consent the page, the login's state and the pasted way say what was dropped and what to set."""
    sandbox.rotating.options.offline_by_consent = True
    providers = provider_settings(sandbox)
    providers["acme"]["authorization_params"] = {"prompt": ""}
    words = "granted scope: openid; dropped: offline_access): remove prompt from authorization_params"
    async with start_broker(providers=providers) as broker:
        started = await start(broker, "g1", "acme")
        with pytest.raises(BrowserError) as failed:
            await walk_login(started["login_url"])
        assert (failed.value.status, words in failed.value.text) == (502, True)
        login = await broker.get(f"/v1/grants/g1/login/{started['ticket']}")
        assert login["error"] == "no_refresh_token"
        assert words in login["error_description"]

        started = await start(broker, "g1", "acme")
        redirected = await walk_to_redirect(started["authorization_url"], broker.settings.redirect_uri)
        body = {"redirected_to": redirected, "state": started["state"]}
        status, answer, _ = await broker.ask("POST", "/v1/grants/g1/login/complete", json=body)
        assert (status, words in answer["error_description"]) == (502, True)
        assert (await broker.ask("GET", "/v1/grants/g1"))[0] == 404
