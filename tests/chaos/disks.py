"""A disk small enough to be filled: a tmpfs in a mount namespace of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.regressions.process import missing


class SmallDisk:
    """A tmpfs on *folder*, which only programs see that are started `through` it. Needs root."""

    def __init__(self, folder: Path, kilobytes: int = 4096) -> None:
        if shutil.which("unshare") is None or shutil.which("nsenter") is None:
            missing("unshare and nsenter (Debian: apt-get install util-linux)")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        script = 'mount -t tmpfs -o size="$1"k,mode=700 tmpfs "$0" && echo mounted && exec sleep infinity'
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, str(folder), str(kilobytes)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"mounted\n":
            self.close()
            missing("mount namespace with a tmpfs (unshare --mount, as root)")
        self.through = ("nsenter", "--target", str(self._holder.pid), "--mount", "--")
        self.outside = Path(f"/proc/{self._holder.pid}/root{folder}")
        """Its folder, for programs that were not started `through` it."""
        self._ballast = self.outside / "ballast"

    def fill(self) -> None:
        """Leave no room."""
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as ballast:
            for size in (65536, 1):
                with contextlib.suppress(OSError):
                    while ballast.write(b"." * size):
                        os.fsync(ballast)

    def make_room(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it; it lasts as long as somebody is in there."""
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()
