"""A journal on disk under a clock that is set by hand, and its heirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.journal.journal import Journal
from broker.secret import Sealer

if TYPE_CHECKING:
    from pathlib import Path


def texts(journal: Journal) -> list[str]:
    """Return what a journal would tell."""
    return [entry.text for entry in journal.entries()]


async def heir_of(directory: Path, sealer: Sealer, clock: Now) -> Journal:
    """Return a replica that starts in the directory, with the right keys."""
    journal = await Journal.open(directory, sealer, clock)
    await journal.adopt()
    return journal


class Now:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms
