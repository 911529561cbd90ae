"""Set up structlog, once: JSON off a terminal, readable on one. UTC, no locals in tracebacks, no secrets."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from broker.process.log_writer import LogWriter
from broker.secret import Secret

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from broker.settings import Log

log = structlog.get_logger()
_writer: LogWriter | None = None
_level = "info"
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def set_up(settings: Log, stream: TextIO | None = None) -> None:
    """Log everything to *stream* (by default standard error), one event a line."""
    global _level  # noqa: PLW0603 - structlog's own configuration is global too
    _level = settings.level
    written: Any = stream or _standard_error()
    stream = stream or sys.stderr
    is_terminal = stream.isatty()
    _append(stream)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # a terminal shows the code of what it cannot show
    readable = settings.format == "text" or (settings.format == "auto" and is_terminal)
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=structlog.dev.plain_traceback)
        if readable
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_empty,
            _redacted,
            *([] if readable else [structlog.processors.format_exc_info]),  # a plain traceback: never locals
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=structlog.WriteLoggerFactory(file=written),
        cache_logger_on_first_use=False,
    )
    # Libraries: warnings and worse, to the same stream.
    logging.basicConfig(level=logging.WARNING, stream=written, format="%(levelname)s %(name)s %(message)s", force=True)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it quotes what it cannot parse, keys included


def _standard_error() -> LogWriter | TextIO:
    """Return the writer of standard error, which is made once; where that is no file, as in a test, itself."""
    global _writer  # noqa: PLW0603 - there is one standard error
    if _writer is None:
        try:
            _writer = LogWriter(
                sys.stderr.fileno(), sys.stderr.encoding, lambda lines: log.warning("log.lost", lines=lines)
            )
        except OSError:
            return sys.stderr
    return _writer


def _append(stream: TextIO) -> None:
    """Write at the end of a file, wherever that is by then: truncating the file leaves no hole in it.

    As with `>>`. There is no setting for a log file, so none is reopened: use logrotate's `copytruncate`.
    """
    try:
        descriptor = stream.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
    except OSError:  # a test's stream is not a file
        pass


def is_enabled(level: str) -> bool:
    """Return whether events of *level* are logged, for places where even a discarded event would cost too much."""
    return _LEVELS[level] >= _LEVELS[_level]


def _without_empty(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: value for key, value in event.items() if value is not None and value != ""}


def _redacted(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: str(value) if isinstance(value, Secret) else value for key, value in event.items()}
