"""A log whose reader stops, comes back or goes away: lines wait in bounds, and what was lost is counted."""

from __future__ import annotations

import asyncio
import os
import threading
import time

from broker.process.log_writer import MAX_LINES, LogWriter
from tests.waiting import until


class _Pipe:
    """A pipe, and all that was read from it."""

    def __init__(self) -> None:
        self.end, self.descriptor = os.pipe()
        self.text = b""

    def read_on(self) -> None:
        """Read from now on."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while data := os.read(self.end, 65536):
            self.text += data


async def test_a_reader_that_stops() -> None:
    """Nothing blocks; the first lines are kept in order, the rest is counted once the reader reads again."""
    pipe, lost = _Pipe(), list[int]()
    writer = LogWriter(pipe.descriptor, "utf-8", lost.append)
    began, count = time.monotonic(), 3 * MAX_LINES
    for number in range(count):
        writer.write(f"{number} {'x' * 100}\n")
    assert time.monotonic() - began < 5
    assert not lost
    pipe.read_on()
    await until(lambda: lost, 20)
    writer.write("the last\n")
    await until(lambda: pipe.text.endswith(b"the last\n"), 20)
    numbers = [int(line.split()[0]) for line in pipe.text.splitlines()[:-1]]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= MAX_LINES
    assert len(numbers) + sum(lost) == count


async def test_a_reader_that_goes_away() -> None:
    """Writing goes on without an error, and every line counts as lost."""
    pipe, lost = _Pipe(), list[int]()
    writer = LogWriter(pipe.descriptor, "utf-8", lost.append)
    os.close(pipe.end)
    for number in range(100):
        writer.write(f"{number}\n")
    await asyncio.to_thread(writer.drain)
    assert not lost  # nobody could read of it
    assert writer._lost == 100
