"""Garbage collection: how seldom Python looks for cycles in a process that makes few."""

from __future__ import annotations

import gc

THRESHOLD = 10_000
"""GC threshold: allocations between collections. A burst of refreshes leaves few cycles, and with the default of 700
every seventh refresh would pay for a collection: 1.26 times the CPU
(`python -m tests.benchmarks.tricks garbage-collection`)."""


def collect_less() -> None:
    """Collect once, exempt what was made so far, and collect seldom from now on. For the end of a start."""
    gc.collect()
    gc.freeze()  # what was made so far lives as long as the process: no collection needs to look at it again
    gc.set_threshold(THRESHOLD)
