"""Check the files that the settings were read from: name each, and say who else may write it."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from broker.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_GROUP_OR_OTHERS_MAY_WRITE = 0o022


def check_read_files(files: Sequence[tuple[Path, tuple[str, ...]]]) -> Iterator[Finding]:
    """Yield a finding for each file that was read; *files* holds each with the names of its providers."""
    for path, providers in files:
        named = f"providers {', '.join(providers)}" if providers else "no provider"
        yield Finding("ok", str(path), f"was read: {named}")
        mode = path.stat().st_mode
        if mode & _GROUP_OR_OTHERS_MAY_WRITE and not os.statvfs(path).f_flag & os.ST_RDONLY:
            yield Finding(
                "warning",
                str(path),
                f"mode {mode & 0o7777:04o}",
                "whoever may write it chooses which servers receive refresh tokens and client secrets",
                f"chmod go-w {shlex.quote(str(path))}",
            )
