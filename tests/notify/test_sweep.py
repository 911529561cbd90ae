"""What the sweep does with hints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from unittest.mock import AsyncMock

from broker.errors import StoreUnavailable
from broker.notify import scanner
from broker.process.heartbeat import Heartbeat

if TYPE_CHECKING:
    import pytest


async def test_what_is_heard_while_others_are_brought_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints that come during a step are brought by the next one; those of a step that failed, again."""
    brought: list[set[str]] = []
    swept = scanner.Scanner(cast("Any", None), {}, [], Heartbeat("sweep"))

    async def bring(subjects: set[str]) -> None:
        brought.append(subjects)
        if len(brought) < 3:
            swept.hint(f"meanwhile {len(brought)}")
        if len(brought) == 1:
            raise StoreUnavailable("away")

    monkeypatch.setattr(swept, "_bring", bring)
    monkeypatch.setattr(swept, "_page", AsyncMock())
    monkeypatch.setattr(scanner, "_PAUSE", 0.01)
    swept.hint("first")
    for _ in range(4):
        await swept.step()
    assert brought == [{"grant/first"}, {"grant/first", "grant/meanwhile 1"}, {"grant/meanwhile 2"}, set()]
