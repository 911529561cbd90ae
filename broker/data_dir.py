"""The data directory: made private, checked, and the keys that are generated in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from broker.errors import CorrectSettings
from broker.secret import new_sealing_key, parse_sealing_keys

if TYPE_CHECKING:
    from pathlib import Path

    from broker.settings import Settings


def prepare(data_dir: Path) -> None:
    """Make *data_dir* (0700) or check that we can write in it. Raises `CorrectSettings` with the way out."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CorrectSettings(
            f"data_dir: {data_dir} cannot be made ({error.strerror}): make it and give it to uid {os.getuid()}, "
            "or name another"
        ) from None
    if not os.access(data_dir, os.W_OK | os.X_OK):
        owner = data_dir.stat().st_uid
        raise CorrectSettings(
            f"data_dir: {data_dir} belongs to uid {owner} and cannot be written by us (uid {os.getuid()}): "
            f"chown {os.getuid()} {data_dir}"
        )


def write_private(path: Path, text: str) -> None:
    """Write a whole file aside (0600), sync it, and put it in place: never a mixture of old and new."""
    aside = path.with_name(path.name + ".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def redis_password(settings: Settings) -> str | None:
    """The password of Redis where a file holds it. Raises `CorrectSettings`."""
    path = settings.redis.password_file
    if path is None:
        return None
    try:
        password = path.read_text("utf-8").strip()
    except OSError as error:
        raise CorrectSettings(
            f"redis.password_file: {path} cannot be read by uid {os.getuid()} ({error.strerror})"
        ) from None
    except UnicodeDecodeError:
        raise CorrectSettings(f"redis.password_file: {path} is not UTF-8 text") from None
    if not password:
        raise CorrectSettings(f"redis.password_file: {path} is empty")
    return password


def sealing_keys(settings: Settings) -> list[bytes]:
    """The sealing keys; beside an embedded store one is made on first use. Raises `CorrectSettings`."""
    path = settings.sealing.keys_file
    if path is None:
        path = settings.data_dir / "sealing.keys"
        if not path.exists():
            write_private(path, new_sealing_key() + "\n")
    try:
        keys = parse_sealing_keys(path.read_text("utf-8"))
    except OSError as error:
        raise CorrectSettings(
            f"sealing.keys_file: {path} cannot be read by uid {os.getuid()} ({error.strerror})"
        ) from None
    except UnicodeDecodeError:
        raise CorrectSettings(f"sealing.keys_file: {path} is not UTF-8 text") from None
    except ValueError as error:
        raise CorrectSettings(f"sealing.keys_file: {path}: {error}") from None
    if not keys:
        raise CorrectSettings(f"sealing.keys_file: {path} holds no key: token-broker keys new > {path}")
    return keys
