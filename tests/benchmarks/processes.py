"""Start what a benchmark measures, wait until it serves, and read what it spends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PYTHON = [sys.executable, "-m"]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
START_LIMIT = 60.0
"""Seconds within which a process has to serve."""


@contextlib.contextmanager
def running(*command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process as long as the body lasts, then end it by SIGTERM."""
    process: subprocess.Popen[bytes] = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


@contextlib.contextmanager
def running_broker(config: Path, port: int, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run `token-broker run` as long as the body lasts, which begins once the broker is ready to serve callers."""
    command = [*PYTHON, "broker", "run", "--config", str(config)]
    with running(*command, env={**os.environ, "PYTHONPATH": "."}, **options) as broker:
        wait_until_ready(port, broker)
        yield broker


def wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once `/readyz` of the broker on *port* is 200: its port is open before it serves callers.

    Raises:
        TimeoutError: it is not within `START_LIMIT`.
        ChildProcessError: the broker has ended.
    """
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        # 503 is an HTTPError and so an OSError, as is a refused connection.
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return
        if process.poll() is not None:
            raise ChildProcessError(f"the broker ended with {process.returncode}")
        time.sleep(0.005)
    raise TimeoutError(f"no /readyz on port {port}")


def wait_for_port(port: int) -> None:
    """Return once somebody listens on *port*: for servers that serve from their first connection on.

    Raises:
        TimeoutError: nobody does within `START_LIMIT`.
    """
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.01)
    raise TimeoutError(f"nobody listens on port {port}")


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process so far, to the nanosecond: those of the threads that it has."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def waited(pid: int) -> float:
    """Return the seconds so far for which the threads of a process could run and had no CPU."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[1]) for thread in threads) / 1e9


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far, user and system, threads that have ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
