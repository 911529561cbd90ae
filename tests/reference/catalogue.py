"""The page of kinds of providers: what each needs, begins with, and where that is from. Made of the catalogue."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from broker.cli.toml import toml
from broker.settings import catalogue as shipped
from broker.settings.catalogue import Kind
from tests.reference.pages import code, table

_COLUMNS = 120


def catalogue() -> str:
    """Return the table of all kinds, and a part for each."""
    kinds = [shipped.load(name) for name in shipped.names()]
    rows = [(f"[{code(kind.name)}](#{kind.name})", kind.title, ", ".join(map(code, kind.needs))) for kind in kinds]
    parts = ("\n".join(_part(kind)) for kind in kinds)
    return "\n\n".join((table(("kind", "title", "needs"), rows), *parts))


def _part(kind: Kind) -> Iterator[str]:
    yield f"## {kind.name}"
    yield ""
    yield f"{kind.title}; the sources were read on {kind.read}." if kind.sources else f"{kind.title}."
    if kind.templates or kind.settings:
        yield ""
    for name, template in kind.templates.items():
        default = "" if template.default is None else f", by default {code(toml(template.default))}"
        example = f"such as {code(toml(template.example))}{default}"
        yield from _item(f"{code(f'parameters.{name}')}, {template.description}, {example}")
    for key, value in kind.settings.items():
        yield from _item(f"{code(f'{key} = {toml(value)}')}: {kind.sources.get(key, '')}")
    facts = {key: source for key, source in kind.sources.items() if key not in kind.settings}
    if facts:
        yield from ("", "Further facts:", "")
    for key, source in facts.items():
        yield from _item(f"{key.replace('_', ' ')}: {source}")
    if kind.notes:
        yield from ("", "Notes:", "")
    for note in kind.notes:
        yield from _item(note)


def _item(words: str) -> list[str]:
    return textwrap.wrap(
        " ".join(words.split()),
        _COLUMNS,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
