"""The log: readable on a terminal, JSON anywhere else, and no secret in either."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from broker.process import logs
from broker.secret import Secret
from broker.settings import Log

TOKEN = "rt-0123456789abcdef"


def say(log: Log, stream: TextIO) -> None:
    """Log an event with a secret in it, and a traceback through a frame that holds one."""
    logs.set_up(log, stream)
    logger = structlog.get_logger()
    logger.info("broker.started", store="abc", refresh_token=Secret(TOKEN), nothing=None)
    logger.debug("cache.newer")
    try:
        fault(TOKEN[::-1])
    except RuntimeError:
        logger.exception("request.failed", grant_id="Zürich \N{SNOWMAN}")
    stream.flush()


def fault(backwards: str) -> None:
    """Raise where a local holds the secret."""
    held = backwards[::-1]
    raise RuntimeError("a fault") if held == TOKEN else ValueError


def on_a_terminal(log: Log) -> str:
    """Return what a terminal is shown."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w", encoding="latin-1") as stream:
        say(log, stream)
        shown = ""
        while not shown.endswith("a fault\r\n") and not shown.endswith("}\r\n"):
            shown += os.read(ours, 65536).decode("latin-1")
    os.close(ours)
    return shown


def in_a_file(log: Log, path: Path) -> str:
    """Return what a file holds."""
    with path.open("w", encoding="utf-8") as stream:
        say(log, stream)
    return path.read_text("utf-8")


@pytest.mark.parametrize("log", [Log(), Log(format="text")], ids=["auto", "text"])
def test_readable_on_a_terminal(log: Log) -> None:
    """A line for a person, whatever the terminal can show; the traceback as Python prints it, without locals."""
    shown = on_a_terminal(log)
    first = shown.splitlines()[0]
    assert "broker.started" in first
    assert "abc" in first
    assert not first.startswith("{")
    assert "RuntimeError: a fault" in shown
    assert "\\u2603" in shown  # latin-1 has no snowman
    assert TOKEN not in shown
    assert "cache.newer" not in shown


@pytest.mark.parametrize("log", [Log(), Log(format="json")], ids=["auto", "json"])
def test_json_in_a_file(log: Log, tmp_path: Path) -> None:
    """One JSON object a line: event, level, UTC time; what is None is not there; the traceback is one string."""
    text = in_a_file(log, tmp_path / "log")
    started, failed = map(json.loads, text.splitlines())
    assert (started["event"], started["level"], started["store"]) == ("broker.started", "info", "abc")
    assert started["timestamp"].endswith("Z")
    assert "nothing" not in started
    assert failed["exception"].endswith("RuntimeError: a fault")
    assert failed["grant_id"].startswith("Zürich")
    assert TOKEN not in text


def test_the_setting_wins(tmp_path: Path) -> None:
    """`log.format` says it for both, and `log.level` lets more through."""
    assert on_a_terminal(Log(format="json")).startswith('{"store"')
    text = in_a_file(Log(format="text", level="debug"), tmp_path / "log")
    assert not text.startswith("{")
    assert "cache.newer" in text
