"""The journal on a disk that is full, nearly full, or does not answer: nobody waits for it, nothing is forgotten."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from typing import TYPE_CHECKING

import pytest

from broker.refresh import journal as journal_module
from broker.refresh.journal import KEEP_UNPROVED_MS, Journal
from tests.disk import Disk
from tests.refresh.test_journal import Now, heir_of, texts
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.secret import Sealer


async def test_a_full_disk_is_said_and_recovers(
    tmp_path: Path, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk refuses, append raises and the fault is known; a probe finds out when it takes writes again."""
    journal = await Journal.open(tmp_path, sealer, Now())
    await journal.append("1", "before")
    refused = OSError(28, "No space left on device")

    def refuse(*_: object) -> int:
        raise refused

    with monkeypatch.context() as full:
        full.setattr(os, "write", refuse)
        with pytest.raises(OSError, match="No space left"):
            await journal.append("2", "lost on disk, kept in memory")
        assert journal.fault == "No space left on device"
        assert not await journal.probe()
    assert await journal.probe()
    assert journal.fault is None
    await journal.append("3", "after")
    await journal.close()
    heir = await heir_of(tmp_path, sealer, Now())
    assert texts(heir) == ["before", "lost on disk, kept in memory", "after"]
    await heir.close()


async def test_a_directory_that_does_not_sync_loses_nothing(
    tmp_path: Path, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the directory cannot be synced after a rewrite, appends go on into the file that has the name."""
    now = Now()
    journal = await Journal.open(tmp_path, sealer, now)
    entry = await journal.append("old", "old")
    entry.settled = entry.durable = True
    now.ms += KEEP_UNPROVED_MS + 1

    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as full:
        full.setattr(Journal, "_sync_directory", refuse)
        await journal.compact()
        assert journal.fault == "Too many open files"
        with pytest.raises(OSError, match="Too many"):
            await journal.append("g1", "not synced yet")
    await journal.append("g2", "synced")
    await journal.close()
    heir = await heir_of(tmp_path, sealer, now)
    assert sorted(texts(heir)) == ["not synced yet", "synced"]
    await heir.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """One that can be made to stick, and a journal that soon notices."""
    monkeypatch.setattr(journal_module, "DISK_LIMIT", 0.2)
    monkeypatch.setattr(journal_module, "_MOMENT", 0.05)
    made = Disk(monkeypatch)
    yield made
    made.answers()


async def test_a_disk_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path, sealer: Sealer, disk: Disk) -> None:
    """Who appends goes on without the disk, at once where that is known; all of it is there when it answers again."""
    journal = await Journal.open(tmp_path, sealer, Now())
    await journal.append("1", "before")
    disk.sticks()
    async with asyncio.timeout(5):
        first = asyncio.gather(*(journal.append(f"2{n}", f"under way {n}") for n in range(3)), return_exceptions=True)
        await asyncio.sleep(0.05)
        later = asyncio.gather(*(journal.append(f"3{n}", f"waiting {n}") for n in range(3)), return_exceptions=True)
        assert all(isinstance(came, OSError) for came in (*await first, *await later))
    assert journal.fault == "does not answer"
    with pytest.raises(OSError, match="does not answer"):
        await asyncio.wait_for(journal.append("4", "known to be stuck"), 0.1)
    assert not await asyncio.wait_for(journal.probe(), 0.15)
    disk.answers()
    await until(journal.probe)
    assert journal.fault is None
    await journal.append("5", "after")
    await journal.close()
    heir = await heir_of(tmp_path, sealer, Now())
    wanted = ["before", *(f"under way {n}" for n in range(3)), *(f"waiting {n}" for n in range(3))]
    assert sorted(texts(heir)) == sorted([*wanted, "known to be stuck", "after"])
    await heir.close()


async def test_a_compaction_that_sticks_keeps_nobody_waiting(tmp_path: Path, sealer: Sealer, disk: Disk) -> None:
    """Appends that wait behind the file's rewriting go on without it, too."""
    journal = await Journal.open(tmp_path, sealer, Now())
    disk.sticks()
    compacting = asyncio.create_task(journal.compact())
    await asyncio.sleep(0.05)
    with pytest.raises(OSError, match="does not answer"):
        await asyncio.wait_for(journal.append("1", "kept"), 2)
    disk.answers()
    await compacting
    await until(journal.probe)
    await journal.close()
    heir = await heir_of(tmp_path, sealer, Now())
    assert texts(heir) == ["kept"]
    await heir.close()


async def test_closing_waits_for_no_disk_that_does_not_answer(tmp_path: Path, sealer: Sealer, disk: Disk) -> None:
    """A process that is told to stop ends."""
    journal = await Journal.open(tmp_path, sealer, Now())
    disk.sticks()
    appending = asyncio.gather(journal.append("1", "x"), return_exceptions=True)
    await asyncio.sleep(0)
    await asyncio.wait_for(journal.close(), 3)
    assert isinstance((await appending)[0], OSError)
    disk.answers()
    await until(lambda: not journal._disk.locked())


async def test_one_write_that_succeeds_does_not_hide_one_that_failed(
    tmp_path: Path, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nearly full disk takes the small and refuses the large: it is trusted when all is on it."""
    journal = await Journal.open(tmp_path / "journal", sealer, Now())
    write = os.write

    def refuse_large(descriptor: int, data: bytes) -> int:
        if len(data) > 1000:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    with monkeypatch.context() as nearly_full:
        nearly_full.setattr(os, "write", refuse_large)
        with pytest.raises(OSError, match="No space left"):
            await journal.append("1", "x" * 2000)
        await journal.append("2", "small")
        assert journal.fault == "No space left on device"
        assert not await journal.probe()
    assert await journal.probe()
    shutil.copytree(tmp_path / "journal", tmp_path / "after a crash")
    heir = await heir_of(tmp_path / "after a crash", sealer, Now())
    assert sorted(texts(heir)) == ["small", "x" * 2000]
    await heir.close()
    await journal.close()


async def test_names_that_nobody_resolves_hold_up_no_write(tmp_path: Path, sealer: Sealer) -> None:
    """The threads that everybody shares are all busy, as with name servers that do not answer."""
    over = threading.Event()
    loop = asyncio.get_running_loop()
    busy = [loop.run_in_executor(None, over.wait, 10) for _ in range(64)]
    journal = await Journal.open(tmp_path, sealer, Now())
    await asyncio.wait_for(journal.append("1", "x"), 2)
    await asyncio.wait_for(journal.close(), 2)
    over.set()
    await asyncio.gather(*busy)
