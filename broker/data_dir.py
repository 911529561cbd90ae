"""The data directory: made private, checked, and the keys that are generated in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from broker.errors import CorrectSettings
from broker.secret import new_sealing_key, parse_sealing_keys

if TYPE_CHECKING:
    from pathlib import Path

    from broker.settings import Settings

_STORE = "store.id"


def prepare(data_dir: Path) -> None:
    """Make *data_dir* (0700) or check that we can write in it. Raises `CorrectSettings` with the way out."""
    uid = os.getuid()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise CorrectSettings(f"data_dir: {data_dir} is no directory: name another") from None
    except OSError as error:
        raise CorrectSettings(
            f"data_dir: {data_dir} cannot be made ({error.strerror}): make it and give it to uid {uid}, or name another"
        ) from None
    if not os.access(data_dir, os.W_OK | os.X_OK):
        owner = data_dir.stat().st_uid
        way_out = f"chmod u+wx {data_dir}" if owner == uid else f"chown {uid} {data_dir}"
        raise CorrectSettings(
            f"data_dir: {data_dir} belongs to uid {owner} and cannot be written by us (uid {uid}): {way_out}, "
            "or name another"
        )


def write_private(path: Path, text: str) -> None:
    """Write a whole file aside (0600), sync it, and put it in place: never a mixture of old and new.

    Raises `CorrectSettings` where the disk is full or may not be written.
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
        raise CorrectSettings(f"data_dir: {path} cannot be written ({error.strerror})") from None


def secret_file(key: str, path: Path, way_out: str) -> str:
    """What the file that the settings' *key* names holds. Raises `CorrectSettings`, never with anything it holds."""
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise CorrectSettings(f"{key}: {path} cannot be read by uid {os.getuid()} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise CorrectSettings(f"{key}: {path} is not UTF-8 text: {way_out}") from None
    if not text.strip():
        raise CorrectSettings(f"{key}: {path} is empty: {way_out}")
    return text


def redis_password(settings: Settings) -> str | None:
    """The password of Redis where a file holds it. Raises `CorrectSettings`."""
    path = settings.redis.password_file
    if path is None:
        return None
    return secret_file("redis.password_file", path, "write the password into it, or drop the key").strip()


def sealing_keys(settings: Settings) -> list[bytes]:
    """The sealing keys; beside an embedded store one is made on first use. Raises `CorrectSettings`."""
    key, path = "sealing.keys_file", settings.sealing.keys_file
    if path is None:
        path = settings.data_dir / "sealing.keys"
        if not path.exists():
            write_private(path, new_sealing_key() + "\n")
    make_one = f"token-broker keys new > {path}"
    try:
        keys = parse_sealing_keys(secret_file(key, path, make_one))
    except ValueError as error:
        raise CorrectSettings(f"{key}: {path}: {error}") from None
    if not keys:
        raise CorrectSettings(f"{key}: {path} holds no key: {make_one}")
    return keys


def known_store(data_dir: Path) -> str | None:
    """The id of the store this broker has seen, or None when it begins."""
    path = data_dir / _STORE
    return path.read_text("utf-8").strip() if path.exists() else None


def remember_store(data_dir: Path, store_id: str) -> None:
    """Remember which store this broker belongs to."""
    write_private(data_dir / _STORE, store_id + "\n")
