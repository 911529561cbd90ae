"""The journal: what an answer brought is on this replica's own disk before anybody relies on Redis.

One append-only file per replica, each line sealed, each append followed by fdatasync; under load one write and one
sync serve all that wait. Of each grant the last entry stays until its commit is durable and `KEEP_MS` old, so that a
Redis which loses acknowledged writes (a failover, a restore) gets them again. Knows nothing of Redis: entries are texts
to it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import itertools
import os
import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog

from broker.errors import InvalidSettings
from broker.journal.disk import Disk
from broker.secret import CannotOpen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.secret import Sealer

log = structlog.get_logger()

KEEP_MS = 600_000
"""How long an entry is kept whose commit is known to be on the store's disk: longer than a failover takes."""
KEEP_UNPROVED_MS = 7_200_000
"""How long one is kept that the store heard but cannot prove to have on disk: longer than snapshots are apart."""
_COMPACT_BYTES = 256 * 1024
_SUFFIX = ".journal"
_GATHER = 0.002
"""Seconds that a busy journal waits for more to write: one sync, and one trip to Redis after it, serve all of it."""
DISK_LIMIT = 5.0
"""Seconds after which a disk that does not answer counts as one that refuses; more for a file that takes longer."""
_ADOPT_LIMIT = 60.0
_MOMENT = 1.0
"""Seconds that one who asks waits for a disk that has failed."""
_PACE = 10_000_000
"""Bytes a second that the slowest disk writes."""


@dataclass(slots=True)
class Entry:
    """The last thing that must not be forgotten of one grant. *at* is epoch ms; *text* is for whoever wrote it."""

    key: str
    at: int
    text: str
    settled: bool = False
    """The store has heard of it."""
    durable: bool = False
    """And is known to have it on disk."""
    written: bool = True
    """And it is on our own disk."""
    before: Entry | None = None
    """What was known of the same key before this one."""
    number: int = field(default_factory=itertools.count().__next__)
    """Which of a millisecond's entries came later."""

    def dispensable(self, now: int) -> bool:
        """Whether it may be dropped."""
        return self.settled and self.at < now - (KEEP_MS if self.durable else KEEP_UNPROVED_MS)


class Journal:
    """This replica's file. Open it with `Journal.open`; append, settle and read it, and close it."""

    def __init__(self, directory: Path, sealer: Sealer, clock: Callable[[], int], life: str) -> None:
        self._directory = directory
        self._sealer = sealer
        self._clock = clock
        self._path = directory / f"{life}{_SUFFIX}"
        self._file = -1
        self._size = 0
        self._compacted = 0
        self._entries: dict[str, Entry] = {}
        self._waiting: dict[str, tuple[bytes, list[asyncio.Future[bool]]]] = {}
        """By key the last line that is to be written, and whoever wants to know."""
        self._writing: asyncio.Task[None] | None = None
        self._latest: dict[str, int] = {}
        self._locks: list[int] = []
        self._unsynced = False
        self._disk = Disk(self._stalls)
        self._under_way: list[asyncio.Future[bool]] = []
        """Of those who wait for what is being written."""
        self._probing: asyncio.Task[None] | None = None
        self._burying: set[asyncio.Task[None]] = set()
        self.fault: str | None = None
        """What a write failed with, until the whole file could be written anew: until then not all of it is on disk."""
        self.ended: list[str] = []
        """Lives of the replicas whose files were adopted: they are over, and all that they had heard is known here.

        Each keeps its file, empty, until `bury`: whoever adopts us knows then what is still to be done about it.
        """

    @classmethod
    async def open(cls, directory: Path, sealer: Sealer, clock: Callable[[], int], life: str | None = None) -> Journal:
        """Make this replica's file, named after its *life*. Raises `InvalidSettings`."""
        journal = cls(directory, sealer, clock, life or secrets.token_hex(8))
        try:
            await journal._on_disk(journal._begin)
        except OSError as error:
            raise InvalidSettings(
                f"data_dir: the journal in {directory} cannot be written ({error.strerror}): make room or mend "
                "its owner; `refresh.journal = false` runs without one and can lose a grant with Redis"
            ) from None
        return journal

    def _begin(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._rewrite()

    async def _on_disk(self, work: Callable[[], None], *, size: int = 0, limit: float = 0) -> None:
        """Do *work*, which writes *size* bytes or the whole file; appends keep their order."""
        await self._disk.do(work, max(limit, DISK_LIMIT + (self._size + size) / _PACE))

    def _stalls(self) -> None:
        """Whoever waits for the disk goes on without it; what they appended is written when it answers again."""
        self._failed("does not answer", "wait")
        _tell(self._under_way, written=False)
        for _, waiting in self._waiting.values():
            _tell(waiting, written=False)

    async def adopt(self, resealed: Callable[[str], str] = str) -> None:
        """Take over what replicas that are gone left behind. For when our keys are known to be the right ones.

        Lines are sealed anew with the first key, and so is what is sealed inside them: *resealed* gives such a text.
        A file with a line that none of them opens stays where it is, and is tried again at every start.
        """
        try:
            await self._on_disk(lambda: self._adopt(resealed), limit=_ADOPT_LIMIT)
        except OSError as error:
            self._failed(error.strerror, "adopt")

    def _adopt(self, resealed: Callable[[str], str]) -> None:
        adopted = [(path, lock) for path in sorted(self._directory.glob(f"*{_SUFFIX}")) if (lock := _lock(path)) >= 0]
        readable = []
        for path, lock in adopted:
            entries, whole = self._read(path)
            for entry in entries:
                entry.text = entry.text and resealed(entry.text)
                known = self._entries.get(entry.key)
                if known is None or known.at <= entry.at:
                    self._remember(entry)
            if whole:
                readable.append(path)
            else:
                log.error("journal.unreadable", file=path.name, hint="sealed with a key that is not in the key file?")
            self._locks.append(lock)
        self._rewrite()
        for path in readable:
            os.truncate(path, 0)  # what was in it is in ours
            self.ended.append(path.stem)
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()
        if adopted:
            log.info("journal.adopted", files=len(adopted), entries=len(self._entries))

    async def bury(self, life: str) -> None:
        """Nothing is left to be done about a replica that ended: its file goes, as soon as the disk answers."""
        self.ended.remove(life)
        burying = asyncio.create_task(self._remove(self._directory / f"{life}{_SUFFIX}"), name="journal bury")
        self._burying.add(burying)
        burying.add_done_callback(self._burying.discard)
        await asyncio.wait({burying}, timeout=_MOMENT)

    async def _remove(self, file: Path) -> None:
        with contextlib.suppress(OSError):  # then the next heir finds nothing to do
            await self._on_disk(partial(file.unlink, missing_ok=True))

    def _read(self, path: Path) -> tuple[list[Entry], bool]:
        """The entries of a file, and whether it could be read whole. A torn last line is what a crash leaves."""
        lines, entries, whole = path.read_bytes().split(b"\n"), [], True
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                at, key, text = self._sealer.open(base64.b64decode(line), "journal").split(" ", 2)
                entries.append(Entry(key, int(at), text))
            except (CannotOpen, ValueError):
                whole = whole and number == len(lines)
        return entries, whole

    def _remember(self, entry: Entry) -> None:
        known = self._entries.get(entry.key)
        if not entry.text:
            self._entries.pop(entry.key, None)
            return
        if known is not None:
            known.before = None
            entry.before = known
        self._entries[entry.key] = entry

    def _line(self, entry: Entry) -> bytes:
        return base64.b64encode(self._sealer.seal(f"{entry.at} {entry.key} {entry.text}", "journal")) + b"\n"

    async def append(self, key: str, text: str) -> Entry:
        """Put *text* on disk, in place of what was known of *key* (a grant id); returns once it is there.

        Where the disk refuses, or does not answer, the entry is not `written`: the journal has said so, and keeps it
        in memory until it is.
        """
        # Later than what it takes the place of, whatever the clock says: whoever reads the file goes by that.
        known = self._entries.get(key)
        entry = Entry(key, max(self._clock(), self._latest.get(key, 0) + 1, known.at + 1 if known else 0), text)
        self._latest[key] = entry.at
        self._remember(entry)
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        _, others = self._waiting.pop(key, (b"", []))
        self._waiting[key] = (self._line(entry), [*others, done])
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="journal write")
        if self._disk.stalled:
            self._waiting[key][1].clear()
            done.set_result(False)
        entry.written = await done
        return entry

    async def retract(self, entry: Entry) -> None:
        """The store would not have *entry*: what was known before it holds again."""
        if self._entries.get(entry.key) is not entry:
            return
        before = entry.before
        again = await self.append(entry.key, before.text if before else "")
        if before is not None:
            again.settled, again.durable, again.before = before.settled, before.durable, None

    async def _write(self) -> None:
        """Write and sync all that waits, together, until nothing does. The first is not kept waiting for others."""
        while self._waiting:
            batch, self._waiting = self._waiting.values(), {}
            lines = b"".join(line for line, _ in batch)
            self._under_way = [done for _, waiting in batch for done in waiting]
            try:
                await self._on_disk(partial(self._append, lines), size=len(lines))
            except OSError as error:
                self._failed(error.strerror, "append")
                _tell(self._under_way, written=False)
            else:
                _tell(self._under_way, written=True)
            if self._size > max(_COMPACT_BYTES, 4 * self._compacted):
                await self.compact()
            if self._waiting:
                await asyncio.sleep(_GATHER)

    def _failed(self, why: str | None, what: str) -> None:
        self.fault = why or "cannot be written"
        log.error("journal.failed", error=self.fault, what=what)

    def _append(self, lines: bytes) -> None:
        if self._unsynced:
            self._sync_directory()
        written = 0
        try:
            while written < len(lines):
                written += os.write(self._file, lines[written:])
            os.fdatasync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)  # half a line in the middle would spoil the next
            raise
        self._size += len(lines)

    def entries(self) -> list[Entry]:
        """What is to be told to a store that may have lost it. Whoever tells it marks them."""
        return list(self._entries.values())

    @property
    def unsettled(self) -> int:
        """How many entries the store has not heard of."""
        return sum(not entry.settled for entry in self._entries.values())

    async def probe(self) -> bool:
        """Whether the disk takes writes; tries only after a failure, for all who ask meanwhile, and waits a moment."""
        if self.fault is None:
            return True
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._try_again(), name="journal probe")
        await asyncio.wait({self._probing}, timeout=0 if self._disk.stalled else _MOMENT)
        return self.fault is None

    async def _try_again(self) -> None:
        self._drop()
        try:
            await self._on_disk(self._rewrite)
        except OSError as error:
            self.fault = error.strerror or "cannot be written"  # it has been said already
        else:
            self.fault = None
            log.info("journal.recovered")

    async def compact(self) -> None:
        """Drop what is settled and old. The file is written anew, synced and put in place of the old one."""
        self._drop()
        try:
            await self._on_disk(self._rewrite)
        except OSError as error:
            self._failed(error.strerror, "compact")

    def _drop(self) -> None:
        now = self._clock()
        for entry in self.entries():
            if entry.dispensable(now):
                del self._entries[entry.key]
        self._latest = {entry.key: entry.at for entry in self.entries()}

    def _rewrite(self) -> None:
        lines = b"".join(self._line(entry) for entry in list(self._entries.values()))
        aside = self._path.with_suffix(".new")
        fresh = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
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
        old, self._file = self._file, fresh
        self._size = self._compacted = len(lines)
        if old >= 0:
            os.close(old)
        self._unsynced = True  # until then a crash may bring the old file's name back
        self._sync_directory()

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._unsynced = False

    async def close(self) -> None:
        """Finish what waits; the file stays for whoever starts next, without entries that are settled and old.

        A disk that does not answer is not waited for: what was appended meanwhile was told to the store.
        """
        last = asyncio.create_task(self._finish())
        while not last.done() and not self._disk.stalled:
            await asyncio.wait({last}, timeout=_MOMENT / 10)
        last.cancel()
        self._disk.close()
        if not self._disk.stalled and self._file >= 0:
            os.close(self._file)
            self._file = -1

    async def _finish(self) -> None:
        if tasks := {task for task in (self._writing, self._probing) if task is not None}:
            await asyncio.wait(tasks)
        await self.compact()


def _tell(waiting: list[asyncio.Future[bool]], *, written: bool) -> None:
    for done in waiting:
        if not done.done():
            done.set_result(written)


def _lock(path: Path) -> int:
    """The locked descriptor of a file whose owner is gone, or -1 where it lives."""
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
