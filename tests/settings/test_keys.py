"""Keys of callers and sealing keys, as they stand in files; and the data directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from broker.api.callers import Callers
from broker.errors import InvalidSettings, UnknownKey
from broker.process.data_dir import prepare, redis_password, sealing_keys, write_private
from broker.secret import key_digest, new_sealing_key
from broker.settings import Settings
from tests.settings.conftest import REDIS

Loaded = Callable[..., Settings]


def _findings(work: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(InvalidSettings) as caught:
        work()
    assert all("PASSWORD" not in finding and "\n" not in finding for finding in caught.value.findings)
    return caught.value.findings


def test_all_bad_callers_at_once(loaded: Loaded, tmp_path: Path) -> None:
    """A key file that is missing, empty, no text or a short key, and a key given twice: each one line, all at once."""
    (tmp_path / "short").write_text("a" * 31 + "\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfePASSWORD")
    (tmp_path / "same").write_text("PASSWORD" * 4 + "\n")
    settings = loaded(
        REDIS
        + "".join(
            f'[callers.{name}]\nkey_file = "{tmp_path / name}"\n'
            for name in ("missing", "empty", "binary", "short", "same")
        )
        + f'[callers.again]\nkey_sha256 = "{key_digest("PASSWORD" * 4)}"\n'
    )
    findings = _findings(lambda: Callers.load(settings.callers, tmp_path))
    uid, cure = tmp_path.stat().st_uid, "`token-broker caller new NAME` makes a key"
    assert [finding.replace(str(tmp_path), "") for finding in findings] == [
        f"callers.missing.key_file: /missing cannot be read by uid {uid} (No such file or directory): {cure}",
        f"callers.empty.key_file: /empty is empty: {cure}",
        f"callers.binary.key_file: /binary is not UTF-8 text: {cure}",
        f"callers.short.key_file: the key in /short is shorter than 32 characters: {cure}",
        "callers.again: has the same key as callers.same: give each its own",
    ]


def test_key_file_of_windows(loaded: Loaded, tmp_path: Path) -> None:
    """A byte order mark and CRLF around a key are no part of it."""
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbfthe-key-of-more-than-32-characters\r\n")
    settings = loaded(REDIS + f'[callers.wall]\nkey_file = "{tmp_path / "key"}"\nread = ["*"]\n')
    callers = Callers.load(settings.callers, tmp_path)
    assert callers.identify("bearer the-key-of-more-than-32-characters", None).name == "wall"
    with pytest.raises(UnknownKey):
        callers.identify("Bearer the-other", None)


def test_first_start_makes_an_admin(tmp_path: Path) -> None:
    """Without callers an admin key is made once, for our eyes alone, and kept."""
    callers = Callers.load({}, tmp_path)
    key = (tmp_path / "admin.key").read_text().strip()
    assert (tmp_path / "admin.key").stat().st_mode & 0o777 == 0o600
    assert callers.identify(None, key).administers
    Callers.load({}, tmp_path)
    assert (tmp_path / "admin.key").read_text().strip() == key


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty: token-broker keys new > PATH"),
        (b"# no key yet\n", "holds no key: token-broker keys new > PATH"),
        (b"\xff\xfe", "is not UTF-8 text: token-broker keys new > PATH"),
        (b"# one\nPASSWORD\n", "line 2 is not a sealing key (`token-broker keys new` makes one)"),
    ],
)
def test_sealing_keys(loaded: Loaded, tmp_path: Path, content: bytes, sentence: str) -> None:
    """A key file without keys is said with the command that makes one."""
    path = tmp_path / "keys"
    path.write_bytes(content)
    settings = loaded(REDIS + f'[sealing]\nkeys_file = "{path}"\n')
    (finding,) = _findings(lambda: sealing_keys(settings))
    assert (
        finding.removeprefix("sealing.keys_file: ").replace(str(path), "PATH").removeprefix("PATH").lstrip(" :")
        == sentence
    )


def test_no_sealing_keys(loaded: Loaded, tmp_path: Path) -> None:
    """For a file that does not exist, the cure is the option that makes it, with the right mode."""
    path = tmp_path / "keys"
    settings = loaded(REDIS + f'[sealing]\nkeys_file = "{path}"\n')
    (finding,) = _findings(lambda: sealing_keys(settings))
    assert finding.endswith(f"(No such file or directory): token-broker keys new --to {path}")


def test_good_sealing_keys(loaded: Loaded, tmp_path: Path) -> None:
    """Several keys, comments, blank lines and CRLF are read; the first one seals."""
    path = tmp_path / "keys"
    path.write_bytes(f"\ufeff# new\r\n{new_sealing_key()}\r\n\r\n# old\r\n{new_sealing_key()}\r\n".encode())
    assert len(sealing_keys(loaded(REDIS + f'[sealing]\nkeys_file = "{path}"\n'))) == 2


def test_password_file(loaded: Loaded, tmp_path: Path) -> None:
    """The password of Redis is a file's text without its line's end; an empty file is a mistake."""
    path = tmp_path / "password"
    settings = loaded(REDIS + f'password_file = "{path}"\n')
    path.write_text("geheim\n")
    assert redis_password(settings) == "geheim"
    path.write_text(" geheim \t\r\n")
    assert redis_password(settings) == " geheim \t"
    path.write_text("\n")
    (finding,) = _findings(lambda: redis_password(settings))
    assert finding == f"redis.password_file: {path} is empty: write the password into it, or drop the key"


def test_data_dir_that_is_a_file(tmp_path: Path) -> None:
    """A file where the data directory should be is said so, and so is one above it."""
    path = tmp_path / "data"
    path.write_text("")
    assert _findings(lambda: prepare(path)) == (f"data_dir: {path} is not a directory: name another",)
    (finding,) = _findings(lambda: prepare(path / "below"))
    assert "cannot be created (Not a directory)" in finding


def test_nothing_can_be_written(tmp_path: Path) -> None:
    """A key that cannot be written is a finding, not a traceback."""
    (finding,) = _findings(lambda: write_private(tmp_path / "gone" / "admin.key", "x"))
    assert finding.endswith("admin.key cannot be written (No such file or directory)")
