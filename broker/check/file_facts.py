"""Gather facts about the files and directories that the settings name. Writes only a probe, and removes it."""

from __future__ import annotations

import os
import secrets
import statistics
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from broker.api.callers import Callers
from broker.errors import InvalidSettings
from broker.notify.channels.command import require_program
from broker.notify.channels.opening import require_channel
from broker.notify.channels.webhook import webhook_secret
from broker.process import data_dir as private
from broker.providers.client_secret import require_secrets
from broker.providers.proxy import require_proxies
from broker.store.redis.embedded import find_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker.settings import Settings

_WRITES = 5


@dataclass(frozen=True, slots=True)
class FileFacts:
    """An existing file or directory, and its owner."""

    key: str
    """The setting that names it."""
    path: Path
    owner: int
    mode: int
    uid: int
    """Of this process."""
    padded: bool = False
    """Blanks stand at the ends of its only line."""


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """What writing in a directory is like."""

    path: Path
    free: int
    """Bytes that this process may still write."""
    sync_ms: float
    """How long a write takes to reach the disk: the median of a few, since one may meet a busy disk."""


def secret_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Yield key and path of every file that holds a secret, whether it exists or not."""
    if settings.redis.password_file is not None:
        yield "redis.password_file", settings.redis.password_file
    yield "sealing.keys_file", settings.sealing.keys_file or settings.data_dir / "sealing.keys"
    for name, provider in settings.providers.items():
        for key, path in provider.secret_files.items():
            yield f"providers.{name}.{key}", path
    for name, caller in settings.callers.items():
        if caller.key_file is not None:
            yield f"callers.{name}.key_file", caller.key_file
    if settings.notify.secret_file is not None:
        yield "notify.secret_file", settings.notify.secret_file
    for name, channel in settings.notify.channels.items():
        files = {"url_file": channel.url_file, "key_file": channel.key_file}
        yield from ((f"notify.channels.{name}.{key}", path) for key, path in files.items() if path is not None)
    for key, table in (("outgoing", settings.outgoing), ("notify", settings.notify)):
        if table.proxy_credentials_file is not None:
            yield f"{key}.proxy_credentials_file", table.proxy_credentials_file
    yield "data_dir", settings.data_dir / "admin.key"


def fetch_file_facts(key: str, path: Path) -> FileFacts | None:
    """Return the facts about *path*; None if it does not exist, or cannot be examined."""
    try:
        state = path.stat()
    except OSError:
        return None
    return FileFacts(key, path, state.st_uid, state.st_mode & 0o7777, os.getuid(), padded=_is_padded(path))


def _is_padded(path: Path) -> bool:
    try:
        text = path.read_text("utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):  # a directory, or said elsewhere
        return False
    return text.strip() not in {"", text} and "\n" not in text


def write_probe(directory: Path) -> DiskFacts:
    """Write and sync a few bytes in *directory*, and remove them again.

    Raises:
        OSError: the directory cannot be written.
    """
    probe = directory / f"check.{secrets.token_hex(8)}.tmp"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    took = []
    try:
        for _ in range(_WRITES):
            began = time.monotonic()
            os.write(descriptor, b"x")
            os.fdatasync(descriptor)
            took.append(time.monotonic() - began)
    finally:
        os.close(descriptor)
        probe.unlink()
    space = os.statvfs(directory)
    return DiskFacts(directory, space.f_bavail * space.f_frsize, statistics.median(took) * 1000)


def find_problems(settings: Settings) -> list[str]:
    """Return why `run` would reject files and programs, in its own words; all of it, not only the first reason."""
    found: list[str] = []

    def attempt(work: Callable[[], object]) -> None:
        try:
            work()
        except InvalidSettings as error:
            found.extend(error.findings)

    keys_file = settings.sealing.keys_file
    if keys_file is not None or _exists(settings.data_dir / "sealing.keys"):
        attempt(lambda: private.sealing_keys(settings))
    attempt(lambda: private.redis_password(settings))
    if settings.callers or _exists(settings.data_dir / "admin.key"):
        attempt(lambda: Callers.load(settings.callers, settings.data_dir))
    attempt(lambda: require_secrets(settings.providers))
    attempt(lambda: require_proxies(settings))
    if settings.notify.secret_file is not None:
        attempt(partial(webhook_secret, settings.notify.secret_file))
    if settings.notify.command:
        attempt(lambda: require_program(settings.notify.command))
    for name, channel in settings.notify.channels.items():
        attempt(partial(require_channel, name, channel))
    if settings.redis.url.startswith("embedded:"):
        attempt(find_server)
    return found


def nearest(directory: Path) -> Path:
    """Return *directory*, or the nearest one above it that exists."""
    return next(path for path in (directory, *directory.parents) if _exists(path))


def _exists(path: Path) -> bool:
    """Return whether *path* exists: no, where its name is longer than any can be."""
    try:
        return path.exists()
    except OSError:
        return False
