"""A file that holds the current token: whole at any moment, and never readable by more than it should be."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from typing import TYPE_CHECKING

from broker.errors import BrokerError, InvalidSettings

if TYPE_CHECKING:
    from pathlib import Path

_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY})
"""How a rename onto a bind-mounted file fails, or making a file in a directory that is not ours."""


class CannotWrite(BrokerError):
    """The file cannot be written: the message says why, and what would help."""


class TokenFile:
    """Writes one file. Owner and group None: as it comes; *mode* holds whatever the umask is."""

    def __init__(self, path: Path, *, owner: str | None, group: str | None, mode: int, in_place: bool) -> None:
        """Raises `InvalidSettings` where there is no such user or group."""
        self.path = path
        self._uid = _id(owner, "owner", "user", lambda name: pwd.getpwnam(name).pw_uid)
        self._gid = _id(group, "group", "group", lambda name: grp.getgrnam(name).gr_gid)
        self._mode = mode
        self._in_place = in_place

    def check(self) -> None:
        """Raise `CannotWrite` where the first token could not be written: better said before it comes."""
        directory = self.path.parent
        if not directory.is_dir():
            raise CannotWrite(f"{self.path}: there is no directory {directory}: make it, or mend the path")
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            raise CannotWrite(f"{self.path}: is there and no regular file: name another, or remove it")
        beside = os.access(directory, os.W_OK | os.X_OK) and not self._in_place
        if not beside and not (os.access(self.path, os.W_OK) if self.path.exists() else os.access(directory, os.W_OK)):
            raise CannotWrite(_words(self.path, PermissionError(errno.EACCES, os.strerror(errno.EACCES))))

    def write(self, content: bytes) -> bool:
        """Have the file hold *content*; False when it did already, and was left alone. Raises `CannotWrite`."""
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
        """Take the token away: the file, or what is in it where it cannot be removed. Raises `CannotWrite`."""
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
        """Whether it has this content; then its owner and mode are put right without touching that."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        with os.fdopen(descriptor, "rb") as file:
            now = os.fstat(descriptor)
            if not stat.S_ISREG(now.st_mode) or file.read(len(content) + 1) != content:
                return False
            owned = self._uid in {-1, now.st_uid} and self._gid in {-1, now.st_gid}
            if not owned or stat.S_IMODE(now.st_mode) != self._mode:
                self._give(descriptor)
            return True

    def _replace(self, content: bytes) -> None:
        """Write it aside and put it in place by one rename; a file that is a mount itself is written in place."""
        aside = self.path.with_name(f".{self.path.name}.new")
        try:
            aside.unlink(missing_ok=True)
            self._create(aside, content)
            aside.replace(self.path)
        except OSError as error:
            if error.errno not in _READ_ONLY or not self.path.is_file() or self.path.is_symlink():
                raise
            self._overwrite(content)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)

    def _create(self, path: Path, content: bytes) -> None:
        # With no more rights than its owner's until owner and mode are as they shall be, whatever the umask.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, self._mode & 0o600), "wb") as file:
            self._give(file.fileno())
            _write(file.fileno(), content)

    def _overwrite(self, content: bytes) -> None:
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            self._create(self.path, content)
            return
        with os.fdopen(descriptor, "wb"):
            self._give(descriptor)
            _write(descriptor, content)
            os.ftruncate(descriptor, len(content))

    def _give(self, descriptor: int) -> None:
        now = os.fstat(descriptor)
        if self._uid not in {-1, now.st_uid} or self._gid not in {-1, now.st_gid}:
            try:
                os.fchown(descriptor, self._uid, self._gid)
            except PermissionError:
                raise CannotWrite(
                    f"{self.path}: cannot be given to that owner or group by uid {os.getuid()}: run as root (or as a "
                    "member of the group), or drop owner and group"
                ) from None
        os.fchmod(descriptor, self._mode)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def _words(path: Path, error: OSError) -> str:
    why = f"{path}: cannot be written by uid {os.getuid()} ({error.strerror})"
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{why}: let it write in {path.parent}, or in the file itself (--in-place)"
        case errno.ELOOP:
            return f"{path}: is a symbolic link, which is not followed: name the file it leads to"
        case errno.ENOENT:
            return f"{path}: there is no directory {path.parent}: make it, or mend the path"
        case errno.ENOSPC | errno.EDQUOT:
            return f"{why}: make room; the file is as it was, unless it is written in place"
        case _:
            return why


def _id(name: str | None, key: str, kind: str, known: object) -> int:
    if name is None:
        return -1
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return known(name)  # type: ignore[operator, no-any-return]
    except KeyError:
        raise InvalidSettings(
            f"{key}: there is no {kind} {name[:64]!r} on this system: name one, or give a number"
        ) from None
