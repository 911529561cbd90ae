"""One claimed grant, against the real sandbox: when a token request may still be sent."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from broker.model import Answered, NotSent
from broker.process.metrics import Metrics
from broker.providers import Endpoint, open_http
from broker.refresh.refresher import Refresher
from broker.secret import Secret
from broker.settings import LEASE_MARGIN, Provider
from tests.conftest import provider_settings
from tests.refresh.claims import claim

if TYPE_CHECKING:
    from broker.sandbox import Sandbox

TIMEOUT = 1.0


@pytest.mark.parametrize("left", [-1.0, 0.02, 0.5, 0.95])
async def test_nothing_is_sent_without_time_for_its_answer(sandbox: Sandbox, left: float) -> None:
    """A request whose answer could come after the lease is not sent: its token would be spent, its answer lost."""
    outcome = await _asked(sandbox, left)
    assert isinstance(outcome, NotSent)
    assert outcome.code == "too_late"
    assert sandbox.rotating.token_requests == []


async def test_with_time_for_a_whole_request_it_is_sent(sandbox: Sandbox) -> None:
    """With the request's whole time left before the margin, it is sent."""
    assert isinstance(await _asked(sandbox, TIMEOUT + 2), Answered)


async def _asked(sandbox: Sandbox, left: float) -> Any:
    """Return what asking comes to with *left* seconds until the margin before the lease's end."""
    sandbox.rotating.options.latency = 0.05
    token = sandbox.rotating.issue().refresh_token or ""
    provider = Provider(**provider_settings(sandbox)["acme"])
    async with open_http(TIMEOUT) as http:
        endpoint = Endpoint.from_settings("acme", provider, http, clock=lambda: 1_800_000_000_000)
        await endpoint.resolve()
        nothing = cast("Any", None)
        refresher = Refresher(
            nothing,
            cache=nothing,
            recorder=nothing,
            history=nothing,
            metrics=Metrics(),
            request_timeout=TIMEOUT,
        )
        ends = time.monotonic() + LEASE_MARGIN.total_seconds() + left
        made = replace(claim(), provider="acme", refresh_token=Secret(token), lease_ends=ends)
        return await refresher._request(made, endpoint)
