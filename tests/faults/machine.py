"""What a machine that many share does to a process: that is no fault of its own."""

from __future__ import annotations

import contextlib
from pathlib import Path


def waited(pid: int) -> float:
    """Seconds that a process was ready to run in its life and got no CPU; 0 where the kernel does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return 0.0
