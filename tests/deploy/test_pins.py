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
IMAGE = re.compile(r"^(?:ARG BASE=| *(?:- )?image: )([\w./-]+:[\w.-]+)(?:@sha256:([0-9a-f]{64}))?(?= |$)", re.MULTILINE)
WORKFLOWS = sorted(str(file.relative_to(ROOT)) for file in (ROOT / ".github" / "workflows").glob("*.yml"))
WITH_IMAGES = ("deploy/Dockerfile", "docker-compose.yml", "deploy/compose.sentinel.yml", ".github/workflows/ci.yml")


def images(place: Path, file: str) -> dict[str, str]:
    """Return the digest of each image that a file names."""
    return dict(IMAGE.findall((place / file).read_text()))


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
    before = images(ROOT, "docker-compose.yml")
    done = pin(tmp_path, unknown="valkey/valkey:9", digest="a" * 64, commit="1" * 40)
    assert done.returncode == 1
    assert "docker-compose.yml: valkey/valkey:9: its digest cannot be looked up" in done.stderr
    assert images(tmp_path, "docker-compose.yml") == before
    done = pin(tmp_path, unknown="none", digest="b" * 64, commit="2" * 40)
    assert done.returncode == 0, done.stderr
    for name in WITH_IMAGES:
        assert images(tmp_path, name) == dict.fromkeys(images(ROOT, name), "b" * 64), name
        if name not in WORKFLOWS:
            text = (tmp_path / name).read_text()
            assert re.sub("[0-9a-f]{64}", "", text) == re.sub("[0-9a-f]{64}", "", (ROOT / name).read_text())
    uses = re.findall(r"uses: \S+@(\S+) # v\S+", (tmp_path / ".github" / "workflows" / "ci.yml").read_text())
    assert len(uses) >= 3
    assert {*uses} == {"2" * 40}


def test_every_action_has_a_commit() -> None:
    """No action goes by a tag that its owner may move."""
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        for used in re.findall(r"uses: (\S+)", file.read_text()):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", used), used


def test_every_image_has_a_digest() -> None:
    """No image of another project goes by a tag alone, which its owner may move."""
    ours = "image: token-broker"
    for name in {*WITH_IMAGES, *WORKFLOWS}:
        named = [line for line in (ROOT / name).read_text().splitlines() if re.match(r"ARG BASE=| *(- )?image: ", line)]
        named = [line for line in named if line.strip() != ours and "${{" not in line]
        assert len(named) == len(IMAGE.findall("\n".join(named))), f"{name}: {named}"
        assert all(images(ROOT, name).values()), name
