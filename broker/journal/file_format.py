"""The journal's file: what a line is, and how lines are appended, rewritten as a whole, and read back.

Everything here blocks, and belongs into the disk's thread. Knows nothing of batches, and nothing of what an entry's
text says.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.secret import CannotOpen

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from broker.secret import Sealer

SUFFIX = ".journal"
KEEP_MS = 600_000
"""How long an entry is kept whose commit is known to be on the store's disk: longer than a failover takes."""
KEEP_UNPROVED_MS = 7_200_000
"""How long one is kept that the store confirmed, but cannot prove to have on disk: longer than snapshots are apart."""


@dataclass(slots=True)
class Entry:
    """The last thing that must not be forgotten of one grant. *at* is epoch ms; *text* is for whoever wrote it."""

    key: str
    at: int
    text: str
    recorded: bool = False
    """The store has confirmed it."""
    durable: bool = False
    """The store is known to have it on disk, too."""
    written: bool = True
    """It is on this replica's own disk."""
    before: Entry | None = None
    """What was known of the same key before this one."""
    number: int = field(default_factory=itertools.count().__next__)
    """Orders the entries of one millisecond: the later one has the higher number."""

    def mark_recorded(self, *, durable: bool = False) -> None:
        """Note that the store has confirmed it, and whether it is known to be on the store's disk (*durable*)."""
        self.recorded = True
        self.durable = self.durable or durable

    def dispensable(self, now: int) -> bool:
        """Return whether it may be dropped at *now* (epoch ms)."""
        return self.recorded and self.at < now - (KEEP_MS if self.durable else KEEP_UNPROVED_MS)


def line_of(entry: Entry, sealer: Sealer) -> bytes:
    """Return *entry* as a line of the file: `at key text`, sealed and in base64."""
    sealed = sealer.seal(f"{entry.at} {entry.key} {entry.text}", "journal", purpose="journal")
    return base64.b64encode(sealed) + b"\n"


def read_entries(path: Path, sealer: Sealer) -> tuple[list[Entry], bool]:
    """Read a file. A torn last line is what a crash leaves, and no error.

    Returns:
        The entries in the order they were written, and whether every whole line could be opened.
    """
    lines, entries, whole = path.read_bytes().split(b"\n"), [], True
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            at, key, text = sealer.open(base64.b64decode(line), "journal", purpose="journal").split(" ", 2)
            entries.append(Entry(key, int(at), text))
        except (CannotOpen, ValueError):
            whole = whole and number == len(lines)
    return entries, whole


def lock_abandoned(directory: Path) -> list[tuple[Path, int]]:
    """Lock the files whose owners are gone.

    Returns:
        Each with its locked descriptor, ordered by name.
    """
    return [(path, lock) for path in sorted(directory.glob(f"*{SUFFIX}")) if (lock := _lock(path)) >= 0]


class JournalFile:
    """The file of this replica: locked as long as it is open. Every method raises `OSError`."""

    def __init__(self, directory: Path, life: str, sealer: Sealer) -> None:
        """*life* is the id of this process; the file is named after it. `rewrite` makes it."""
        self._directory = directory
        self._path = directory / f"{life}{SUFFIX}"
        self._sealer = sealer
        self._descriptor = -1
        self._directory_unsynced = False
        self.size = 0
        """Bytes in the file."""
        self.rewritten_size = 0
        """Bytes in the file when it was rewritten last."""

    def append(self, lines: bytes) -> None:
        """Append *lines* and sync them. After a failure nothing of them is in the file."""
        if self._directory_unsynced:
            self._sync_directory()
        written = 0
        try:
            while written < len(lines):
                written += os.write(self._descriptor, lines[written:])
            os.fdatasync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)  # half a line in the middle would spoil the next
            raise
        self.size += len(lines)

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """Write *entries* into a new file, sync it, and put it in place of the old one."""
        lines = b"".join(line_of(entry, self._sealer) for entry in entries)
        aside = self._path.with_suffix(".new")  # the path has the random id of this process
        aside.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND | os.O_CLOEXEC
        fresh = os.open(aside, flags, 0o600)
        try:
            fcntl.flock(fresh, fcntl.LOCK_EX | fcntl.LOCK_NB)
            view = memoryview(lines)
            while view:
                view = view[os.write(fresh, view) :]
            os.fsync(fresh)
            aside.replace(self._path)
        except OSError:
            os.close(fresh)
            aside.unlink(missing_ok=True)
            raise
        old, self._descriptor = self._descriptor, fresh
        self.size = self.rewritten_size = len(lines)
        if old >= 0:
            os.close(old)
        self._directory_unsynced = True  # until then a crash may bring the old file's name back
        self._sync_directory()

    def remove_other(self, life: str) -> None:
        """Remove the file of another process, that of *life*, if it is there."""
        (self._directory / f"{life}{SUFFIX}").unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, which stays where it is, and unlock it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._directory_unsynced = False


def release(files: Sequence[tuple[Path, int]]) -> None:
    """Unlock what `lock_abandoned` locked."""
    for _, lock in files:
        os.close(lock)


def _lock(path: Path) -> int:
    """Return the locked descriptor of a file whose owner is gone, or -1 if the owner lives."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return -1
