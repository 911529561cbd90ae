"""The data directory: create it, check it, and read and write the private files in it."""

from __future__ import annotations

import fcntl
import os
import secrets
from typing import TYPE_CHECKING

from broker.errors import InvalidSettings
from broker.process.file_modes import require_protected
from broker.secret import new_sealing_key, parse_sealing_keys
from broker.settings.placeholders import why_no_secret

if TYPE_CHECKING:
    from pathlib import Path

    from broker.settings import Settings
    from broker.settings.placeholders import Use

_STORE = "store.id"


def prepare(data_dir: Path, *, locking: bool = True) -> None:
    """Create *data_dir* (0700), or check that this process can work in it.

    Args:
        data_dir: from the settings.
        locking: whether files in it must be locked against other brokers.

    Raises:
        InvalidSettings: the directory cannot be used; the message names the cure.
    """
    uid = os.getuid()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise InvalidSettings(f"data_dir: {data_dir} is not a directory: name another") from None
    except OSError as error:
        raise InvalidSettings(
            f"data_dir: {data_dir} cannot be created ({error.strerror}): create it and give it to uid {uid}, "
            "or name another"
        ) from None
    require_access(data_dir)
    if locking:
        require_locks(data_dir)


def require_access(data_dir: Path) -> None:
    """Check that this process can write in *data_dir*, and read all journals there.

    Raises:
        InvalidSettings: it cannot.
    """
    uid = os.getuid()
    require_protected("data_dir", data_dir)
    if not data_dir.is_dir():
        raise InvalidSettings(f"data_dir: {data_dir} is not a directory: name another")
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        owner = data_dir.stat().st_uid
        cure = f"chmod u+rwx {data_dir}" if owner == uid else f"chown {uid} {data_dir}"
        raise InvalidSettings(
            f"data_dir: {data_dir} belongs to uid {owner} and this process (uid {uid}) cannot write there: {cure}, "
            "or name another"
        )
    journal = data_dir / "journal"
    for path in [journal, *journal.glob("*.journal")] if journal.is_dir() else []:
        wanted = os.R_OK | os.W_OK | os.X_OK if path is journal else os.R_OK
        if not os.access(path, wanted) and path.exists():
            raise InvalidSettings(
                f"data_dir: this process cannot use {path}, which may hold token responses: {_ownership(path)}"
            )


def require_locks(data_dir: Path) -> None:
    """Check that a lock on a file in *data_dir* keeps other processes out.

    Raises:
        InvalidSettings: it does not.
    """
    probe = data_dir / f"lock.{secrets.token_hex(8)}.tmp"
    try:
        descriptors = [os.open(probe, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for _ in range(2)]
    except OSError:
        return  # the next write there reports the problem
    try:
        fcntl.flock(descriptors[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(descriptors[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        why = "a second lock on a locked file succeeds"
    except OSError as error:
        why = error.strerror or "flock fails"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        probe.unlink(missing_ok=True)
    raise InvalidSettings(
        f"data_dir: the file system of {data_dir} does not lock files ({why}), so two brokers could write one file: "
        "use a local disk, or a network file system with locks, and one data_dir for each broker"
    )


def _ownership(path: Path) -> str:
    """Describe who owns *path*, and the command that gives this process access to it."""
    try:
        state = path.stat()
    except OSError:
        return f"chown it to uid {os.getuid()}"
    uid = os.getuid()
    cure = f"chmod u+r {path}" if state.st_uid == uid else f"chown {uid} {path}"
    return f"it belongs to uid {state.st_uid}, mode {state.st_mode & 0o7777:04o}, this process is uid {uid}: {cure}"


def write_private(path: Path, text: str) -> None:
    """Write a whole file aside (0600), sync it, and put it in place: never a mixture of old and new.

    Raises:
        InvalidSettings: the disk is full, or the file may not be written.
    """
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise InvalidSettings(f"data_dir: {path} cannot be written ({error.strerror})") from None


def secret_file(key: str, path: Path, cure: str) -> str:
    """Return the content of the file that the settings' *key* names.

    Args:
        key: of the settings, for messages.
        path: of the file.
        cure: what to do about a file that is missing or has no usable content, for messages.

    Raises:
        InvalidSettings: the file cannot be used, or everybody may write it. The message never quotes its content.
    """
    require_protected(key, path)
    try:
        text = path.read_text("utf-8-sig")
    except PermissionError as error:
        ownership = _ownership(path)
        raise InvalidSettings(
            f"{key}: {path} cannot be read by uid {os.getuid()} ({error.strerror}): {ownership}"
        ) from None
    except OSError as error:
        raise InvalidSettings(f"{key}: {path} cannot be read by uid {os.getuid()} ({error.strerror}): {cure}") from None
    except UnicodeDecodeError:
        raise InvalidSettings(f"{key}: {path} is not UTF-8 text: {cure}") from None
    if not text.strip():
        raise InvalidSettings(f"{key}: {path} is empty: {cure}")
    return text


def secret_line(key: str, path: Path, cure: str, use: Use) -> str:
    """Return the secret in a file that holds nothing else; the arguments are those of `secret_file`.

    Raises:
        InvalidSettings: the file cannot be used, has several lines, or holds a placeholder for a value of that *use*.
    """
    text = secret_file(key, path, cure).rstrip("\r\n")
    if why := why_no_secret(text, use):
        raise InvalidSettings(f"{key}: {path} {why}: {cure}")
    return text


def redis_password(settings: Settings) -> str | None:
    """Return the password of Redis if a file holds it.

    Raises:
        InvalidSettings: the file cannot be read.
    """
    path = settings.redis.password_file
    if path is None:
        return None
    return secret_line("redis.password_file", path, "write the password into it, or drop the key", "other")


def sealing_keys(settings: Settings) -> list[bytes]:
    """Return the sealing keys; with an embedded store one is made on first use.

    Raises:
        InvalidSettings: the file cannot be read, or holds no key.
    """
    key, path = "sealing.keys_file", settings.sealing.keys_file
    if path is None:
        path = settings.data_dir / "sealing.keys"
        if not path.exists():
            write_private(path, new_sealing_key() + "\n")
    make_one = f"token-broker keys new {'>' if path.exists() else '--to'} {path}"  # --to replaces no file
    try:
        keys = parse_sealing_keys(secret_file(key, path, make_one))
    except ValueError as error:
        raise InvalidSettings(f"{key}: {path}: {error}") from None
    if not keys:
        raise InvalidSettings(f"{key}: {path} holds no key: {make_one}")
    return keys


def known_store(data_dir: Path) -> str | None:
    """Return the id of the store that this broker last used; None at its first start."""
    path = data_dir / _STORE
    return path.read_text("utf-8").strip() if path.exists() else None


def remember_store(data_dir: Path, store_id: str) -> None:
    """Remember which store this broker belongs to."""
    write_private(data_dir / _STORE, store_id + "\n")
