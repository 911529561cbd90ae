"""The journal: what an answer brought is on this replica's own disk before anybody relies on Redis.

One append-only file per replica. Each line is sealed, and each append is followed by fdatasync; under load one write
and one sync serve all appends that wait. The last entry of each grant stays until its commit is durable and `KEEP_MS`
old, so that a Redis which loses acknowledged writes (a failover, a restore) gets them again. Knows nothing of Redis:
entries are texts to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog

from broker.errors import InvalidSettings
from broker.journal.disk import Disk
from broker.journal.file_format import Entry, JournalFile, line_of, lock_abandoned, read_entries, release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from broker.secret import Sealer

log = structlog.get_logger()

_COMPACT_BYTES = 256 * 1024
_BATCH_PAUSE = 0.002
"""Seconds that a busy journal waits for more to write: one sync, and one trip to Redis after it, serve all of it. Saves
5 % of the CPU of a refresh (`python -m tests.benchmarks.tricks gather-journal`)."""
DISK_LIMIT = 5.0
"""Seconds after which a disk that does not answer counts as one that refuses; more for a file that takes longer."""
_ADOPT_LIMIT = 60.0
_FAILED_DISK_WAIT = 1.0
"""Seconds that a caller waits for a disk that has failed, or for the removal of a file."""
_SLOWEST_DISK = 10_000_000
"""Bytes a second that the slowest disk writes."""


class Journal:
    """This replica's journal. Open it with `Journal.open`; append to it, mark and read its entries, and close it."""

    def __init__(self, directory: Path, sealer: Sealer, clock: Callable[[], int], life: str) -> None:
        self._directory = directory
        self._sealer = sealer
        self._clock = clock
        self._file = JournalFile(directory, life, sealer)
        self._disk = Disk(self._on_stall)
        self._entries: dict[str, Entry] = {}
        self._latest: dict[str, int] = {}
        """By key, when its last entry was made (epoch ms)."""
        self._waiting: dict[str, tuple[bytes, list[asyncio.Future[bool]]]] = {}
        """By key, the last line that is to be written, and the appends that wait for it."""
        self._being_written: list[asyncio.Future[bool]] = []
        """The appends that wait for what is being written."""
        self._adopted: list[tuple[Path, int]] = []
        """Files of other replicas that are locked until what is in them stands in this one's."""
        self._writing: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._removing: set[asyncio.Task[None]] = set()
        self.fault: str | None = None
        """What a write failed with, until the whole file was rewritten: until then not all entries are on disk."""
        self.fault_since: float | None = None
        """Since when writes have failed (epoch seconds)."""
        self.ended: list[str] = []
        """Lives of the replicas whose files were adopted: they are over, and all their entries are known here.

        Each keeps its file, empty, until `remove_ended`: whoever adopts this journal then knows what is left to do.
        """

    @classmethod
    async def open(cls, directory: Path, sealer: Sealer, clock: Callable[[], int], life: str | None = None) -> Journal:
        """Make this replica's file.

        Args:
            directory: Where the files of all replicas are; made if it is not there.
            sealer: Seals each line.
            clock: Gives epoch ms.
            life: Id of this process, which names its file; drawn if None.

        Raises:
            InvalidSettings: the disk refuses.
        """
        journal = cls(directory, sealer, clock, life or secrets.token_hex(8))
        try:
            await journal._on_disk(journal._begin)
        except OSError as error:
            raise InvalidSettings(
                f"data_dir: the journal in {directory} cannot be written ({error.strerror}): make room or "
                "correct its owner; `refresh.journal = false` runs without one and can lose a grant with Redis"
            ) from None
        return journal

    def _begin(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._rewrite()

    async def _on_disk(self, work: Callable[[], None], *, size: int = 0, limit: float = 0) -> None:
        """Do *work*, which writes *size* bytes or the whole file, in the disk's thread; appends keep their order."""
        await self._disk.do(work, max(limit, DISK_LIMIT + (self._file.size + size) / _SLOWEST_DISK))

    def _on_stall(self) -> None:
        """Let every append go on without the disk; what was appended is written when the disk answers again."""
        self._fail("does not answer", "wait")
        _resolve(self._being_written, written=False)
        for _, waiting in self._waiting.values():
            _resolve(waiting, written=False)

    async def adopt(self, reseal: Callable[[str], str] = str) -> None:
        """Take over what replicas that are gone left behind, once the sealing keys are known to be the right ones.

        Lines are sealed anew with the first key, and *reseal* does so with what is sealed inside a text. A file with
        a line that no key opens stays where it is, and is tried again at every start.
        """
        try:
            await self._on_disk(lambda: self._adopt(reseal), limit=_ADOPT_LIMIT)
        except OSError as error:
            self._fail(error.strerror, "adopt")

    def _adopt(self, reseal: Callable[[str], str]) -> None:
        adopted = lock_abandoned(self._directory)
        readable = []
        for path, lock in adopted:
            entries, whole = read_entries(path, self._sealer)
            for entry in entries:
                entry.text = entry.text and reseal(entry.text)
                known = self._entries.get(entry.key)
                if known is None or known.at <= entry.at:
                    self._remember(entry)
            if whole:
                readable.append(path)
            else:
                log.error("journal.unreadable", file=path.name, hint="sealed with a key that is not in the key file?")
            self._adopted.append((path, lock))
        self._rewrite()
        for path in readable:
            os.truncate(path, 0)  # what was in it stands in this replica's file now
            self.ended.append(path.stem)
        release(self._adopted)
        self._adopted.clear()
        if adopted:
            log.info("journal.adopted", files=len(adopted), entries=len(self._entries))

    async def remove_ended(self, life: str) -> None:
        """Remove the file of a replica that ended, as soon as the disk answers: nothing is left to do about it."""
        self.ended.remove(life)
        removing = asyncio.create_task(self._remove(life), name="journal remove")
        self._removing.add(removing)
        removing.add_done_callback(self._removing.discard)
        await asyncio.wait({removing}, timeout=_FAILED_DISK_WAIT)

    async def _remove(self, life: str) -> None:
        with contextlib.suppress(OSError):  # then whoever adopts this journal finds nothing to do
            await self._on_disk(partial(self._file.remove_other, life))

    def _remember(self, entry: Entry) -> None:
        known = self._entries.get(entry.key)
        if not entry.text:
            self._entries.pop(entry.key, None)
            return
        if known is not None:
            known.before = None
            entry.before = known
        self._entries[entry.key] = entry

    async def append(self, key: str, text: str) -> Entry:
        """Put *text* on disk, in place of what was known of *key* (a grant id).

        Returns:
            The entry, once it is on disk. If the disk refuses or does not answer, the entry is not `written`: the
            journal has logged that, and keeps the entry in memory until it is.
        """
        # Later than what it replaces, whatever the clock says: whoever reads the file goes by that.
        known = self._entries.get(key)
        entry = Entry(key, max(self._clock(), self._latest.get(key, 0) + 1, known.at + 1 if known else 0), text)
        self._latest[key] = entry.at
        self._remember(entry)
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        _, others = self._waiting.pop(key, (b"", []))
        self._waiting[key] = (line_of(entry, self._sealer), [*others, done])
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="journal write")
        if self._disk.stalled:
            self._waiting[key][1].clear()
            done.set_result(False)
        entry.written = await done
        return entry

    async def retract(self, entry: Entry) -> None:
        """Replace *entry*, which the store did not accept, by what was known before it."""
        if self._entries.get(entry.key) is not entry:
            return
        before = entry.before
        again = await self.append(entry.key, before.text if before else "")
        if before is not None:
            again.recorded, again.durable, again.before = before.recorded, before.durable, None

    async def _write(self) -> None:
        """Write and sync all that waits, together, until nothing does. The first append does not wait for others."""
        while self._waiting:
            batch, self._waiting = self._waiting.values(), {}
            lines = b"".join(line for line, _ in batch)
            self._being_written = [done for _, waiting in batch for done in waiting]
            try:
                await self._on_disk(partial(self._file.append, lines), size=len(lines))
            except OSError as error:
                self._fail(error.strerror, "append")
                _resolve(self._being_written, written=False)
            else:
                _resolve(self._being_written, written=True)
            if self._file.size > max(_COMPACT_BYTES, 4 * self._file.rewritten_size):
                await self.compact()
            if self._waiting:
                await asyncio.sleep(_BATCH_PAUSE)

    def _fail(self, why: str | None, what: str) -> None:
        self.fault, self.fault_since = why or "cannot be written", self.fault_since or time.time()
        log.error("journal.failed", error=self.fault, what=what)

    def entries(self) -> list[Entry]:
        """Return what a store that may have lost it must be given. Whoever does that marks the entries."""
        return list(self._entries.values())

    def find(self, key: str) -> Entry | None:
        """Return the last entry of *key*, if it is still here."""
        return self._entries.get(key)

    @property
    def unrecorded(self) -> int:
        """How many entries the store has not confirmed."""
        return sum(not entry.recorded for entry in self._entries.values())

    async def probe(self) -> bool:
        """Return whether the disk takes writes. Tries it only after a failure, once for all who ask meanwhile."""
        if self.fault is None:
            return True
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._try_again(), name="journal probe")
        await asyncio.wait({self._probing}, timeout=0 if self._disk.stalled else _FAILED_DISK_WAIT)
        return self.fault is None

    async def _try_again(self) -> None:
        self._drop()
        try:
            await self._on_disk(self._rewrite)
        except OSError as error:
            self.fault = error.strerror or "cannot be written"  # it is in the log already
        else:
            self.fault = self.fault_since = None
            log.info("journal.recovered")

    async def compact(self) -> None:
        """Drop the entries that are recorded and old, and rewrite the file."""
        self._drop()
        try:
            await self._on_disk(self._rewrite)
        except OSError as error:
            self._fail(error.strerror, "compact")

    def _drop(self) -> None:
        now = self._clock()
        for entry in self.entries():
            if entry.dispensable(now):
                del self._entries[entry.key]
        self._latest = {entry.key: entry.at for entry in self.entries()}

    def _rewrite(self) -> None:
        self._file.rewrite(self.entries())

    async def close(self) -> None:
        """Finish what waits; the file stays for whoever starts next, without entries that are recorded and old.

        A disk that does not answer is not waited for: the store was given what was appended meanwhile.
        """
        last = asyncio.create_task(self._finish())
        while not last.done() and not self._disk.stalled:
            await asyncio.wait({last}, timeout=_FAILED_DISK_WAIT / 10)
        last.cancel()
        self._disk.close()
        if not self._disk.stalled:
            self._file.close()

    async def _finish(self) -> None:
        if tasks := {task for task in (self._writing, self._probing) if task is not None}:
            await asyncio.wait(tasks)
        await self.compact()


def _resolve(waiting: Iterable[asyncio.Future[bool]], *, written: bool) -> None:
    """Let the appends in *waiting* return."""
    for done in waiting:
        if not done.done():
            done.set_result(written)
