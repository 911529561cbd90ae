"""structlog, set up once: JSON off a terminal, readable on one. UTC, no locals in tracebacks, no secrets."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from broker.secret import Secret

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from broker.settings import Log

_level = "info"
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def set_up(log: Log, stream: TextIO | None = None) -> None:
    """Send everything to *stream* (by default standard error), one event a line."""
    global _level  # noqa: PLW0603 - as structlog's own configuration is
    _level = log.level
    stream = stream or sys.stderr
    _append(stream)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show it shows by its code
    readable = log.format == "text" or (log.format == "auto" and stream.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
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
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log.level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    # Libraries: warnings and worse, through the same door.
    logging.basicConfig(level=logging.WARNING, stream=stream, format="%(levelname)s %(name)s %(message)s", force=True)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it repeats what it cannot parse, keys included


def _append(stream: TextIO) -> None:
    """Write at the end of a file, wherever that is by then: one that is cut short while we write gets no hole.

    As with `>>`. There is no setting for a log file and so none to open anew: logrotate's `copytruncate` is for us.
    """
    try:
        descriptor = stream.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
    except OSError:  # it is no file at all: a test's
        pass


def says(level: str) -> bool:
    """Whether events of *level* are said: asked where even the saying of nothing would cost too much."""
    return _LEVELS[level] >= _LEVELS[_level]


def _without_empty(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: value for key, value in event.items() if value is not None and value != ""}


def _redacted(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: str(value) if isinstance(value, Secret) else value for key, value in event.items()}
