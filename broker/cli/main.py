"""The commands and their exit codes: 0, 1 failure, 2 usage, 75 try again, 77 log in again, 78 settings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from broker import __version__
from broker.errors import BrokerError, CorrectSettings, LogInAgain, ProviderUnavailable, TryAgain

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_FAILURE, EXIT_TRY_AGAIN, EXIT_LOG_IN, EXIT_SETTINGS = 1, 75, 77, 78

app = typer.Typer(
    name="token-broker",
    help="Keeps OAuth 2.0 grants alive and hands the current access token to your services.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # it prints locals, and ours hold tokens
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
err = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)
WIDE = 200
"""Columns of a table off a terminal, where nothing has to be folded."""


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"token-broker {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def exit_code(error: BrokerError) -> int:
    """What a script should do about *error*."""
    match error:
        case CorrectSettings():
            return EXIT_SETTINGS
        case LogInAgain():
            return EXIT_LOG_IN
        case TryAgain() | ProviderUnavailable():
            return EXIT_TRY_AGAIN
        case _:
            return EXIT_FAILURE


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. A user's mistake is one line on standard error, never a traceback."""
    from broker.cli import (  # noqa: F401 - they register themselves
        check,
        demo,
        explain,
        grants,
        init,
        keys,
        notify,
        operate,
        run,
        sink,
    )

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=arguments, prog_name="token-broker")
    except BrokerError as error:
        for line in str(error).splitlines():
            err.print(f"token-broker: {line}", markup=False)
        sys.exit(exit_code(error))
