"""What facts about files mean. Pure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from broker.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.check.disk import DiskFacts, FileFacts

LITTLE = 64 * 1024 * 1024
"""Bytes: less than this under the journal is warned of."""
SLOW_MS = 100.0
_OTHERS = 0o007
_WRITTEN_BY_OTHERS = 0o022


def of_secret(file: FileFacts) -> Iterator[Finding]:
    """A file with a secret: others must not read it. A group may: that is how secrets are mounted."""
    if file.mode & _OTHERS or file.mode & _WRITTEN_BY_OTHERS:
        does = "read" if file.mode & 0o004 else "reached"
        yield Finding(
            "warning",
            str(file.path),
            f"{file.key}: mode {file.mode:04o}, uid {file.owner}",
            f"a secret that can be {does} by others on this host" if file.mode & _OTHERS else "others may change it",
            _closed(file),
        )


def _closed(file: FileFacts) -> str:
    """How to close a file to others without closing it to us, who may be one of them."""
    path = shlex.quote(str(file.path))
    if file.mode & 0o004 and file.us not in {0, file.owner}:
        return f"chown {file.us} {path} and chmod 0600; a secret of Compose: its directory on the host, chmod 0700"
    return f"chmod {file.mode & ~(_OTHERS | _WRITTEN_BY_OTHERS):04o} {path}"


def of_data_dir(directory: FileFacts) -> Iterator[Finding]:
    """The data directory: only we have any business there."""
    if directory.mode & (_OTHERS | _WRITTEN_BY_OTHERS):
        yield Finding(
            "warning",
            str(directory.path),
            f"{directory.key}: mode {directory.mode:04o}, uid {directory.owner}",
            "others may look at or replace journal, keys and the embedded store",
            f"chmod 0700 {shlex.quote(str(directory.path))}",
        )


def of_disk(disk: DiskFacts) -> Iterator[Finding]:
    """The disk under the journal."""
    where = str(disk.path)
    if disk.free < LITTLE:
        yield Finding(
            "warning",
            where,
            f"{disk.free // 1024} KiB are free",
            "where an answer cannot be written down, refreshing pauses",
            "make room",
        )
    if disk.sync_ms > SLOW_MS:
        yield Finding(
            "warning",
            where,
            f"one write takes {disk.sync_ms:.0f} ms to be on disk",
            "each answer waits for that before callers get it",
            "use a faster disk for data_dir",
        )
    yield Finding("ok", where, f"written, synced in {disk.sync_ms:.1f} ms, {disk.free // (1024 * 1024)} MiB free")
