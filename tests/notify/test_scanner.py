"""How the scanner handles reported grants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from unittest.mock import AsyncMock

from broker.errors import StoreUnavailable
from broker.notify import scanner
from broker.process.heartbeat import Heartbeat

if TYPE_CHECKING:
    import pytest


async def test_what_is_reported_during_a_step_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grants reported during a step are enqueued by the next one; those of a failed step again."""
    enqueued: list[set[str]] = []
    made = scanner.Scanner(cast("Any", None), {}, [], Heartbeat("scanner"))

    async def enqueue(subjects: set[str]) -> None:
        enqueued.append(subjects)
        if len(enqueued) < 3:
            made.check_soon(f"meanwhile {len(enqueued)}")
        if len(enqueued) == 1:
            raise StoreUnavailable("away")

    monkeypatch.setattr(made, "_enqueue", enqueue)
    monkeypatch.setattr(made, "_scan_page", AsyncMock())
    monkeypatch.setattr(scanner, "_PAUSE", 0.01)
    made.check_soon("first")
    for _ in range(4):
        await made.step()
    assert enqueued == [{"grant/first"}, {"grant/first", "grant/meanwhile 1"}, {"grant/meanwhile 2"}, set()]
