"""The journal on a disk that is full, nearly full, or does not answer: nobody waits for it, nothing is forgotten."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from broker.journal import journal as journal_module
from broker.journal.file_format import KEEP_UNPROVED_MS, JournalFile
from broker.journal.journal import Journal
from tests.disk import Disk
from tests.refresh.journals import Now, heir_of, texts
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.secret import Sealer


async def test_a_full_disk_is_reported_and_recovers(
    tmp_path: Path, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk refuses, entries are not written and the fault is known; a probe shows when it recovered."""
    journal = await Journal.open(tmp_path, sealer, Now())
    await journal.append("1", "before")
    refused = OSError(28, "No space left on device")

    def refuse(*_: object) -> int:
        raise refused

    with monkeypatch.context() as full:
        full.setattr(os, "write", refuse)
        assert not (await journal.append("2", "lost on disk, kept in memory")).written
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
    entry.recorded = entry.durable = True
    now.ms += KEEP_UNPROVED_MS + 1

    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as full:
        full.setattr(JournalFile, "_sync_directory", refuse)
        await journal.compact()
        assert journal.fault == "Too many open files"
        assert not (await journal.append("g1", "not synced yet")).written
    await journal.append("g2", "synced")
    await journal.close()
    heir = await heir_of(tmp_path, sealer, now)
    assert sorted(texts(heir)) == ["not synced yet", "synced"]
    await heir.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Yield a disk that can be made to hang, and have the journal notice it soon."""
    monkeypatch.setattr(journal_module, "DISK_LIMIT", 0.2)
    monkeypatch.setattr(journal_module, "_FAILED_DISK_WAIT", 0.05)
    made = Disk(monkeypatch)
    yield made
    made.answers()


async def test_a_disk_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path, sealer: Sealer, disk: Disk) -> None:
    """An append goes on without the disk, at once if the fault is known; all is written when the disk answers again."""
    journal = await Journal.open(tmp_path, sealer, Now())
    await journal.append("1", "before")
    disk.sticks()
    async with asyncio.timeout(5):
        first = asyncio.gather(*(journal.append(f"2{n}", f"under way {n}") for n in range(3)))
        await asyncio.sleep(0.05)
        later = asyncio.gather(*(journal.append(f"3{n}", f"waiting {n}") for n in range(3)))
        assert not any(entry.written for entry in (*await first, *await later))
    assert journal.fault == "does not answer"
    assert not (await asyncio.wait_for(journal.append("4", "known to be stuck"), 0.1)).written
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
    assert not (await asyncio.wait_for(journal.append("1", "kept"), 2)).written
    disk.answers()
    await compacting
    await until(journal.probe)
    await journal.close()
    heir = await heir_of(tmp_path, sealer, Now())
    assert texts(heir) == ["kept"]
    await heir.close()


async def test_closing_waits_for_no_disk_that_does_not_answer(tmp_path: Path, sealer: Sealer, disk: Disk) -> None:
    """Closing a journal ends although its disk hangs."""
    journal = await Journal.open(tmp_path, sealer, Now())
    disk.sticks()
    appending = asyncio.create_task(journal.append("1", "x"))
    await asyncio.sleep(0)
    await asyncio.wait_for(journal.close(), 3)
    assert not (await appending).written
    disk.answers()
    await until(lambda: not journal._disk.busy)


async def test_one_write_that_succeeds_does_not_hide_one_that_failed(
    tmp_path: Path, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nearly full disk takes a small write and refuses a large one: the fault lasts until all entries are on it."""
    journal = await Journal.open(tmp_path / "journal", sealer, Now())
    write = os.write

    def refuse_large(descriptor: int, data: bytes) -> int:
        if len(data) > 1000:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    with monkeypatch.context() as nearly_full:
        nearly_full.setattr(os, "write", refuse_large)
        assert not (await journal.append("1", "x" * 2000)).written
        await journal.append("2", "small")
        assert journal.fault == "No space left on device"
        assert not await journal.probe()
    assert await journal.probe()
    shutil.copytree(tmp_path / "journal", tmp_path / "after a crash")
    heir = await heir_of(tmp_path / "after a crash", sealer, Now())
    assert sorted(texts(heir)) == ["small", "x" * 2000]
    await heir.close()
    await journal.close()


async def test_name_servers_that_do_not_answer_hold_up_no_write(tmp_path: Path, sealer: Sealer) -> None:
    """A write needs none of the loop's shared threads: all of them are busy here."""
    over = threading.Event()
    loop = asyncio.get_running_loop()
    busy = [loop.run_in_executor(None, over.wait, 10) for _ in range(64)]
    journal = await Journal.open(tmp_path, sealer, Now())
    await asyncio.wait_for(journal.append("1", "x"), 2)
    await asyncio.wait_for(journal.close(), 2)
    over.set()
    await asyncio.gather(*busy)


async def test_what_waits_for_a_disk_is_no_more_than_there_are_grants(
    tmp_path: Path, sealer: Sealer, disk: Disk
) -> None:
    """However often a grant is refreshed meanwhile, its last answer alone is written when the disk answers."""
    journal = await Journal.open(tmp_path, sealer, Now())
    disk.sticks()
    for number in range(50):
        for name in ("a", "b"):
            assert not (await journal.append(name, f"{name} {number}")).written
    assert len(journal._waiting) == 2
    disk.answers()
    await until(journal.probe)
    assert (await journal.append("c", "c")).written
    await journal.close()
    heir = await heir_of(tmp_path, sealer, Now())
    assert sorted(texts(heir)) == ["a 49", "b 49", "c"]
    await heir.close()


async def test_removing_a_file_waits_for_the_disk_alone(tmp_path: Path, sealer: Sealer, disk: Disk) -> None:
    """Removing a replica's file does not hold up the replay that ends with it, and is done when the disk answers."""
    await (await Journal.open(tmp_path, sealer, Now())).close()
    heir = await heir_of(tmp_path, sealer, Now())
    (life,) = heir.ended
    disk.sticks()
    appending = asyncio.create_task(heir.append("1", "x"))
    await asyncio.sleep(0)
    await asyncio.wait_for(heir.remove_ended(life), 1)
    assert heir.ended == []
    assert not (await appending).written
    disk.answers()
    await until(lambda: len(list(tmp_path.iterdir())) == 1)
    await until(heir.probe)
    await heir.close()


def test_a_process_ends_while_its_disk_does_not_answer(tmp_path: Path) -> None:
    """A process ends although its disk thread hangs for ever."""
    program = """
import asyncio, os, sys, threading
from pathlib import Path
from broker.journal import journal
from broker.secret import Sealer, new_sealing_key, parse_sealing_keys
journal.DISK_LIMIT = 0.2
async def main():
    made = await journal.Journal.open(Path(sys.argv[1]), Sealer(parse_sealing_keys(new_sealing_key())), lambda: 1)
    os.fdatasync = os.fsync = lambda _: threading.Event().wait()
    assert not (await made.append("1", "x")).written
    await made.close()
    print("closed", flush=True)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, b"closed"), done.stderr
