"""`token-broker import`: hand refresh tokens that a person already has to the broker."""

from __future__ import annotations

import json
import time
from collections import deque
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

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
_SHOWN_EVERY = 0.05
"""Seconds between two changes of the bar."""


@app.command("import", epilog=exits(*ASKS_BROKER, own={EXIT_FAILURE: "a line was refused, or failure"}))
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE|-", help=_FILE_HELP)],
    as_json: Json = False,
    config: Config = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Import refresh tokens that you already have. It is safe to repeat: a line imported before changes nothing."""
    stream = _open(file)
    progress = ImportProgress(file, stream, visible=err.is_terminal and not as_json)

    async def work() -> None:
        async with broker_at(config, url, key_file, timeout=_TIMEOUT) as broker:
            await _import(broker, progress)

    with stream or nullcontext():
        try:
            with progress.bar:
                run(work())
        except typer.Exit:
            err.print(f"token-broker: interrupted: {progress.how_to_go_on}", markup=False)
            raise
    counts = progress.counts
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
        columns = (
            TextColumn("importing"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=err, disable=not visible, transient=True)
        size = file.stat().st_size if stream and file.is_file() else None
        self._task = self.bar.add_task("", total=size)
        self._sent: deque[tuple[int, int]] = deque()
        """Of each piece sent that is not answered whole: how many lines and bytes were sent by its end."""
        self._answered = (0, 0)
        """The same, of the last piece that was answered whole."""
        self._began = time.monotonic()
        self._shown_at = 0.0

    @property
    def total(self) -> int:
        """Number of lines that the broker has answered."""
        return sum(self.counts.values())

    @property
    def how_to_go_on(self) -> str:
        """A sentence about an import that ended early."""
        return (
            f"{self.total} lines were processed, and importing the whole file again is safe: it imports what is "
            "missing, and changes nothing else"
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the input as it is read."""
        lines = size = 0
        self._began = time.monotonic()
        while chunk := await read_chunk(self._descriptor):
            lines, size = lines + chunk.count(b"\n"), size + len(chunk)
            self._sent.append((lines, size))
            yield chunk

    def count(self, outcome: dict[str, Any]) -> None:
        """Count what became of a line, and print why where it was refused or needs attention."""
        self.counts[outcome["status"]] = self.counts.get(outcome["status"], 0) + 1
        if not self.bar.disable:
            self._show(outcome["line"])
        if words := outcome.get("error_description") or outcome.get("warning"):
            name = f" ({outcome['grant_id']})" if "grant_id" in outcome else ""
            err.print(f"line {outcome['line']}{name}: {words}", markup=False)

    def _show(self, line: int) -> None:
        """Show that *line* is answered: what was merely sent is no progress."""
        while self._sent and self._sent[0][0] <= line:
            self._answered = self._sent.popleft()
        now = time.monotonic()
        if now < self._shown_at + _SHOWN_EVERY:
            return
        self._shown_at = now
        lines, size = self._answered
        if self._sent:  # of the piece that is being answered, by its lines
            next_lines, next_size = self._sent[0]
            size += (line - lines) * (next_size - size) // (next_lines - lines)
        rate = self.total / (now - self._began)
        self.bar.update(self._task, completed=size, description=f"{self.total} lines, {rate:.0f}/s")


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
        raise errors.TokenUnavailable(f"{error}; {progress.how_to_go_on}") from None
