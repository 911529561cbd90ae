"""A secret of a registration, from the settings or from a file that may be rotated while the process runs.

Owns the reading of that file, nothing else.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from broker.errors import InvalidSettings
from broker.process.data_dir import secret_line
from broker.secret import Secret
from broker.settings.placeholders import why_no_secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import SecretStr

    from broker.settings import Provider
    from broker.settings.placeholders import Use

_MAX_FILE = 64 * 1024


class ClientSecret:
    """The source of one secret: a provider's client secret, that of a header, or the credentials for a proxy."""

    def __init__(
        self, secret: SecretStr | None = None, file: Path | None = None, *, key: str = "client_secret_file"
    ) -> None:
        """Take the secret, or the *file* to read it from; *key* is the setting that names the file."""
        self.path, self._key = file, key
        self._secret = None if secret is None else Secret(secret.get_secret_value())
        self._read_before: tuple[tuple[int, int, int], Secret] | None = None
        self._reading: asyncio.Task[Secret] | None = None

    async def current(self, timeout: float) -> Secret | None:
        """Return the secret, read again if its file changed; None for a public client.

        Args:
            timeout: for reading the file, in seconds.

        Raises:
            InvalidSettings: the file cannot be read in time; the message holds its path and the reason.
        """
        if self.path is None:
            return self._secret
        if self._reading is None or self._reading.done():
            # A file system may hang, and another provider must not wait for it. Concurrent calls share one read.
            self._reading = asyncio.create_task(asyncio.to_thread(self._read, self.path))
            self._reading.add_done_callback(_retrieve)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._reading)
        except TimeoutError:
            raise InvalidSettings(f"{self._key}: its file system does not respond") from None

    def _read(self, file: Path) -> Secret:
        try:
            # Open first: mounted secrets are swapped by symlink, and state and content must be of one file.
            with file.open("rb") as opened:
                state = _state(opened.fileno())
                if self._read_before is not None and self._read_before[0] == state:
                    return self._read_before[1]
                text = opened.read(_MAX_FILE).decode("utf-8-sig").rstrip("\r\n")
        except OSError as error:
            raise InvalidSettings(f"{self._key} {file}: {error.strerror or type(error).__name__}") from None
        except ValueError:
            raise InvalidSettings(f"{self._key} {file}: not UTF-8 text") from None
        if why := why_no_secret(text, _use(self._key)):
            raise InvalidSettings(f"{self._key} {file}: {why}")
        # One assignment: two threads may read at once.
        self._read_before = (state, secret := Secret(text))
        return secret


def require_secrets(providers: Mapping[str, Provider]) -> None:
    """Check that every secret of a provider in a file can be used: at start, before a provider is asked anything.

    Raises:
        InvalidSettings: some cannot; one finding each.
    """
    wrong: list[str] = []
    for name, provider in providers.items():
        for key, path in provider.secret_files.items():
            if is_pipe(path) or key == "proxy_credentials_file":  # `proxy` checks that one
                continue
            what = "client secret" if key == "client_secret_file" else "header's value"
            try:
                secret_line(f"providers.{name}.{key}", path, f"write the {what} into it, and nothing else", _use(key))
            except InvalidSettings as error:
                wrong += error.findings
    if wrong:
        raise InvalidSettings(*wrong)


def _use(key: str) -> Use:
    return "issued" if key == "client_secret_file" else "other"


def is_pipe(path: Path) -> bool:
    """Return whether *path* is a pipe: what it holds can be read once, and that is left to the first request."""
    try:
        return path.is_fifo()
    except OSError:  # the read says why
        return False


def _retrieve(reading: asyncio.Task[Secret]) -> None:
    """Retrieve the exception: every caller may have left, and asyncio reports one that nobody retrieved."""
    if not reading.cancelled():
        reading.exception()


def _state(descriptor: int) -> tuple[int, int, int]:
    stat = os.fstat(descriptor)
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
