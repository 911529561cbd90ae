"""What somebody else wrote is shown by the commands without controlling the terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.live import Live
from rich.table import Table
from rich.text import Text

from broker.cli import console
from broker.cli.console import Terminal

if TYPE_CHECKING:
    from rich.console import Console

ATTACKS = ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\r", "\x08", "\x00", "\x7f", "\u202e", "\u2066"]


@pytest.fixture
def shown() -> io.StringIO:
    """Return what is written to a terminal."""
    return io.StringIO()


@pytest.fixture
def terminal(shown: io.StringIO) -> Console:
    """Return a terminal with colours."""
    return Terminal(file=shown, force_terminal=True, color_system="truecolor", width=80, soft_wrap=True)


@pytest.mark.parametrize("attack", ATTACKS)
def test_texts_of_others_control_nothing(terminal: Console, shown: io.StringIO, attack: str) -> None:
    """In a text, a cell of a table, markup and a live display no control character is left."""
    table = Table("grant", "last")
    table.add_row(Text(f"g{attack}1"), f"x{attack}y")
    for content in (f"an error: {attack}.", Text(attack, "bold red"), table):
        terminal.print(content, markup=False)
    assert attack not in shown.getvalue()
    with Live(table, console=terminal, auto_refresh=False) as live:
        live.update(table, refresh=True)
    if attack != "\r":  # rich itself moves the cursor of a live display
        assert attack not in shown.getvalue()


def test_an_escape_is_shown(terminal: Console, shown: io.StringIO) -> None:
    """A person sees that somebody tried."""
    terminal.print(Text("\x1b[2Jx"))
    assert shown.getvalue() == "\\x1b[2Jx\n"


def test_styles_and_line_ends_stay(terminal: Console, shown: io.StringIO) -> None:
    """The styles of a command and line ends are its own."""
    terminal.print("[bold]one[/bold]\ntwo")
    assert shown.getvalue() == "\x1b[1mone\x1b[0m\ntwo\n"


def test_every_command_prints_so() -> None:
    """Both consoles are of that kind, and no command makes another."""
    assert isinstance(console.out, Terminal)
    assert isinstance(console.err, Terminal)
    folder = Path(console.__file__).parent
    others = [file.name for file in folder.rglob("*.py") if "Console(" in file.read_text().replace("(Console)", "")]
    assert not others
