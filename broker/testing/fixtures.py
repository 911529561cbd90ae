"""Fixtures for pytest: `pytest_plugins = ["broker.testing.fixtures"]` in the top-level `conftest.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from broker.testing.fake import FakeBroker

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fake_broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBroker]:
    """Run a `FakeBroker` that `Broker.from_env()` finds."""
    with FakeBroker() as fake:
        monkeypatch.delenv("TOKEN_BROKER_KEY_FILE", raising=False)
        for name, value in fake.env.items():
            monkeypatch.setenv(name, value)
        yield fake
