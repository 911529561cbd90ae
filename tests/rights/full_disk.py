"""A disk that is full at will, for the audit stream of a broker in this process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from broker.process import audit_room

FULL = OSError(errno.ENOSPC, "No space left on device")


class FullDisk:
    """A disk without room for one file, but for what was reserved for it before."""

    def __init__(self, patch: pytest.MonkeyPatch, path: Path) -> None:
        self._is_full = False
        self._reserved = 0
        write = os.write

        def refusing(descriptor: int, data: bytes) -> int:
            is_it = self._is_full and Path(f"/proc/self/fd/{descriptor}").readlink() == path
            if is_it and os.fstat(descriptor).st_size + len(data) > self._reserved:
                raise FULL
            return write(descriptor, data)

        def reserve(_descriptor: int, offset: int, length: int) -> None:
            if self._is_full:
                raise FULL
            self._reserved = offset + length

        patch.setattr(os, "write", refusing)
        patch.setattr(audit_room, "reserve", reserve)

    def fill(self) -> None:
        """Leave no room, but for what is reserved."""
        self._is_full = True

    def make_room(self) -> None:
        """Give it back."""
        self._is_full = False
