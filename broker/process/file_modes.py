"""Refuse files that anybody on this host may write: whoever can replace a secret or a journal decides what is sent."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from broker.errors import InvalidSettings

if TYPE_CHECKING:
    from pathlib import Path


def require_protected(key: str, path: Path) -> None:
    """Check that not everybody may write *path*, which the settings' *key* names.

    A group may: Kubernetes gives volumes to the group of the pod (`fsGroup`). What is missing is reported elsewhere.

    Raises:
        InvalidSettings: everybody may.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & stat.S_IWOTH and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InvalidSettings(
            f"{key}: everybody on this host may write {path} (mode {stat.S_IMODE(mode):04o}), and so decide what the "
            f"broker sends: chmod o-w {path}"
        )
