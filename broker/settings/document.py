"""One TOML file as it was read: its table, the line of each key, and errors that name file and line."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.errors import InvalidSettings
from broker.settings.findings import HOLDS_NUL, keys_with_nul, lines_of, not_toml

if TYPE_CHECKING:
    from pathlib import Path

    from broker.settings.environment import Keys

NAME_ANOTHER = "name another file with --config, or make one with `token-broker init > broker.toml`"
"""What to do about a settings file that cannot be read."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file, its text and the table that it holds. *path* is None where there is no file: then it holds nothing."""

    path: Path | None
    text: str
    table: dict[str, Any]

    @property
    def name(self) -> str:
        """How messages name it."""
        return str(self.path or "settings")

    def lines(self) -> dict[Keys, int]:
        """Return the line number of every key and table header that begins a line."""
        return lines_of(self.text)

    def where(self, *keys: str) -> str:
        """Return `FILE:LINE` of a key, or of the innermost table around it."""
        lines = self.lines()
        found = next((lines[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in lines), None)
        return self.name if found is None else f"{self.name}:{found}"


def read(path: Path | None, cure: str = NAME_ANOTHER) -> Document:
    """Read a file; *cure* says what to do about one that cannot be read.

    Raises:
        InvalidSettings: it cannot be read, is not TOML, or holds a NUL character.
    """
    if path is None:
        return Document(None, "", {})
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidSettings(f"{path}: cannot be read by uid {os.getuid()} ({error.strerror}): {cure}") from None
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InvalidSettings(f"{path}:{line}: is not UTF-8: save the file as UTF-8") from None
    try:
        found = Document(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(f"{path}:{not_toml(str(error), text)}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or as many brackets
        raise InvalidSettings(f"{path}: is not TOML for settings: `token-broker init` prints an example") from None
    if with_nul := keys_with_nul(found.table):
        raise InvalidSettings(*(f"{found.where(*keys)}: {'.'.join(keys)}: {HOLDS_NUL}" for keys in with_nul))
    return found
