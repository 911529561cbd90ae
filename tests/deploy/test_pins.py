"""deploy/pin_images.sh: what can be looked up is pinned, anew each time; what cannot stays as it is, and is named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.deploy.deployment import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DOCKER = '#!/bin/sh\n[ "$4" = {unknown} ] && exit 1\necho sha256:{digest}\n'
GIT = "#!/bin/sh\nprintf '%s\\t%s\\n%s\\t%s^{}\\n' {tag} $3 {commit} $3\n"
WITH_IMAGES = ("deploy/Dockerfile", "docker-compose.yml", "deploy/compose.sentinel.yml")


def pin(place: Path, *, unknown: str, digest: str, commit: str) -> subprocess.CompletedProcess[str]:
    """Run it where the registries reply with these."""
    programs = place / "programs"
    programs.mkdir(exist_ok=True)
    git = GIT.replace("{tag}", "f" * 40).replace("{commit}", commit)
    for name, text in (("docker", DOCKER.format(unknown=unknown, digest=digest)), ("git", git)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return subprocess.run(
        ["sh", "deploy/pin_images.sh"],
        cwd=place,
        env={"PATH": f"{programs}:{os.environ['PATH']}"},
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_pins(tmp_path: Path) -> None:
    """Digests and commits of a second run replace those of the first; comments behind them stay."""
    for folder in ("deploy", ".github"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    done = pin(tmp_path, unknown="valkey/valkey:9", digest="a" * 64, commit="1" * 40)
    assert done.returncode == 1
    assert "docker-compose.yml: valkey/valkey:9: its digest cannot be looked up" in done.stderr
    assert "@sha256" not in (tmp_path / "docker-compose.yml").read_text()
    done = pin(tmp_path, unknown="none", digest="b" * 64, commit="2" * 40)
    assert done.returncode == 0, done.stderr
    for name in WITH_IMAGES:
        digests = re.findall(r"@sha256:(\S+)", (tmp_path / name).read_text())
        assert {*digests} == {"b" * 64}, name
        assert (tmp_path / name).read_text().replace("@sha256:" + "b" * 64, "") == (ROOT / name).read_text()
    uses = re.findall(r"uses: \S+@(\S+) # v\S+", (tmp_path / ".github" / "workflows" / "ci.yml").read_text())
    assert len(uses) >= 3
    assert {*uses} == {"2" * 40}


def test_every_action_has_a_commit() -> None:
    """No action goes by a tag that its owner may move."""
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        for used in re.findall(r"uses: (\S+)", file.read_text()):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", used), used
