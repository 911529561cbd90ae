"""What all commands share: the typer app they register with, both consoles, and the exit codes.

Every command module imports this one, so it imports none of them; `main` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.segment import Segment

from broker import __version__
from broker.errors import BrokerError, InvalidSettings, ProviderUnavailable, ReauthorizationRequired, TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import ConsoleOptions, RenderableType

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
    epilog="`token-broker demo` shows it at work, without any settings. `token-broker COMMAND --help` shows the "
    "options of a command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # it prints local variables, and those of the broker hold tokens
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Terminal(Console):
    """A console whose texts do not control the terminal: control characters in them are shown as escapes.

    What a provider or another caller wrote may be printed, and must not move the cursor or change the window's title.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render *renderable*; what rich itself writes to control the terminal stays."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def visible(text: str) -> str:
    """Return *text* with every character that is not printable shown as an escape, except line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )


err = Terminal(stderr=True, highlight=False, soft_wrap=True)
out = Terminal(highlight=False, soft_wrap=True)
TABLE_COLUMNS = 200
"""Width of a table that is not printed to a terminal, so that no cell is folded."""


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"token-broker {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
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
        own: Those that have a meaning of their own in this command.
    """
    meanings = {code: EXIT_CODES[code] for code in (0, *codes)} | dict(own or {})
    return EXITS + "; ".join(f"{code} {meanings[code]}" for code in sorted(meanings)) + "."
