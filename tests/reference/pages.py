"""Pages with generated parts: where they are, and how a part is put between its markers.

A part stands between `<!-- begin generated: NAME -->` and `<!-- end generated: NAME -->`, in whatever page has these
two lines. Knows nothing of what the parts hold.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CELL = 200
"""Characters of the longest table cell."""
_PART = re.compile(r"^(<!-- begin generated: (\w+) -->\n).*?^(<!-- end generated: \2 -->)$", re.DOTALL | re.MULTILINE)
_MARKER = re.compile(r"^<!-- (?:begin|end) generated: (\w+) -->$", re.MULTILINE)


def pages() -> list[Path]:
    """Return the pages that belong to the project: those that git tracks, and those it would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in sorted(filter(None, done.stdout.split("\0"))) if (path := ROOT / name).exists()]


def parts(text: str) -> list[str]:
    """Return the names of the generated parts of a page."""
    return [match[2] for match in _PART.finditer(text)]


def renewed(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return a page with its generated parts made anew.

    Raises:
        ValueError: A marker lacks its other half, or names a table that there is not.
    """
    if broken := set(_MARKER.findall(text)) - set(parts(text)):
        raise ValueError(f"markers without their other half: {', '.join(sorted(broken))}")
    if unknown := set(parts(text)) - set(tables):
        raise ValueError(f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(tables)}")
    return _PART.sub(lambda match: f"{match[1]}{tables[match[2]]()}\n{match[3]}", text)


def differing(found: Iterable[Path], tables: Mapping[str, Callable[[], str]]) -> dict[Path, str]:
    """Return the pages that are not what the code makes of them, each with what it should be."""
    changed = {}
    for path in found:
        text = path.read_text("utf-8")
        if (wanted := renewed(text, tables)) != text:
            changed[path] = wanted
    return changed


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table.

    Raises:
        ValueError: A cell is longer than `CELL` or has more than one line.
    """
    head, *lines = (f"| {' | '.join(map(_cell, row))} |" for row in (head, *rows))
    return "\n".join((head, "|---" * head.count(" | ") + "|---|", *lines))


def code(text: str) -> str:
    """Return *text* as code."""
    return f"`{text}`"


def _cell(text: str) -> str:
    if "\n" in text or len(text) > CELL:
        raise ValueError(f"a cell has one line of at most {CELL} characters, not {len(text)}: {text}")
    return text.replace("|", r"\|")
