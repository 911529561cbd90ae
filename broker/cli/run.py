"""`token-broker run`."""

from __future__ import annotations

import asyncio
import resource
import sys
from typing import TYPE_CHECKING

import typer

from broker.cli.main import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_SETTINGS, app, exits
from broker.cli.options import Config, config_path, load
from broker.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Coroutine


@app.command("run", epilog=exits(EXIT_FAILURE, EXIT_SETTINGS))
def run_broker(config: Config = None) -> None:
    """Run the broker until SIGTERM or Ctrl-C. SIGHUP reloads callers and log level."""
    from broker import service
    from broker.process import logs
    from broker.process.signals import Signals

    settings = load(config)
    logs.set_up(settings.log)
    path = config_path(config)
    _raise_file_limit()
    run_loop(service.serve(settings, Signals(), reload=lambda: load(path)))


_FILES = 65_536


def _raise_file_limit() -> None:
    """Open as many files as we are allowed to, not as a shell's default of old says: each caller's link is one."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if most == resource.RLIM_INFINITY else min(most, _FILES)
    if files != resource.RLIM_INFINITY and files < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def run_loop(work: Coroutine[object, object, None]) -> None:
    """Run *work* on uvloop where there is one. A loop that died ends the process with 1."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(work)
    except BaseExceptionGroup as group:
        settings_errors, other = group.split(InvalidSettings)
        if settings_errors is not None and other is None:
            raise _first(settings_errors) from None
        import structlog

        structlog.get_logger().critical("broker.died", exc_info=group)
        raise typer.Exit(EXIT_FAILURE) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.Loop
