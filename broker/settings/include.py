"""The files that a settings file includes: which ones, what they may hold, and one table made of all.

An included file holds provider tables and nothing else, so that no order of files decides what the broker does: the
same provider in two files is an error. Knows no setting of a provider.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.errors import InvalidSettings
from broker.settings import document
from broker.settings.environment import ENV_PREFIX, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.settings.document import Document
    from broker.settings.environment import Keys

VARIABLE = f"{ENV_PREFIX}INCLUDE"
_OTHERS_MAY_WRITE = 0o002
_READ_ONE = "correct its mode or owner, or exclude it from the pattern"


class Place(NamedTuple):
    """Where a key stands."""

    rank: int
    """Of the file among all that were read: errors are shown in this order."""
    line: int
    file: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Sources:
    """The settings file and those that it includes, in the order in which they were read."""

    documents: list[Document]
    table: dict[str, Any]
    """What they hold together."""
    findings: list[str] = field(default_factory=list)

    def places(self) -> dict[Keys, Place]:
        """Return where each key stands; of the same key in two files, the first."""
        places: dict[Keys, Place] = {}
        for rank, read in enumerate(self.documents):
            for keys, line in read.lines().items():
                places.setdefault(keys, Place(rank, line, read.name))
        return places


def read_sources(path: Path | None) -> Sources:
    """Read a settings file and the files that it includes.

    Args:
        path: of the settings file; None: there is none, and only the environment may include files.

    Raises:
        InvalidSettings: the settings file itself cannot be read. What is wrong with others is a finding.
    """
    main = document.read(path)
    sources = Sources([main], dict(main.table))
    where = f"environment: {VARIABLE}" if os.environ.get(VARIABLE, "").strip() else main.where("include")
    read: set[Path] = set()
    for number, pattern in enumerate(_patterns(main.table.get("include")), 1):
        matched = _matching(path, pattern)
        if not matched:
            folder = (_base(path) / pattern).parent
            sources.findings.append(
                f'{where}: include (item {number}): "{pattern}" matches no file in {folder}: write one there, or '
                "remove the pattern"
            )
        for file in matched:
            if file not in read:
                _include(sources, file)
        read.update(matched)
    return sources


def _patterns(value: object) -> list[str]:
    """Return the patterns of the environment or else of the file; what is no list of text is left to the schema."""
    if given := os.environ.get(VARIABLE, "").strip():
        try:
            value = parse(given, list[str])
        except InvalidSettings:
            return []
    return value if isinstance(value, list) and all(isinstance(item, str) and item for item in value) else []


def _base(path: Path | None) -> Path:
    return Path() if path is None else path.parent


def _matching(path: Path | None, pattern: str) -> list[Path]:
    """Return the files that match, sorted, without folders and the settings file itself."""
    base = _base(path)
    found = map(Path, glob.glob(str(base / pattern)))  # noqa: PTH207 - Path.glob matches hidden files, as editors leave
    files = [file for file in found if not file.is_dir()]
    return sorted(file for file in files if path is None or not file.exists() or not file.samefile(path))


def _include(sources: Sources, file: Path) -> None:
    """Add the providers of one file."""
    try:
        read = document.read(file, _READ_ONE)
    except InvalidSettings as error:
        sources.findings += error.findings
        return
    sources.findings += _problems(read)
    tables, held = read.table.get("providers", {}), sources.table.setdefault("providers", {})
    if isinstance(tables, dict) and isinstance(held, dict):
        twice = [name for name in tables if name in held]
        places = sources.places() if twice else {}
        for name in twice:
            other = places.get(("providers", name), sources.documents[0].name)
            sources.findings.append(
                f"{read.where('providers', name)}: providers.{name}: stands in {other} too: keep one of the two"
            )
        sources.table["providers"] = {**tables, **held} if twice else {**held, **tables}
    sources.documents.append(read)


def _problems(read: Document) -> Iterator[str]:
    for key in read.table:
        if key != "providers":
            yield (
                f"{read.where(key)}: {key}: is not allowed in an included file, which may hold [providers.NAME] only: "
                "move it to the settings file"
            )
    if not isinstance(read.table.get("providers", {}), dict):
        yield f"{read.where('providers')}: providers: must be a table, such as [providers.NAME]"
    if read.path is not None:
        for path in (read.path, read.path.parent):
            if _others_may_write(path):
                mode = f"{path.stat().st_mode & 0o7777:04o}"
                what = "it" if path is read.path else f"files in {path}"
                yield (
                    f"{read.name}: everybody on this host may write {what} (mode {mode}), and so choose who receives "
                    f"refresh tokens: chmod o-w {path}"
                )


def _others_may_write(path: Path) -> bool:
    """Return whether any user may write here. A file system that is mounted read-only, as in a pod, says no."""
    try:
        writable = path.stat().st_mode & _OTHERS_MAY_WRITE
        return bool(writable) and not os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return False


def described(sources: Sources) -> Sequence[tuple[Path, tuple[str, ...]]]:
    """Return each file that was read, and the names of its providers."""
    return [(read.path, tuple(_tables(read))) for read in sources.documents if read.path is not None]


def _tables(read: Document) -> dict[str, Any]:
    """Return the provider tables of a file; none where `providers` is something else, which the schema reports."""
    tables = read.table.get("providers")
    return tables if isinstance(tables, dict) else {}
