"""Limits that the pages name: how long a sink's command may take, and how many files a broker asks for."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import pytest
from structlog.testing import capture_logs

from broker.cli.sink import hook
from broker.cli.sink.hook import Action


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
