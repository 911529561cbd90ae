"""`token-broker providers`: list the kinds of providers that the catalogue has, or show one with its sources."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from broker.cli.console import TABLE_COLUMNS, app, exits, out
from broker.cli.options import Json
from broker.cli.toml import toml
from broker.settings import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.settings.catalogue import Kind, Template

_COLUMNS = 100


@app.command(epilog=exits())
def providers(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="Kind to show; without it, all are listed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the kinds of providers, or show one: its settings, where each is from, and notes."""
    if kind is not None:
        require_kind(kind)
    found = [catalogue.load(name) for name in (catalogue.names() if kind is None else (kind,))]
    if as_json:
        described = [_described(each) for each in found]
        typer.echo(json.dumps(described if kind is None else described[0], default=str))
    elif kind is None:
        _print_list(found)
    else:
        typer.echo("\n".join(_shown(found[0])))


def require_kind(name: str) -> str:
    """Return *name* if the catalogue has it; it ends the command otherwise."""
    if name not in catalogue.names():
        raise typer.BadParameter(catalogue.unknown(name))
    return name


def described(template: Template) -> str:
    """Return what stands for the name of *template*, with an example and the default."""
    default = "" if template.default is None else f", by default {toml(template.default)}"
    return f"{template.description}, such as {toml(template.example)}{default}"


def _print_list(kinds: list[Kind]) -> None:
    table = Table("kind", "title", "needs", box=None, pad_edge=False)
    for kind in kinds:
        table.add_row(kind.name, kind.title, ", ".join(kind.needs))
    if not out.is_terminal:
        out.width = TABLE_COLUMNS
    out.print(table)


def _described(kind: Kind) -> dict[str, Any]:
    return {
        "kind": kind.name,
        "title": kind.title,
        "base": kind.base,
        "read": kind.read,
        "needs": kind.needs,
        "settings": dict(kind.settings),
        "parameters": {name: template.model_dump() for name, template in kind.templates.items()},
        "sources": dict(kind.sources),
        "notes": list(kind.notes),
    }


def _shown(kind: Kind) -> Iterator[str]:
    """Yield the lines that describe one kind."""
    read = f" The sources were read on {kind.read}." if kind.sources else ""
    yield f"{kind.name}: {kind.title}.{read}"
    yield from _wrapped(f"It needs {', '.join(kind.needs)}.", 0)
    yield f"`token-broker init --provider {kind.name}` prints a settings file with it."
    yield from _part("Settings of this kind, and where each is from; yours take precedence:", kind.settings)
    for key, value in kind.settings.items():
        yield f"  {key} = {toml(value)}"
        yield from _wrapped(kind.sources.get(key, ""), 6)
    yield from _part("Values in braces, to set in `parameters` of the provider:", kind.templates)
    for name, template in kind.templates.items():
        yield from _wrapped(f"{name}: {described(template)}", 2)
    facts = {key: source for key, source in kind.sources.items() if key not in kind.settings}
    yield from _part("Further facts, with their sources:", facts)
    for key, source in facts.items():
        yield from _wrapped(f"{key.replace('_', ' ')}: {source}", 2)
    yield from _part("Notes:", kind.notes)
    for note in kind.notes:
        yield from _wrapped(f"- {note}", 2)


def _part(title: str, parts: object) -> list[str]:
    return ["", title] if parts else []


def _wrapped(words: str, indent: int) -> list[str]:
    first, rest = " " * indent, " " * (indent + 2)
    return textwrap.wrap(
        " ".join(words.split()),
        _COLUMNS,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
