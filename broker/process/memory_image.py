"""Keep the memory of this process, which holds tokens, out of core dumps and away from other processes of its user."""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4
"""prctl(2): with 0 the kernel writes no core dump, and only root may attach to the process or read its memory."""


def protect() -> None:
    """Have no core dump written, whatever the system is configured to do with it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A core_pattern that is a pipe ignores the limit, but not this. Without prctl (not Linux) only the limit counts.
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
