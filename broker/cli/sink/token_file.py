"""A file that holds the current token: complete at any moment, and never readable by more users than intended."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import secrets
import stat
from typing import TYPE_CHECKING

from broker.errors import BrokerError, InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY})
"""How a rename onto a bind-mounted file fails, or creating a file in a directory of another user."""


class CannotWrite(BrokerError):
    """The file cannot be written; the message says why, and what helps."""


class TokenFile:
    """One file that this process writes."""

    def __init__(self, path: Path, *, owner: str | None, group: str | None, mode: int, in_place: bool) -> None:
        """Look up owner and group.

        Args:
            path: The file.
            owner: Name or number of the user; None: the user of this process.
            group: Name or number of the group; None: the group that the system chooses.
            mode: Mode of the file, whatever the umask.
            in_place: Write into an existing file instead of replacing it.

        Raises:
            InvalidSettings: there is no such user or group.
        """
        self.path = path
        self._uid = _id(owner, "owner", "user", lambda name: pwd.getpwnam(name).pw_uid)
        self._gid = _id(group, "group", "group", lambda name: grp.getgrnam(name).gr_gid)
        self._mode = mode
        self._in_place = in_place

    def check(self) -> None:
        """Find out before the first token arrives whether it can be written.

        Raises:
            CannotWrite: it cannot.
        """
        directory = self.path.parent
        if not directory.is_dir():
            raise CannotWrite(f"{self.path}: there is no directory {directory}: make it, or correct the path")
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            raise CannotWrite(_not_regular(self.path))
        beside = os.access(directory, os.W_OK | os.X_OK) and not self._in_place
        if not beside and not (os.access(self.path, os.W_OK) if self.path.exists() else os.access(directory, os.W_OK)):
            raise CannotWrite(_words(self.path, PermissionError(errno.EACCES, os.strerror(errno.EACCES))))

    def write(self, content: bytes) -> bool:
        """Make the file hold *content*.

        Returns:
            Whether that changed the file; one that holds *content* already is not written.

        Raises:
            CannotWrite: the file cannot be written.
        """
        try:
            if self._holds(content):
                return False
            if self._in_place:
                self._overwrite(content)
            else:
                self._replace(content)
        except OSError as error:
            raise CannotWrite(_words(self.path, error)) from None
        return True

    def remove(self) -> None:
        """Remove the file, or empty it where it cannot be removed.

        Raises:
            CannotWrite: neither is possible.
        """
        try:
            try:
                if not self._in_place:
                    self.path.unlink(missing_ok=True)
                    return
            except OSError as error:
                if error.errno not in _READ_ONLY:
                    raise
            if self.path.exists():
                self._overwrite(b"")
        except OSError as error:
            raise CannotWrite(_words(self.path, error)) from None

    def _holds(self, content: bytes) -> bool:
        """Return whether the file holds *content*; if so, correct its owner and mode."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or file.read(len(content) + 1) != content:
                return False
            owned = self._uid in {-1, status.st_uid} and self._gid in {-1, status.st_gid}
            if not owned or stat.S_IMODE(status.st_mode) != self._mode:
                self._set_owner_and_mode(descriptor)
            return True

    def _replace(self, content: bytes) -> None:
        """Write a new file beside it and rename that; write into a file that is itself a mount."""
        new = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}.new")
        try:
            self._create(new, content)
            new.replace(self.path)
        except OSError as error:
            if error.errno not in _READ_ONLY or not self.path.is_file() or self.path.is_symlink():
                raise
            self._overwrite(content)
        finally:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)

    def _create(self, path: Path, content: bytes) -> None:
        # Only the owner may open it until it has its final owner and mode, whatever the umask.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, self._mode & 0o600), "wb") as file:
            self._set_owner_and_mode(file.fileno())
            _write(file.fileno(), content)

    def _overwrite(self, content: bytes) -> None:
        try:
            # Without O_NONBLOCK a pipe that nobody reads would never be opened.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            self._create(self.path, content)
            return
        with os.fdopen(descriptor, "wb"):
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CannotWrite(_not_regular(self.path))
            if status.st_nlink > 1:
                raise CannotWrite(
                    f"{self.path}: has other names (hard links), so another file would be overwritten: remove it, and "
                    "run the sink again"
                )
            self._set_owner_and_mode(descriptor)
            _write(descriptor, content)
            os.ftruncate(descriptor, len(content))

    def _set_owner_and_mode(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if self._uid not in {-1, status.st_uid} or self._gid not in {-1, status.st_gid}:
            try:
                os.fchown(descriptor, self._uid, self._gid)
            except PermissionError:
                raise CannotWrite(
                    f"{self.path}: cannot be given to that owner or group by uid {os.getuid()}: run as root (or as a "
                    "member of the group), or leave owner and group out"
                ) from None
        os.fchmod(descriptor, self._mode)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def _not_regular(path: Path) -> str:
    return f"{path}: exists and is not a regular file: name another file, or remove it"


def _words(path: Path, error: OSError) -> str:
    why = f"{path}: cannot be written by uid {os.getuid()} ({error.strerror})"
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{why}: let that user write in {path.parent}, or into the file itself (--in-place)"
        case errno.ENXIO:
            return _not_regular(path)
        case errno.ELOOP:
            return f"{path}: is a symbolic link, which the sink does not follow: name the file it leads to"
        case errno.ENOENT:
            return f"{path}: there is no directory {path.parent}: make it, or correct the path"
        case errno.ENOSPC | errno.EDQUOT:
            return f"{why}: free some space; the file is unchanged, unless it is written in place"
        case _:
            return why


def _id(name: str | None, key: str, kind: str, look_up: Callable[[str], int]) -> int:
    """Return the number of a user or group; -1: leave it as it is."""
    if name is None:
        return -1
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return look_up(name)
    except KeyError:
        raise InvalidSettings(
            f"{key}: there is no {kind} {name[:64]!r} on this system: name another, or give its number"
        ) from None
