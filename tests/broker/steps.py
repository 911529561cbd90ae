"""Steps that tests of whole brokers take."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.sandbox import Sandbox
    from tests.conftest import RunningBroker


async def imported(broker: RunningBroker, sandbox: Sandbox, *names: str) -> None:
    """Grants with a first token."""
    for name in names:
        await broker.import_(name, "acme", sandbox.rotating.issue().refresh_token or "")
