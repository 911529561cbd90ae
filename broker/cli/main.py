"""The command line: its commands register themselves here. Owns the exit codes and which error leads to which."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from broker import __version__
from broker.errors import BrokerError, InvalidSettings, ProviderUnavailable, ReauthorizationRequired, TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXIT_FAILURE, EXIT_USAGE, EXIT_TRY_AGAIN, EXIT_LOG_IN, EXIT_SETTINGS, EXIT_INTERRUPTED = 1, 2, 75, 77, 78, 130
EXIT_CODES = {
    0: "success",
    EXIT_FAILURE: "failure",
    EXIT_USAGE: "wrong option or argument",
    EXIT_TRY_AGAIN: "temporary failure: try again",
    EXIT_LOG_IN: "a person must log in again",
    EXIT_SETTINGS: "invalid settings",
    EXIT_INTERRUPTED: "interrupted by Ctrl-C",
}
"""What the exit codes of every command mean, unless the command gives one a meaning of its own."""
ASKS_BROKER = (EXIT_FAILURE, EXIT_TRY_AGAIN, EXIT_SETTINGS)
"""Exit codes of a command that asks a running broker, beside 0."""
EXITS = "Exit codes: "
"""How the epilog of a command's help begins."""

app = typer.Typer(
    name="token-broker",
    help="Keep OAuth 2.0 grants alive, and hand the current access token to services.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # it prints locals, and those of the broker hold tokens
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
err = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)
WIDE = 200
"""Columns of a table that is not printed to a terminal, so that nothing is folded."""


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"token-broker {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


def exit_code(error: BrokerError) -> int:
    """Return the exit code of a command that *error* ends."""
    match error:
        case InvalidSettings():
            return EXIT_SETTINGS
        case ReauthorizationRequired():
            return EXIT_LOG_IN
        case TokenUnavailable() | ProviderUnavailable():
            return EXIT_TRY_AGAIN
        case _:
            return EXIT_FAILURE


def exits(*codes: int, own: Mapping[int, str] | None = None) -> str:
    """Return the epilog of a command's help: its exit codes beside 2 and 130, which every command has.

    Args:
        codes: Those with their general meaning; 0 is always one.
        own: Those that mean something of this command's own.
    """
    meanings = {code: EXIT_CODES[code] for code in (0, *codes)} | dict(own or {})
    return EXITS + "; ".join(f"{code} {meanings[code]}" for code in sorted(meanings)) + "."


def register() -> None:
    """Import the commands, which add themselves to `app`. They load what no other part of the daemon needs."""
    from broker.cli import (  # noqa: F401 - they register themselves
        check,
        demo,
        explain,
        grants,
        init,
        keys,
        notify,
        run,
        status,
    )
    from broker.cli.sink import command  # noqa: F401 - it registers itself


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. A user's mistake is one line on standard error, never a traceback."""
    register()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=arguments, prog_name="token-broker")
    except BrokerError as error:
        for line in str(error).splitlines():
            err.print(f"token-broker: {line}", markup=False)
        sys.exit(exit_code(error))
