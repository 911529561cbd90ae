"""Open the journal that the settings ask for."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from broker.journal.journal import Journal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.secret import Sealer
    from broker.settings import Settings
    from broker.store import Store

log = structlog.get_logger()


@asynccontextmanager
async def open_journal(settings: Settings, sealer: Sealer, store: Store) -> AsyncIterator[Journal | None]:
    """Open the journal; None where the settings want none."""
    if not settings.refresh.journal:
        log.warning(
            "journal.off", hint="an answer that Redis loses is lost: refresh.journal = true writes it down first"
        )
        yield None
        return
    journal = await Journal.open(settings.data_dir / "journal", sealer, store.clock, store.schedule.life)
    try:
        yield journal
    finally:
        await journal.close()
