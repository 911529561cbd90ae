"""The data directory: made private, checked, and the keys that are generated in it."""

from __future__ import annotations

import fcntl
import os
import secrets
from typing import TYPE_CHECKING

from broker.errors import InvalidSettings
from broker.secret import new_sealing_key, parse_sealing_keys

if TYPE_CHECKING:
    from pathlib import Path

    from broker.settings import Settings

_STORE = "store.id"


def prepare(data_dir: Path, *, locking: bool = True) -> None:
    """Make *data_dir* (0700), or make sure that we can work in it. Raises `InvalidSettings` with the way out.

    *locking*: whether what we keep there must be locked against other brokers.
    """
    uid = os.getuid()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise InvalidSettings(f"data_dir: {data_dir} is no directory: name another") from None
    except OSError as error:
        raise InvalidSettings(
            f"data_dir: {data_dir} cannot be made ({error.strerror}): make it and give it to uid {uid}, or name another"
        ) from None
    examine(data_dir)
    if locking:
        lock(data_dir)


def examine(data_dir: Path) -> None:
    """Make sure that we can write in *data_dir*, and read all journals there. Raises `InvalidSettings`."""
    uid = os.getuid()
    if not data_dir.is_dir():
        raise InvalidSettings(f"data_dir: {data_dir} is no directory: name another")
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        owner = data_dir.stat().st_uid
        way_out = f"chmod u+rwx {data_dir}" if owner == uid else f"chown {uid} {data_dir}"
        raise InvalidSettings(
            f"data_dir: {data_dir} belongs to uid {owner} and cannot be written by us (uid {uid}): {way_out}, "
            "or name another"
        )
    journal = data_dir / "journal"
    for path in [journal, *journal.glob("*.journal")] if journal.is_dir() else []:
        wanted = os.R_OK | os.W_OK | os.X_OK if path is journal else os.R_OK
        if not os.access(path, wanted) and path.exists():
            raise InvalidSettings(f"data_dir: {path} cannot be used by us: {_whose(path)}, which may hold answers")


def lock(data_dir: Path) -> None:
    """Make sure that a lock on a file in *data_dir* keeps others out. Raises `InvalidSettings` where it does not."""
    probe = data_dir / f"lock.{secrets.token_hex(8)}.tmp"
    try:
        descriptors = [os.open(probe, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for _ in range(2)]
    except OSError:
        return  # whoever writes there next says what is wrong
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
        "use a local disk, or a network file system with locks, one data_dir for each broker"
    )


def _whose(path: Path) -> str:
    """Whose *path* is, and the command that makes it ours."""
    try:
        state = path.stat()
    except OSError:
        return f"chown it to uid {os.getuid()}"
    uid = os.getuid()
    way_out = f"chmod u+r {path}" if state.st_uid == uid else f"chown {uid} {path}"
    return f"it belongs to uid {state.st_uid}, mode {state.st_mode & 0o7777:04o}, and we are uid {uid}: {way_out}"


def write_private(path: Path, text: str) -> None:
    """Write a whole file aside (0600), sync it, and put it in place: never a mixture of old and new.

    Raises `InvalidSettings` where the disk is full or may not be written.
    """
    aside = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise InvalidSettings(f"data_dir: {path} cannot be written ({error.strerror})") from None


def secret_file(key: str, path: Path, way_out: str) -> str:
    """What the file that the settings' *key* names holds. Raises `InvalidSettings`, never with anything it holds."""
    try:
        text = path.read_text("utf-8-sig")
    except PermissionError as error:
        whose = _whose(path)
        raise InvalidSettings(
            f"{key}: {path} cannot be read by uid {os.getuid()} ({error.strerror}): {whose}"
        ) from None
    except OSError as error:
        raise InvalidSettings(f"{key}: {path} cannot be read by uid {os.getuid()} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InvalidSettings(f"{key}: {path} is not UTF-8 text: {way_out}") from None
    if not text.strip():
        raise InvalidSettings(f"{key}: {path} is empty: {way_out}")
    return text


def redis_password(settings: Settings) -> str | None:
    """The password of Redis where a file holds it. Raises `InvalidSettings`."""
    path = settings.redis.password_file
    if path is None:
        return None
    return secret_file("redis.password_file", path, "write the password into it, or drop the key").strip()


def sealing_keys(settings: Settings) -> list[bytes]:
    """The sealing keys; beside an embedded store one is made on first use. Raises `InvalidSettings`."""
    key, path = "sealing.keys_file", settings.sealing.keys_file
    if path is None:
        path = settings.data_dir / "sealing.keys"
        if not path.exists():
            write_private(path, new_sealing_key() + "\n")
    make_one = f"token-broker keys new > {path}"
    try:
        keys = parse_sealing_keys(secret_file(key, path, make_one))
    except ValueError as error:
        raise InvalidSettings(f"{key}: {path}: {error}") from None
    if not keys:
        raise InvalidSettings(f"{key}: {path} holds no key: {make_one}")
    return keys


def known_store(data_dir: Path) -> str | None:
    """The id of the store this broker has seen, or None when it begins."""
    path = data_dir / _STORE
    return path.read_text("utf-8").strip() if path.exists() else None


def remember_store(data_dir: Path, store_id: str) -> None:
    """Remember which store this broker belongs to."""
    write_private(data_dir / _STORE, store_id + "\n")
