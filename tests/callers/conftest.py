"""A broker with one living grant, and a caller who may read it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.sandbox import Sandbox
from broker.secret import key_digest
from tests.conftest import RunningBroker, StartBroker

KEY = "tbk_service-key-0123456789-0123456789_abc"


@pytest.fixture
async def broker(start_broker: StartBroker, sandbox: Sandbox, tmp_path: Any) -> AsyncIterator[RunningBroker]:
    """Yield a broker whose caller `svc` may read `g*`; the admin's key is the broker's own."""
    data = tmp_path / "own"
    data.mkdir()
    (data / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
    async with start_broker(data_dir=data, callers={"svc": {"key_sha256": key_digest(KEY), "read": ["g*"]}}) as running:
        running.secrets.add(KEY)
        await running.import_("g1", "acme", sandbox.rotating.issue(scope="a b").refresh_token or "")
        yield running
