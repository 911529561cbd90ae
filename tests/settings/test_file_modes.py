"""Files that anybody may write, and files that others put in the way: refused, and never followed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.cli.sink.token_file import CannotWrite, TokenFile
from broker.errors import InvalidSettings
from broker.process.data_dir import prepare, require_access, secret_line, write_private

CURE = "chmod o-w"


@pytest.mark.parametrize("mode", [0o602, 0o646, 0o666, 0o777])
def test_a_secret_that_everybody_may_write(tmp_path: Path, mode: int) -> None:
    """It is refused with the mode and the cure, and its content is not shown."""
    file = tmp_path / "secret"
    file.write_text("a-secret-value")
    file.chmod(mode)
    with pytest.raises(InvalidSettings) as caught:
        secret_line("redis.password_file", file, "write it", "other")
    assert f"redis.password_file: everybody on this host may write {file} (mode {mode:04o})" in str(caught.value)
    assert f"{CURE} {file}" in str(caught.value)
    assert "a-secret-value" not in str(caught.value)
    file.chmod(0o664)
    assert secret_line("redis.password_file", file, "write it", "other") == "a-secret-value"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o703])
def test_a_data_dir_that_everybody_may_write(tmp_path: Path, mode: int) -> None:
    """It is refused; one of the pod's group (fsGroup) is not."""
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    for refuse in (prepare, require_access):
        with pytest.raises(InvalidSettings, match=CURE):
            refuse(folder)
    folder.chmod(0o2770)
    prepare(folder)


def test_a_link_beside_a_private_file(tmp_path: Path) -> None:
    """What somebody put where the new content used to be written is neither followed nor in the way."""
    victim, file = tmp_path / "victim", tmp_path / "admin.key"
    victim.write_text("theirs")
    (tmp_path / "admin.key.new").symlink_to(victim)
    write_private(file, "mine\n")
    assert (victim.read_text(), file.read_text()) == ("theirs", "mine\n")
    assert not [path for path in tmp_path.iterdir() if path.name not in {"victim", "admin.key", "admin.key.new"}]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "read pipe", "symlink", "hard link", "device", "directory"])
def test_what_a_sink_must_not_write(tmp_path: Path, kind: str, in_place: bool) -> None:
    """A sink neither hangs on a pipe nor writes what another name leads to."""
    victim, path = tmp_path / "victim", tmp_path / "token"
    victim.write_text("theirs")
    victim.chmod(0o600)
    makers: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path),
        "read pipe": lambda: os.mkfifo(path),
        "symlink": lambda: path.symlink_to(victim),
        "hard link": lambda: path.hardlink_to(victim),
        "device": lambda: path.symlink_to("/dev/null"),
        "directory": path.mkdir,
    }
    makers[kind]()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if kind == "read pipe" else -1
    file = TokenFile(path, owner=None, group=None, mode=0o644, in_place=in_place)
    outcome: list[object] = []

    def write() -> None:
        try:
            outcome.append(file.write(b"token"))
        except CannotWrite as error:
            outcome.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it hangs"
    if in_place or kind == "directory":
        assert isinstance(outcome[0], CannotWrite)
    else:
        assert outcome == [True]  # replaced by a file of its own
        assert (path.read_bytes(), path.is_file(), path.is_symlink()) == (b"token", True, False)
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("theirs", 0o600)
    if reader >= 0:
        assert not os.read(reader, 100)
        os.close(reader)


def test_no_core_dump() -> None:
    """Neither the limit nor the kernel lets this process's memory out."""
    script = (
        "import ctypes, resource; from broker.process import memory_image; memory_image.protect();"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "(0, 0) 0\n"


@pytest.mark.parametrize("module", ["run", "demo", "sink.sink"])
def test_every_command_that_holds_tokens_is_protected(module: str) -> None:
    """Commands that keep tokens in memory for long begin with it."""
    source = Path(sys.modules["broker.cli.sink.token_file"].__file__ or "").parent.parent
    text = (source / f"{module.replace('.', '/')}.py").read_text()
    assert "memory_image.protect()" in text
