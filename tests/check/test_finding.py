"""Findings as data: one line each, and the exit code for scripts."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import cast

import pytest

from broker.check.clocks import check_clock
from broker.check.file_facts import DiskFacts, FileFacts, write_probe
from broker.check.files import SLOW_MS, check_disk, check_secret
from broker.check.finding import Finding, Level, exit_code, from_error, summary


@pytest.mark.parametrize(
    ("levels", "code", "strict"),
    [
        ("", 0, 0),
        ("ok", 0, 0),
        ("ok unknown", 0, 0),
        ("ok warning", 0, 1),
        ("failed warning", 1, 1),
        ("failed", 1, 1),
        ("error", 78, 78),
        ("warning error failed", 78, 78),
    ],
)
def test_exit_code(levels: str, code: int, strict: int) -> None:
    """Wrong settings precede failed connections, which precede warnings, which count with strict; unknown never."""
    findings = [Finding(cast("Level", level), "x", "y") for level in levels.split()]
    assert (exit_code(findings, strict=False), exit_code(findings, strict=True)) == (code, strict)


def test_line() -> None:
    """What, why and the cure stand in one line; an empty part leaves no trace."""
    assert str(Finding("warning", "a:1", "b", "c", "d")) == "warning: a:1: b (c): d"
    assert str(Finding("unknown", "a", "b")) == "cannot tell: a: b"
    assert (
        str(from_error("broker.toml:3: log.level: must be 'debug'"))
        == "error: broker.toml:3: log.level: must be 'debug'"
    )
    assert summary([]) == "no errors"
    warning, error, failed = Finding("warning", "", ""), Finding("error", "", ""), Finding("failed", "", "")
    assert summary([Finding("ok", "", ""), warning]) == "no errors, 1 warning"
    assert summary([warning, error, failed, warning]) == "1 error, 1 failed, 2 warnings"
    assert summary([error, error]) == "2 errors"


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (DiskFacts(Path("/d"), 2**40, 0.2), []),
        (DiskFacts(Path("/d"), 20_480, 0.2), ["20 KiB are free"]),
        (DiskFacts(Path("/d"), 2**40, 250.0), ["one write takes 250 ms to reach the disk"]),
    ],
)
def test_disk(disk: DiskFacts, words: list[str]) -> None:
    """A disk that is nearly full causes a warning, and so does a slow one."""
    assert [finding.what for finding in check_disk(disk) if finding.level == "warning"] == words


@pytest.mark.parametrize(("stalls", "slow"), [(1, False), (4, True)])
def test_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stalls: int, *, slow: bool) -> None:
    """One write that meets a busy disk does not make the disk slow; most of them do."""
    waits = iter([0.15] * stalls + [0] * 5)
    monkeypatch.setattr(os, "fdatasync", lambda _: time.sleep(next(waits)))
    assert (write_probe(tmp_path).sync_ms > SLOW_MS) is slow
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "owner", "uid", "cure"),
    [
        (0o644, 1000, 1000, "chmod 0640 '/s t'"),
        (0o666, 1000, 1000, "chmod 0640 '/s t'"),
        (0o644, 1000, 0, "chmod 0640 '/s t'"),
        (0o660, 1000, 1000, "chmod 0640 '/s t'"),
        (0o644, 1000, 10001, "chown 10001 '/s t'"),
        (0o660, 1000, 10001, "chmod 0640 '/s t'"),
        (0o640, 1000, 10001, None),
        (0o600, 1000, 1000, None),
    ],
)
def test_secret_file(mode: int, owner: int, uid: int, cure: str | None) -> None:
    """The cure of a file that others may read or change never takes it from the broker, who may be one of them."""
    found = list(check_secret(FileFacts("sealing.keys_file", Path("/s t"), owner, mode, uid)))
    assert [finding.cure.startswith(cure or "?") for finding in found] == ([] if cure is None else [True])


@pytest.mark.parametrize(
    ("offset", "level"), [(None, "unknown"), (0.2, "ok"), (-4.9, "ok"), (8.0, "warning"), (-28800.0, "warning")]
)
def test_clock(offset: float | None, level: str) -> None:
    """A clock that is off by more than a Date header can show causes a warning, in seconds."""
    (finding,) = check_clock("redis", offset)
    assert finding.level == level
    assert offset is None or abs(offset) < 5 or f"{abs(offset):.0f} s" in finding.what
