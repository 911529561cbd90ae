"""docker-compose.yml and its overrides as Compose itself merges them, and their services as containers to run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.deploy.containers import Container
from tests.deploy.deployment import DEPLOY, ROOT, instructions, skip_or_fail

_SHIM = """#!/bin/sh
# What `docker compose` does here: no engine, so `build` is done, and `run … broker ARGUMENTS` runs token-broker itself.
[ "$1" = compose ] && shift
while [ "$1" = -f ]; do shift 2; done
case "$*" in
build*) ;;
"run --rm -T --no-deps broker "*) shift 5; exec token-broker "$@" ;;
*) echo "no such docker here: $*" >&2; exit 1 ;;
esac
"""


def compose_command() -> list[str]:
    """Docker Compose 2, or Debian's 1.29; skips where there is none."""
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=20)
        if asked.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        skip_or_fail("no Docker Compose here: apt-get install docker-compose")
    return ["docker-compose"]


def config(project: Path, *overrides: str, arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    """What Compose makes of the files in *project*: everything resolved and merged, without a warning."""
    files = [part for name in ("docker-compose.yml", *overrides) for part in ("-f", str(project / name))]
    done = subprocess.run(
        [*compose_command(), "--project-directory", str(project), *files, *arguments, "config"], text=True,
        capture_output=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    read: dict[str, Any] = yaml.safe_load(done.stdout)
    return read


def checkout(folder: Path) -> Path:
    """A checkout to follow the files' heads in: nothing of them reaches the real one."""
    folder.mkdir()
    shutil.copytree(DEPLOY, folder / "deploy")
    shutil.copy(ROOT / "docker-compose.yml", folder)
    return folder


def head(path: Path) -> list[str]:
    """The commands in the comment at the head of a file."""
    lines = path.read_text("utf-8").split("\n\n", 1)[0].splitlines()
    return [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]


def follow(project: Path, commands: list[str]) -> None:
    """Run commands of a head in *project*."""
    programs = project.parent / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "docker").write_text(_SHIM)
    (programs / "docker").chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in commands:
        done = subprocess.run(
            ["sh", "-euc", command], cwd=project, env={"PATH": path, "HOME": "/nonexistent"}, text=True,
            capture_output=True, check=False, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"


def container(composed: dict[str, Any], name: str, volumes: Path, **environment: str) -> Container:
    """A service as a container; named volumes are folders in *volumes*, given to the service's user once."""
    service = composed["services"][name]
    assert service["read_only"] is True
    uid, gid = (int(part) for part in service["user"].split(":"))
    mounts = []
    for entry in service.get("volumes", ()):
        source, target, writable = _mount(entry)
        path = Path(source)
        if not path.is_absolute():
            path = volumes / source
            if not path.exists():
                path.mkdir(mode=0o700, parents=True)
                os.chown(path, uid, gid)
        mounts.append((path, target, writable))
    for entry in service.get("secrets", ()):
        source = entry["source"] if isinstance(entry, dict) else entry
        mounts.append((Path(composed["secrets"][source]["file"]), f"/run/secrets/{source}", False))
    entrypoint = service.get("entrypoint") or _of_image("ENTRYPOINT")
    command = service.get("command") or ([] if service.get("entrypoint") else _of_image("CMD"))
    given = {key: str(value) for key, value in (service.get("environment") or {}).items()}
    return Container(
        [*entrypoint, *command], (uid, gid), given | environment, tuple(mounts),
        tuple(entry.partition(":")[0] for entry in service["tmpfs"]),
    )  # fmt: skip


def _mount(entry: Any) -> tuple[str, str, bool]:
    if isinstance(entry, dict):  # Compose 2
        return entry["source"], entry["target"], not entry.get("read_only", False)
    source, target, *mode = entry.split(":")
    return source, target, mode != ["ro"]


def _of_image(word: str) -> list[str]:
    said: list[str] = yaml.safe_load(dict(instructions(stage=""))[word])
    return said
