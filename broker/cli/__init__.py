"""The command `token-broker`. Nothing else imports it; commands speak HTTP to a running broker for themselves."""

import os
import signal
import sys

if os.getpid() == 1:
    # The first process of a container ignores SIGTERM until it has a handler, and the imports below take half a second.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

from broker.cli.main import main

__all__ = ["main"]
