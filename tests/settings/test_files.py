"""Settings files as editors, mounts and accidents make them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import InvalidSettings
from broker.settings import Settings
from broker.settings import file as settings_file
from tests.settings.conftest import ACME, REDIS, Wrong

Loaded = Callable[..., Settings]


def test_windows_file(file: Path) -> None:
    """A byte order mark and CRLF, as Windows editors write them, are read like anything else."""
    file.write_bytes(b"\xef\xbb\xbf" + ("# Grüße\n" + REDIS + ACME).replace("\n", "\r\n").encode())
    assert settings_file.load(file).providers["acme"].kind == "oauth2"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"# Gr\xfc\xdfe\n", "broker.toml:1: is not UTF-8: save the file as UTF-8"),
        (b"# a\n# b\n# \xe4\n", "broker.toml:3: is not UTF-8: save the file as UTF-8"),
        (REDIS.encode("utf-16"), "broker.toml:1: is not UTF-8: save the file as UTF-8"),
        (b"a = 1\n\0", "broker.toml:2: is not TOML, column 1: invalid statement"),
        (b"a = 1\rb", "broker.toml:1: is not TOML, column 6: expected newline or end of document after a statement"),
        (b"[http\n", "broker.toml:1: is not TOML, column 6: expected ']' at the end of a table declaration"),
        (b'\nb = "x\n', "broker.toml:2: is not TOML, column 7: illegal character '\\n' (is a quote not closed?)"),
        (b"a = [1,\n", "broker.toml:2: is not TOML at its end: invalid value"),
        (b"[a.b]\n[a.b]\n", "broker.toml:2: is not TOML, column 5: cannot declare [a.b] twice"),
        (b"listen: 1\n", "broker.toml:1: is not TOML, column 7: expected '=' after a key in a key/value pair"),
        (
            b"a = " + b"9" * 5000,
            "broker.toml: is not TOML for settings: `token-broker init` prints an example",
        ),
        (
            b"a = " + b"[" * 5000,
            "broker.toml: is not TOML for settings: `token-broker init` prints an example",
        ),
    ],
)
def test_broken_file(wrong: Wrong, content: bytes, sentence: str) -> None:
    """What is no TOML in UTF-8 is said with its line."""
    assert wrong(content) == (sentence,)


def test_broken_file_keeps_its_secrets(wrong: Wrong) -> None:
    """A line that cannot be parsed is not repeated: it may hold a secret."""
    (finding,) = wrong('client_secret = "PASSWORD\n')
    assert "PASSWORD" not in finding


@pytest.mark.parametrize(("name", "why"), [("nothing", "No such file or directory"), (".", "Is a directory")])
def test_no_file(tmp_path: Path, name: str, why: str) -> None:
    """A file that is not there, or none, is said with the two ways out."""
    with pytest.raises(InvalidSettings) as caught:
        settings_file.load(tmp_path / name)
    (finding,) = caught.value.findings
    assert finding == (
        f"{tmp_path / name}: cannot be read by uid {os.getuid()} ({why}): name another file with --config, or make one "
        "with `token-broker init > broker.toml`"
    )


AS_NOBODY = """
import os, sys
from pathlib import Path
from broker.process import data_dir
from broker.settings import file as settings_file
from broker.api.callers import Callers
from broker.errors import InvalidSettings
directory = Path(sys.argv[1])
settings = settings_file.load(directory / "good.toml")
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for work in (
    lambda: settings_file.load(directory / "closed.toml"),
    lambda: data_dir.prepare(directory / "closed"),
    lambda: data_dir.prepare(directory / "closed" / "below"),
    lambda: data_dir.sealing_keys(settings),
    lambda: data_dir.redis_password(settings),
    lambda: Callers.load(settings.callers, directory),
):
    try:
        work()
    except InvalidSettings as error:
        print(*error.findings, sep="\\n")
    else:
        print("nothing wrong?")
"""


def test_files_of_somebody_else(tmp_path: Path) -> None:
    """Files and directories that we may not read or write: one line each with our uid, no traceback."""
    closed = tmp_path / "closed.toml"
    (tmp_path / "closed").mkdir(mode=0o500)
    (tmp_path / "good.toml").write_text(
        REDIS
        + f'password_file = "{closed}"\n[sealing]\nkeys_file = "{closed}"\n[callers.wall]\nkey_file = "{closed}"\n'
    )
    closed.write_text("PASSWORD")
    closed.chmod(0)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.getuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o755)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(tmp_path)], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    uid = os.getuid() or 65534
    assert len(lines) == 6, lines
    assert f"closed.toml: cannot be read by uid {uid} (Permission denied)" in lines[0]
    assert f"this process (uid {uid}) cannot write there: ch" in lines[1]
    assert f"cannot be created (Permission denied): create it and give it to uid {uid}" in lines[2]
    for line, key in zip(lines[3:], ("sealing.keys_file", "redis.password_file", "callers.wall.key_file"), strict=True):
        whose = f"it belongs to uid {os.getuid()}, mode 0000, this process is uid {uid}: ch"
        assert line.startswith(f"{key}: {closed} cannot be read by uid {uid} (Permission denied): {whose}")


def test_line_of_every_spelling(wrong: Wrong) -> None:
    """The line is found for quoted and dotted keys, inline tables and headers with spaces."""
    findings = wrong(
        'redis.url = "embedded:"\nlog = { level = "loud" }\nhttp . listen = 1\n[ providers . "acme.example" ]\n'
        "'kind' = 5\nclient_id = 5\n[providers.b.token_params]\nx = 5\n"
    )
    assert [finding.split(": ")[0] + ":" + finding.split(": ")[1] for finding in findings] == [
        "broker.toml:2:log.level",
        "broker.toml:3:http.listen",
        "broker.toml:5:providers.acme.example.kind",
        "broker.toml:6:providers.acme.example.client_id",
        "broker.toml:7:providers.b.kind",
        "broker.toml:7:providers.b.client_id",
        "broker.toml:8:providers.b.token_params.x",
    ]
