"""`token-broker run`: the broker itself, until a signal ends it."""

from __future__ import annotations

import asyncio
import resource
import sys
from typing import TYPE_CHECKING

import structlog
import typer

from broker.cli.console import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_SETTINGS, app, exits
from broker.cli.options import Config, config_path, load
from broker.errors import InvalidSettings
from broker.process import logs, memory_image
from broker.process.audit_file import require_usable
from broker.process.signals import Signals
from broker.settings import file as settings_file

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from broker.settings import Settings

_MAX_OPEN_FILES = 65_536


@app.command("run", epilog=exits(EXIT_FAILURE, EXIT_SETTINGS))
def run_broker(config: Config = None) -> None:
    """Run the broker until SIGTERM or Ctrl-C. SIGHUP reloads providers, callers, log level and audit file."""
    memory_image.protect()
    settings = load(config)
    logs.set_up(settings.log)
    _require_audit(settings, config_path(config))
    _raise_file_limit()
    run_loop(_serve(settings, config_path(config)))


def _require_audit(settings: Settings, path: Path | None) -> None:
    """Require that the audit file can be opened; the error names where it was set."""
    try:
        require_usable(settings.audit)
    except InvalidSettings as error:
        where = settings_file.origins(path)("audit", "file")
        raise InvalidSettings(*(f"{where}: {finding}" for finding in error.findings)) from None


def _serve(settings: Settings, path: Path | None) -> Coroutine[object, object, None]:
    """Return the broker, to be run. Defers redis, orjson and prometheus-client, which no other command needs.

    Args:
        settings: What to run with.
        path: Settings file that SIGHUP reads again; None: the environment alone.
    """
    from broker import service

    return service.serve(settings, Signals(), reload=lambda: load(path))


def _raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one: every caller connection needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run_loop(work: Coroutine[object, object, None]) -> None:
    """Run *work* on uvloop where the platform has it.

    Raises:
        InvalidSettings: *work* found a setting that it cannot use.
        typer.Exit: a task failed (1), or Ctrl-C interrupted the loop (130).
    """
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(work)
    except BaseExceptionGroup as group:
        settings_errors, other = group.split(InvalidSettings)
        if settings_errors is not None and other is None:
            raise _first(settings_errors) from None
        structlog.get_logger().critical("broker.died", exc_info=group)
        raise typer.Exit(EXIT_FAILURE) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """Return the event loop to use; None: asyncio's own. Defers uvloop, which Windows does not have."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.Loop
