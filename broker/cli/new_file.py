"""Write a secret into a file that only its owner reads, and that did not exist before."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from broker.errors import BrokerError

if TYPE_CHECKING:
    from pathlib import Path


class CannotCreate(BrokerError):
    """The file exists, or cannot be written; nothing was changed."""


def create_private(path: Path, secret: str) -> None:
    """Create the file *path* (0600, whatever the umask) with one line, and sync it.

    Raises:
        CannotCreate: it exists, or cannot be written; what was begun is removed.
    """
    try:
        # O_EXCL also refuses a symbolic link, wherever that leads.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise CannotCreate(f"{path} exists, and is not replaced: name another file, or move it away") from None
    except OSError as error:
        raise CannotCreate(f"{path} cannot be created ({error.strerror}): name a file in another directory") from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise CannotCreate(f"{path} cannot be written ({error.strerror}): name a file elsewhere") from None
