"""The command line `token-broker`: it imports every command and runs the one that was asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

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
    move,
    notify,
    providers,
    reload,
    retry,
    run,
    status,
    token,
)
from broker.cli.console import app, err, exit_code
from broker.cli.sink import sink
from broker.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
    move,
    notify,
    providers,
    reload,
    retry,
    run,
    sink,
    status,
    token,
)
"""The modules that register a command with `app` when they are imported."""


_PANELS = {
    "Start": ("demo", "providers", "init", "check", "run"),
    "Grants": ("login", "import", "token", "sink", "explain", "retry", "logout"),
    "Operate": ("status", "health", "reload", "caller", "keys", "move", "notify"),
}
"""The commands as `--help` shows them, each group in the order in which a person needs them."""
_PLACES = {
    name: (place, panel)
    for place, (panel, name) in enumerate((panel, name) for panel, names in _PANELS.items() for name in names)
}


def _without_flag_types(params: Iterable[Any]) -> list[Any]:
    """Return *params* with no type shown for flags: typer would print `<bool>` beside each."""
    shown = list(params)
    for param in shown:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return shown


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_flag_types(super().get_params(ctx))


class _Group(TyperGroup):
    """A group of commands, shown in panels and in the order of `_PANELS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: _PLACES.get(name, (len(_PLACES), "")))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command: Any = super().get_command(ctx, cmd_name)
        if command is not None and cmd_name in _PLACES:
            command.rich_help_panel = _PLACES[cmd_name][1]
        return command

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_flag_types(super().get_params(ctx))


for _group in (app, *(each.typer_instance for each in app.registered_groups if each.typer_instance)):
    _group.info.cls = _Group
    for _registered in _group.registered_commands:
        _registered.cls = _Command


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
