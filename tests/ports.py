"""Ports for servers of tests: each worker of a test run has a range of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
_PORTS = itertools.cycle(random.Random().sample(range(12_000 + 5_000 * _WORKER, 17_000 + 5_000 * _WORKER), 5_000))


def free_port() -> int:
    """Return a port on which nobody listens, nor will before its server does.

    Each worker has ports of its own, below those that the kernel gives to outgoing connections.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", next(_PORTS)))
            return int(probe.getsockname()[1])
