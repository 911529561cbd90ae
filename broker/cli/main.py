"""The command line `token-broker`: it imports every command and runs the one that was asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from broker.cli import (
    caller,
    check,
    demo,
    explain,
    health,
    import_grants,
    init,
    keys,
    login,
    logout,
    notify,
    retry,
    run,
    status,
    token,
)
from broker.cli.console import app, err, exit_code
from broker.cli.sink import command as sink
from broker.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (
    caller,
    check,
    demo,
    explain,
    health,
    import_grants,
    init,
    keys,
    login,
    logout,
    notify,
    retry,
    run,
    sink,
    status,
    token,
)
"""The modules that register a command with `app` when they are imported."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. A user's mistake is one line on standard error, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=arguments, prog_name="token-broker")
    except BrokerError as error:
        for line in str(error).splitlines():
            err.print(f"token-broker: {line}", markup=False)
        sys.exit(exit_code(error))
