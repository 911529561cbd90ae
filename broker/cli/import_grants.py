"""`token-broker import`: hand refresh tokens that a person already has to the broker."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from broker import errors
from broker.cli.console import ASKS_BROKER, EXIT_FAILURE, app, err, exits, out
from broker.cli.http import Broker, broker_at, run
from broker.cli.options import Config, Json, KeyFile, Url
from broker.cli.stdin import STDIN, read_chunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import BinaryIO

_FILE_HELP = 'NDJSON file, - for standard input: {"grant_id", "provider", "refresh_token", "scope"?} per line.'
_TIMEOUT = 24 * 3600
"""Seconds for the whole import: a million lines take a while."""


@app.command("import", epilog=exits(*ASKS_BROKER, own={EXIT_FAILURE: "a line was refused, or failure"}))
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE|-", help=_FILE_HELP)],
    as_json: Json = False,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Import refresh tokens that you already have. It is safe to repeat: a line imported before changes nothing."""

    async def work() -> dict[str, int]:
        stream = _open(file)
        progress = ImportProgress(file, stream, visible=err.is_terminal and not as_json)
        with stream or nullcontext(), progress.bar:
            async with broker_at(config, url, key_file, timeout=_TIMEOUT) as broker:
                await _import(broker, progress)
        return progress.counts

    counts = run(work())
    if as_json:
        typer.echo(json.dumps(counts))
    else:
        summary = ", ".join(f"{count} {status}" for status, count in counts.items())
        out.print(summary or "There is nothing to import: the input has no line.", markup=False)
    if counts.get("refused"):
        raise typer.Exit(EXIT_FAILURE)


def _open(file: Path) -> BinaryIO | None:
    """Open *file*; return None where standard input is to be read."""
    try:
        return None if str(file) == "-" else file.open("rb")
    except OSError as error:
        raise errors.InvalidRequest(f"{file}: cannot be read ({error.strerror})") from None


class ImportProgress:
    """How far an import is: the lines to send, what became of them, and a bar on a terminal."""

    def __init__(self, file: Path, stream: BinaryIO | None, *, visible: bool) -> None:
        self.counts: dict[str, int] = {}
        """How many lines had which status."""
        self._descriptor = stream.fileno() if stream else STDIN
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=err, disable=not visible, transient=True)
        size = file.stat().st_size if stream and file.is_file() else None
        self._task = self.bar.add_task("importing", total=size)

    @property
    def total(self) -> int:
        """Number of lines that the broker has answered."""
        return sum(self.counts.values())

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the input as it is read."""
        while chunk := await read_chunk(self._descriptor):
            self.bar.advance(self._task, len(chunk))
            yield chunk

    def count(self, outcome: dict[str, Any]) -> None:
        """Count what became of a line, and print why where it was refused or needs attention."""
        self.counts[outcome["status"]] = self.counts.get(outcome["status"], 0) + 1
        self.bar.update(self._task, description=f"{self.total} grants")
        if words := outcome.get("error_description") or outcome.get("warning"):
            name = f" ({outcome['grant_id']})" if "grant_id" in outcome else ""
            err.print(f"line {outcome['line']}{name}: {words}", markup=False)


async def _import(broker: Broker, progress: ImportProgress) -> None:
    """Stream the input to *broker*, and count its outcomes as they arrive.

    Raises:
        BrokerError: the broker's error.
        TokenUnavailable: the broker went away; the message says how far it was.
    """
    try:
        async with broker.stream("POST", "/v1/import", data=progress.chunks()) as answer:
            if answer.status != 200:
                raise broker.error_of(answer.status, await answer.json())
            async for line in answer.content:
                progress.count(json.loads(line))
    except errors.TokenUnavailable as error:
        if not progress.counts:
            raise
        raise errors.TokenUnavailable(
            f"{error}; {progress.total} lines were processed, and importing the whole file again is safe"
        ) from None
