"""A broker with one caller for each right, and some whose rights keep to a provider."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.sandbox import Sandbox
from broker.secret import key_digest
from tests.conftest import RunningBroker, StartBroker

ADMIN_KEY = "admin-key-0123456789-0123456789-0123456789"
PATTERNS = {"read": ["g*"], "refresh": ["g*"], "view": ["g*"], "login": ["g*"], "admin": ["g*"]}
CALLERS: dict[str, dict[str, Any]] = {
    **{right: {right: patterns} for right, patterns in PATTERNS.items()},
    "nothing": {},
    "een": {"read": ["*"], "refresh": ["*"], "admin": ["*"], "providers": ["ee?"]},
    "all": {"read": ["*"], "refresh": ["*"], "admin": ["*"]},
}


def key_of(caller: str) -> str:
    """Return the key of a caller."""
    return f"{caller}-key-0123456789-0123456789-0123456789-0123456789"


def as_(caller: str, **headers: str) -> dict[str, str]:
    """Return the headers of a caller's request."""
    return {"X-Broker-Key": key_of(caller), **headers}


def with_keys(callers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the settings of callers, each with its key."""
    return {name: {"key_sha256": key_digest(key_of(name)), **rights} for name, rights in callers.items()}


StartRights = Callable[..., AbstractAsyncContextManager[RunningBroker]]


@pytest.fixture
def start_rights(start_broker: StartBroker, tmp_path: Path) -> StartRights:
    """Brokers with the admin of the first start and other callers, whose keys are no secrets of a log."""

    @asynccontextmanager
    async def start(callers: dict[str, dict[str, Any]], **tables: Any) -> AsyncIterator[RunningBroker]:
        data = tmp_path / "rights"
        data.mkdir(exist_ok=True)
        (data / "admin.key").write_text(f"{ADMIN_KEY}\n")
        async with start_broker(data_dir=data, callers=with_keys(callers), **tables) as running:
            running.secrets |= {key_of(name) for name in callers}
            yield running

    return start


@pytest.fixture
def audit_file(tmp_path: Path) -> Path:
    """Return where the audit stream goes."""
    return tmp_path / "audit.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the events in a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
async def broker(start_rights: StartRights, sandbox: Sandbox, audit_file: Path) -> AsyncIterator[RunningBroker]:
    """Yield a broker with the grant g1 at acme, and an audit stream."""
    async with start_rights(CALLERS, refresh={"import_spread": "10h"}, audit={"file": str(audit_file)}) as running:
        await running.import_("g1", "acme", sandbox.rotating.issue().refresh_token or "")
        yield running


async def counted(broker: RunningBroker, name: str) -> float:
    """Return the value of a line of /metrics."""
    text = (await broker.get("/metrics"))["text"]
    return next(float(row.rpartition(" ")[2]) for row in text.splitlines() if row.rpartition(" ")[0] == name)


async def denied(broker: RunningBroker, reason: str) -> float:
    """Return how many requests were denied for a reason."""
    return await counted(broker, f'token_broker_denied_total{{reason="{reason}"}}')
