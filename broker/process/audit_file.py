"""The audit stream: JSON lines in a file that is rotated by size, or on standard output.

A thread writes, so that a slow disk delays nobody. Lines that cannot be written wait, in bounds, and are written once
that is possible; `fault` says why they wait. Where nothing may be done without its line, room for lines is reserved
first (`audit_room`), and requests are refused while there is none. Nothing is synced to the disk: a crash of the
machine may lose the last seconds, a crash of the process nothing that was written. Knows nothing of requests.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import json
import os
import stat
import threading
import time
from collections import deque
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from broker.errors import AuditUnavailable, InvalidSettings
from broker.process.audit_room import Room, release

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from broker.settings import Audit

log = structlog.get_logger()
MAX_LINES = 65_536
"""Lines that wait to be written, at most."""
_AT_ONCE = 512
_RETRY = 1.0
"""Seconds until what could not be written is tried again."""
_GATHER = 0.02
"""Seconds for which lines gather before they are written together: a thread that woke for each of them would double the
CPU of a read."""
_AT_EXIT = 2.0
_STDOUT = "stdout"
_SLOW = "it is written more slowly than events happen"


class AuditFile:
    """The stream that the settings name."""

    def __init__(self, settings: Audit, count_lost: Callable[[int], object] = lambda _: None) -> None:
        """Open it, and start the thread.

        Args:
            settings: what it is and how it is kept.
            count_lost: called with each number of lines that found no room.

        Raises:
            InvalidSettings: it cannot be opened.
        """
        self._path = None if settings.file == _STDOUT else Path(settings.file or "").absolute()
        self._max_size, self._keep = settings.max_size, settings.keep
        self._room = Room() if settings.on_failure == "refuse" else None
        self._count_lost = count_lost
        self.fault = ""
        """Why lines wait or were lost; empty while all are written."""
        self._lines: deque[str] = deque()
        self._rest = b""
        self._lost = 0
        self._second, self._time = -1, ""
        self._filled, self._emptied, self._ending = threading.Event(), threading.Event(), False
        self._emptied.set()
        self._is_to_reopen = False
        try:
            self._descriptor, self._size = self._open()
        except OSError as error:
            raise InvalidSettings(f"audit.file: {unusable(settings.file or '', error)}") from None
        self._begin_room()
        self._thread = threading.Thread(target=self._serve, name="audit", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def refuses(self) -> bool:
        """Whether requests are refused while the stream cannot be written."""
        return self._room is not None

    def require(self) -> None:
        """Require that what is done now can be audited, where the settings demand it.

        Raises:
            AuditUnavailable: the stream cannot be written.
        """
        if self._room is None:
            return
        if self._room.is_short and not self.fault:
            self._note_fault(_SLOW)
        if fault := self.fault:
            raise AuditUnavailable(
                f'what happens cannot be audited ({fault}), and audit.on_failure = "refuse": an operator must cure it',
                retry_after=5,
            )

    def read(self, caller: str, peer: str, grant_id: str, generation: int, request_id: str) -> None:
        """Write that *caller* gets a token, before it does. None of these texts holds a character that JSON escapes.

        Raises:
            AuditUnavailable: as `require`.
        """
        if self._room is not None:
            self.require()
        self._put(
            f'{{"at":"{self._now()}","did":"token.read","caller":"{caller}","peer":"{peer}","grant_id":"{grant_id}",'
            f'"generation":{generation},"request_id":"{request_id}"}}\n'
        )

    def write(self, did: str, **members: Any) -> None:
        """Write one event; members that are None are left out."""
        event = {"at": self._now(), "did": did} | {key: value for key, value in members.items() if value is not None}
        self._put(json.dumps(event, separators=(",", ":")) + "\n")

    def reopen(self) -> None:
        """Open the file anew: somebody moved it away."""
        self._is_to_reopen = True
        self._emptied.clear()
        self._filled.set()

    def drain(self, limit: float = _AT_EXIT) -> bool:
        """Wait for *limit* seconds at most until all is written; return whether it is."""
        return self._emptied.wait(limit)

    def close(self) -> None:
        """Write what waits, for two seconds at most, and end."""
        atexit.unregister(self.close)
        self.drain()
        self._ending = True
        self._filled.set()
        self._thread.join(_AT_EXIT)
        if not self._thread.is_alive() and self._path is not None and self._descriptor >= 0:
            self._close_file()
            self._descriptor = -1

    def _now(self) -> str:
        """Return the time (UTC) in milliseconds; its seconds are written once a second."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._time = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._time}.{int((now - second) * 1000):03d}Z"

    def _put(self, line: str) -> None:
        if len(self._lines) < MAX_LINES:
            self._lines.append(line)
            if self._room is not None:
                self._room.use(len(line))
            if not self._filled.is_set():
                self._emptied.clear()
                self._filled.set()
        else:
            self._lost += 1
            self._count_lost(1)
            self._note_fault(_SLOW)

    def _serve(self) -> None:
        while not self._ending:
            self._filled.wait()
            if not self._ending:
                time.sleep(_GATHER)
            self._filled.clear()
            while self._has_work() and not self._ending:
                try:
                    self._write_some()
                except OSError as error:
                    self._note_fault(os.strerror(error.errno or 0))
                    time.sleep(_RETRY)
            if not self._filled.is_set():  # else it goes on at once
                self._emptied.set()
                if self._lines:  # one came between the two
                    self._emptied.clear()

    def _has_work(self) -> bool:
        return bool(self._lines or self._rest or self._is_to_reopen or self.fault)

    def _write_some(self) -> None:
        if self._is_to_reopen and not self._rest:
            self._reopen()
        if not self._rest:
            lines = [self._lines.popleft() for _ in range(min(len(self._lines), _AT_ONCE))]
            self._rest = "".join(lines).encode()
            if self._room is not None:
                self._room.take(len(self._rest))
            if self._path is not None and self._size and self._size + len(self._rest) > self._max_size:
                self._rotate()
        while self._rest:
            written = os.write(self._descriptor, self._rest)
            self._rest, self._size = self._rest[written:], self._size + written
        self._extend_room()
        if self.fault:
            lost, self._lost = self._lost, 0
            log.warning("audit.recovered", lost=lost)
            if lost:
                self._rest = json.dumps({"at": self._now(), "did": "audit.lost", "lines": lost}).encode() + b"\n"
            self.fault = ""

    def _begin_room(self) -> None:
        if self._room is not None:
            self._room.begin(self._size)
            try:
                self._extend_room()
            except OSError as error:
                self._note_fault(os.strerror(error.errno or 0))

    def _extend_room(self) -> None:
        if self._room is not None:
            self._room.extend(None if self._path is None else self._descriptor, self._size)

    def _close_file(self) -> None:
        if self._room is not None:
            with contextlib.suppress(OSError):
                release(self._descriptor, self._size)
        os.close(self._descriptor)

    def _note_fault(self, fault: str) -> None:
        if not self.fault:
            log.error("audit.failed", error=fault)
        self.fault = fault
        self._emptied.clear()
        self._filled.set()  # the thread finds out when it is over

    def _open(self) -> tuple[int, int]:
        if self._path is None:
            os.fstat(1)
            return 1, 0
        return _open_file(self._path)

    def _reopen(self) -> None:
        if self._path is not None:
            descriptor, size = self._open()
            self._close_file()
            self._descriptor, self._size = descriptor, size
            if self._room is not None:
                self._room.begin(size)
        self._is_to_reopen = False

    def _rotate(self) -> None:
        """Move FILE to FILE.1, FILE.1 to FILE.2 and so on; the oldest is replaced."""
        path = Path(self._path or "")
        # Where it is gone, it was moved already and no new one could be opened: each further try would lose an old one.
        if path.exists():
            for number in range(self._keep - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(f"{path.name}.{number}").replace(path.with_name(f"{path.name}.{number + 1}"))
            path.replace(path.with_name(f"{path.name}.1"))
        self._reopen()


@asynccontextmanager
async def open_audit(settings: Audit, count_lost: Callable[[int], object]) -> AsyncIterator[AuditFile | None]:
    """Open the stream that the settings name, if any; at the end write what waits.

    Raises:
        InvalidSettings: it cannot be opened.
    """
    audit = AuditFile(settings, count_lost) if settings.file else None
    try:
        yield audit
    finally:
        if audit is not None:
            await asyncio.to_thread(audit.close)


def _open_file(path: Path) -> tuple[int, int]:
    """Open a file for appending, and return its descriptor and size; a FIFO, a device or a link is none (OSError)."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor, found.st_size


def unusable(file: str, error: OSError) -> str:
    """Return what is wrong with the audit file, and what to do."""
    if error.errno == errno.ELOOP:
        return f"{file} is a symbolic link: name the file itself"
    if error.errno in {errno.EINVAL, errno.ENXIO}:
        return f'{file} is no regular file: name one, or "stdout"'
    return (
        f"{file} cannot be opened for appending ({os.strerror(error.errno or 0)}): create its folder, give this user "
        "the right to write there, or name another file"
    )


def require_usable(settings: Audit) -> None:
    """Require that the audit file can be opened; one that does not exist yet is not made.

    Raises:
        InvalidSettings: it cannot.
    """
    if settings.file is None or settings.file == _STDOUT:
        return
    path = Path(settings.file).absolute()
    try:
        if path.is_symlink() or path.exists():
            os.close(_open_file(path)[0])
        elif not os.access(path.parent, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES if path.parent.is_dir() else errno.ENOENT, "")  # noqa: TRY301 - as of the file
    except OSError as error:
        raise InvalidSettings(f"audit.file: {unusable(settings.file, error)}") from None
