"""The journal on a real disk: what was appended is there after any crash, once, and nobody else takes it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from broker.errors import InvalidSettings
from broker.journal.file_format import KEEP_MS, KEEP_UNPROVED_MS, Entry
from broker.journal.journal import Journal
from broker.secret import Sealer, new_sealing_key, parse_sealing_keys
from tests.refresh.journals import Now, heir_of, texts

if TYPE_CHECKING:
    from pathlib import Path


async def test_entries_are_sealed_and_adopted(tmp_path: Path, sealer: Sealer) -> None:
    """The next replica adopts what a replica that is gone wrote; nobody reads it without the key."""
    journal = await Journal.open(tmp_path, sealer, Now())
    await asyncio.gather(*(journal.append(f"g{n}", f"refresh-token-{n}") for n in range(100)))
    await journal.close()
    (file,) = tmp_path.iterdir()
    assert b"refresh-token" not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    heir = await heir_of(tmp_path, sealer, Now())
    assert texts(heir) == [f"refresh-token-{n}" for n in range(100)]
    assert file.stat().st_size == 0, "it is in the heir's"
    assert heir.ended == [file.stem]
    await heir.remove_ended(file.stem)
    assert len(list(tmp_path.iterdir())) == 1
    await heir.close()


async def test_an_heir_that_ends_too_leaves_all_lives_to_the_next(tmp_path: Path, sealer: Sealer) -> None:
    """Replicas that end before they dealt with the ones before them leave all of those lives to the next."""
    lives: list[str] = []
    for number in range(4):
        heir = await heir_of(tmp_path, sealer, Now())
        assert sorted(heir.ended) == sorted(lives)
        await heir.append(f"g{number}", f"token {number}")
        (life,) = {path.stem for path in tmp_path.iterdir()} - set(lives)
        lives.append(life)
        await heir.close()
    last = await heir_of(tmp_path, sealer, Now())
    assert sorted(last.ended) == sorted(lives)
    assert sorted(texts(last)) == [f"token {number}" for number in range(4)]
    for life in lives:
        await last.remove_ended(life)
    assert last.ended == []
    assert len(list(tmp_path.iterdir())) == 1
    await last.close()


async def test_a_living_replica_keeps_its_file(tmp_path: Path, sealer: Sealer) -> None:
    """Two replicas on one directory write two files, and neither adopts the other's."""
    one = await Journal.open(tmp_path, sealer, Now())
    await one.append("a", "mine")
    two = await heir_of(tmp_path, sealer, Now())
    assert texts(two) == []
    await two.append("b", "yours")
    assert len(list(tmp_path.iterdir())) == 2
    await one.close()
    await two.close()
    heir = await heir_of(tmp_path, sealer, Now())
    assert sorted(texts(heir)) == ["mine", "yours"]
    await heir.close()


@pytest.mark.parametrize("lives", [("a", "b"), ("b", "a")])
async def test_of_two_files_the_later_entry_counts(tmp_path: Path, sealer: Sealer, lives: tuple[str, str]) -> None:
    """Where two replicas wrote entries of one grant, an heir keeps the later one, whichever file it reads first."""
    now = Now()
    older, newer = [await Journal.open(tmp_path, sealer, now, life) for life in lives]
    await older.append("g1", "spent")
    now.ms += 5
    await newer.append("g1", "current")
    await older.close()
    await newer.close()
    heir = await heir_of(tmp_path, sealer, now)
    assert texts(heir) == ["current"]
    await heir.close()


async def test_a_torn_last_line_is_no_error(tmp_path: Path, sealer: Sealer) -> None:
    """Every whole line is read, at whatever byte a crash cut the file."""
    journal = await Journal.open(tmp_path, sealer, Now())
    for text in ("one", "two", "three"):
        await journal.append(text, text)
    await journal.close()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    second_end = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for cut in (second_end, second_end + 1, second_end + 20, len(whole) - 1):
        for left in tmp_path.iterdir():
            left.unlink()
        file.write_bytes(whole[:cut])
        heir = await heir_of(tmp_path, sealer, Now())
        wanted = ["one", "two", "three"] if cut == len(whole) - 1 else ["one", "two"]
        assert texts(heir) == wanted
        await heir.close()


async def test_only_what_is_durable_and_old_is_dropped(tmp_path: Path, sealer: Sealer) -> None:
    """Compaction keeps what is young and what the store may not have on disk, however old."""
    now = Now()
    journal = await Journal.open(tmp_path, sealer, now)
    for name in ("durable", "heard", "unheard"):
        entry = await journal.append(name, name)
        entry.recorded, entry.durable = name != "unheard", name == "durable"
    await journal.compact()
    assert texts(journal) == ["durable", "heard", "unheard"]
    now.ms += KEEP_MS + 1
    young = await journal.append("young", "young")
    young.recorded = young.durable = True
    await journal.compact()
    assert texts(journal) == ["heard", "unheard", "young"]
    assert journal.unrecorded == 1
    now.ms += KEEP_UNPROVED_MS + 1
    await journal.compact()
    assert texts(journal) == ["unheard"]
    await journal.close()
    heir = await heir_of(tmp_path, sealer, now)
    assert texts(heir) == ["unheard"]
    await heir.close()


async def test_a_directory_that_cannot_be_written_is_a_settings_error(tmp_path: Path, sealer: Sealer) -> None:
    """A file where the journal's directory should be is an error in words."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSettings, match="journal"):
        await Journal.open(tmp_path / "file", sealer, Now())


_WRITER = """
import asyncio, sys
from pathlib import Path
from broker.journal.journal import Journal
from broker.secret import Sealer, parse_sealing_keys
async def main():
    journal = await Journal.open(Path(sys.argv[1]), Sealer(parse_sealing_keys(sys.stdin.readline())), lambda: 1)
    n = 0
    while True:
        await asyncio.gather(*(journal.append(str(n + k), str(n + k)) for k in range(7)))
        n += 7
        print(n, flush=True)
asyncio.run(main())
"""


async def test_sigkill_loses_nothing_that_was_confirmed(tmp_path: Path, sealer: Sealer, key: str) -> None:
    """A replica killed at any moment leaves every append that it had confirmed."""
    for _ in range(3):
        directory = tmp_path / "journal"
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(key + "\n")
        writer.stdin.flush()
        for _ in range(20):
            confirmed = int(await asyncio.to_thread(writer.stdout.readline))
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].split()
        confirmed = int(rest[-1]) if rest and rest[-1].isdigit() else confirmed
        heir = await heir_of(directory, sealer, Now())
        assert texts(heir)[:confirmed] == [str(n) for n in range(confirmed)]
        await heir.close()
        for left in directory.iterdir():
            left.unlink()


async def test_the_last_entry_of_a_grant_counts(tmp_path: Path, sealer: Sealer) -> None:
    """Only the last entry of a grant is replayed, so the journal grows with grants, not with refreshes."""
    now = Now()
    journal = await Journal.open(tmp_path, sealer, now)
    for number in range(2000):
        now.ms += 1
        entry = await journal.append(f"g{number % 3}", f"{'x' * 400} {number}")
        entry.recorded = entry.durable = True
    assert [text.split()[1] for text in texts(journal)] == ["1998", "1999", "1997"]
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 300_000
    await journal.close()


async def test_a_rewritten_file_has_every_grant(tmp_path: Path, sealer: Sealer) -> None:
    """Another thread rewrites the file while entries are replaced: none is missing from it at any moment."""
    journal = await Journal.open(tmp_path, sealer, Now())
    await journal.append("g", "first")
    over, seen = threading.Event(), set()

    def read() -> None:
        while not over.is_set():
            seen.add(len(journal.entries()))

    reader, interval = threading.Thread(target=read), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reader.start()
    try:
        for number in range(100_000):
            journal._remember(Entry("g", number, "another"))
    finally:
        sys.setswitchinterval(interval)
        over.set()
        reader.join()
    assert seen == {1}
    await journal.close()


async def test_an_entry_that_the_store_refused_is_retracted(tmp_path: Path, sealer: Sealer) -> None:
    """A refused entry gives way to what was known before it, in memory and for whoever adopts the file."""
    now = Now()
    journal = await Journal.open(tmp_path, sealer, now)
    await journal.append("g1", "login")
    for _ in range(3):
        now.ms += 1
        await journal.retract(await journal.append("g1", "refresh of the grant before"))
        await journal.retract(await journal.append("g2", "refresh of a grant that is gone"))
    assert texts(journal) == ["login"]
    await journal.close()
    heir = await heir_of(tmp_path, sealer, now)
    assert texts(heir) == ["login"]
    await heir.close()


async def test_wrong_keys_destroy_nothing(tmp_path: Path, sealer: Sealer) -> None:
    """A file that no key opens stays, and a replica with the right keys reads it."""
    journal = await Journal.open(tmp_path, sealer, Now())
    await journal.append("g1", "answer")
    await journal.close()
    for _ in range(2):
        stranger = await heir_of(tmp_path, Sealer(parse_sealing_keys(new_sealing_key())), Now())
        assert texts(stranger) == []
        await stranger.close()
    heir = await heir_of(tmp_path, sealer, Now())
    assert texts(heir) == ["answer"]
    await heir.close()


async def test_the_later_entry_counts_whatever_the_clock_says(tmp_path: Path, sealer: Sealer) -> None:
    """If the clock is set back between two entries of a grant, the one that was appended later is kept."""
    now = Now()
    journal = await Journal.open(tmp_path, sealer, now)
    await journal.append("g1", "a day ahead")
    now.ms -= 86_400_000
    later = await journal.append("g1", "put back")
    assert texts(journal) == ["put back"]
    await journal.retract(later)
    await journal.append("g2", "refused")
    now.ms -= 1
    await journal.retract(await journal.append("g2", "refused too"))
    await journal.append("g1", "the last")
    await journal.close()
    heir = await heir_of(tmp_path, sealer, now)
    assert sorted(texts(heir)) == ["refused", "the last"]
    await heir.close()
