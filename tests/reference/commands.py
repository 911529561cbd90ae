"""The tables of the commands: what each does, its exit codes, and its options. Made of the command line itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from broker.cli.console import EXIT_CODES, EXITS, app
from tests.reference.pages import code, table

_SHARED = ("--config", "--url", "--key-file", "--json")
"""Options that mean the same in every command."""
_ALL = ("--help", "--version")


def commands() -> str:
    """Return the tables of the commands, of their own options, of the shared ones, and of the exit codes."""
    found = dict(sorted(_found(get_command(app))))
    whole, own, shared = [], [], dict[str, tuple[Any, list[str]]]()
    for name, command in found.items():
        named = [parameter for parameter in command.params if not {*parameter.opts} & {*_ALL}]
        arguments = "".join(f" {parameter.metavar}" for parameter in named if parameter.param_type_name == "argument")
        words = " ".join(command.help.split()).removesuffix(".")
        whole.append(
            (code(f"token-broker {name}{arguments}"), words, command.epilog.removeprefix(EXITS).removesuffix("."))
        )
        for parameter in named:
            option = parameter.opts[0]
            if option in _SHARED and (option != "--key-file" or parameter.envvar):  # that of `caller new` makes a file
                shared.setdefault(option, (parameter, []))[1].append(name)
            else:
                own.append((code(name), _names(parameter), _default(parameter), parameter.help.removesuffix(".")))
    return "\n\n".join(
        (
            table(("command", "what it does", "exit codes"), whole),
            "Options of each command:",
            table(("command", "option", "default", "meaning"), own),
            "Options that several commands have:",
            table(("option", "default", "environment variable", "meaning", "commands"), map(_row, shared.values())),
            "Exit codes, where the command gives them no other meaning:",
            table(("code", "meaning"), ((str(number), words) for number, words in EXIT_CODES.items())),
        )
    )


def _found(command: Any, *above: str) -> Iterator[tuple[str, Any]]:
    for name, below in command.commands.items():
        if hasattr(below, "commands"):
            yield from _found(below, *above, name)
        else:
            yield " ".join((*above, name)), below


def _row(of: tuple[Any, list[str]]) -> tuple[str, ...]:
    parameter, names = of
    variable = code(parameter.envvar) if parameter.envvar else ""
    return (
        _names(parameter),
        _default(parameter),
        variable,
        parameter.help.removesuffix("."),
        ", ".join(map(code, names)),
    )


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return code(parameter.metavar)
    return ", ".join(map(code, parameter.opts))


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    return "" if parameter.default is None or parameter.default is False else code(str(parameter.default))
