"""What facts about files mean. Pure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from broker.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.check.file_facts import DiskFacts, FileFacts

LITTLE = 64 * 1024 * 1024
"""Bytes: less than this under the journal causes a warning."""
SLOW_MS = 100.0
_OTHERS = 0o007
_WRITTEN_BY_OTHERS = 0o022


def check_secret(file: FileFacts) -> Iterator[Finding]:
    """Check that others cannot read a file with a secret. A group may: that is how secrets are mounted."""
    if file.mode & _OTHERS or file.mode & _WRITTEN_BY_OTHERS:
        can = "read" if file.mode & 0o004 else "reach"
        yield Finding(
            "warning",
            str(file.path),
            f"{file.key}: mode {file.mode:04o}, uid {file.owner}",
            f"other users of this host can {can} the secret" if file.mode & _OTHERS else "other users can change it",
            _permissions(file),
        )
    if file.padded:
        yield Finding(
            "warning",
            str(file.path),
            f"{file.key}: blanks stand before or behind the secret",
            "only the line's end is cut off, so they count as a part of it",
            "remove them, unless they belong to it",
        )


def _permissions(file: FileFacts) -> str:
    """Return how to close a file to others without closing it to this process, which may be one of them."""
    path = shlex.quote(str(file.path))
    if file.mode & 0o004 and file.uid not in {0, file.owner}:
        return f"chown {file.uid} {path} and chmod 0600; a secret of Compose: its directory on the host, chmod 0700"
    return f"chmod {file.mode & ~(_OTHERS | _WRITTEN_BY_OTHERS):04o} {path}"


def check_data_dir(directory: FileFacts) -> Iterator[Finding]:
    """Check that only the broker's user can use the data directory."""
    if directory.mode & (_OTHERS | _WRITTEN_BY_OTHERS):
        yield Finding(
            "warning",
            str(directory.path),
            f"{directory.key}: mode {directory.mode:04o}, uid {directory.owner}",
            "other users can read or replace the journal, the keys and the embedded store",
            f"chmod 0700 {shlex.quote(str(directory.path))}",
        )


def check_disk(disk: DiskFacts) -> Iterator[Finding]:
    """Check the disk under the journal."""
    where = str(disk.path)
    if disk.free < LITTLE:
        yield Finding(
            "warning",
            where,
            f"{disk.free // 1024} KiB are free",
            "refreshing pauses while a token response cannot be written to the journal",
            "free some space",
        )
    if disk.sync_ms > SLOW_MS:
        yield Finding(
            "warning",
            where,
            f"one write takes {disk.sync_ms:.0f} ms to reach the disk",
            "callers get each new token only after that",
            "use a faster disk for data_dir",
        )
    megabytes = disk.free // (1024 * 1024)
    yield Finding("ok", where, f"can be written, syncs in {disk.sync_ms:.1f} ms, has {megabytes} MiB free")
