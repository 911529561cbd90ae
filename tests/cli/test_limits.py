"""Limits that the pages name: how long a sink's command may take, and how many files a broker asks for."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from structlog.testing import capture_logs

from broker.cli.sink import hook, sink
from broker.cli.sink.hook import Action, Hook


@pytest.mark.server
async def test_a_command_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that it started; broker/cli/README.md says after how long."""
    assert hook._TIMEOUT == 60
    monkeypatch.setattr(hook, "_TIMEOUT", 0.3)
    began = time.monotonic()
    with capture_logs() as logged:
        await Action(("sh", "-c", "sleep 30 & wait")).do()
    assert time.monotonic() - began < 10
    assert [(line["event"], line["error"]) for line in logged] == [
        ("hook.failed", "killed: it had not ended after 0.3 s")
    ]


@pytest.mark.parametrize("soft", [64, 256])
def test_the_soft_limit_of_files_is_raised(soft: int) -> None:
    """To 65536, or to the hard limit where that is less; one that is higher already stays."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    program = (
        "import resource\nfrom broker.cli.run import _raise_file_limit\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n_raise_file_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == (65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard))


async def test_a_sink_ends_although_a_cancellation_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11's `wait_for` can swallow the one cancellation that a TaskGroup gives each of its tasks."""
    monkeypatch.setattr("broker.process.tasks._CANCEL_AGAIN", 0.05)
    lost = 0

    class Losing(Hook):
        async def run(self) -> None:
            nonlocal lost
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
            await asyncio.sleep(60)

    ending = asyncio.create_task(sink._forever([], [Losing(Action()), Losing(Action())]))
    await asyncio.sleep(0.02)  # until it listens to the signal
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(ending, 5)
    assert lost == 2
