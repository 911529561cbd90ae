"""Further headers of a provider's requests: from the settings, or from files that may be rotated meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from broker.errors import InvalidSettings
from broker.providers.client_secret import ClientSecret
from broker.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.settings.provider import SecretFile


class ExtraHeaders:
    """The headers of one provider."""

    def __init__(self, headers: Mapping[str, str | SecretFile]) -> None:
        self._plain = {name: value for name, value in headers.items() if isinstance(value, str)}
        self._files = {
            name: ClientSecret(file=value.file, key=f"headers.{name}.file")
            for name, value in headers.items()
            if not isinstance(value, str)
        }

    async def current(self, timeout: float) -> tuple[Mapping[str, str], tuple[Secret, ...]]:
        """Return the headers, and those values that are secrets; a file is read again if it changed.

        Args:
            timeout: for reading the files, in seconds.

        Raises:
            InvalidSettings: a file cannot be read in time, or holds no header's value; the message holds its path.
        """
        if not self._files:
            return self._plain, ()
        deadline = time.monotonic() + timeout
        headers, secrets = dict(self._plain), []
        for name, file in self._files.items():
            secret = await file.current(deadline - time.monotonic())
            if secret is None or not secret.reveal().isprintable():
                raise InvalidSettings(f"headers.{name}.file {file.path}: must hold one line of printable text")
            headers[name] = secret.reveal()
            # A server may repeat the key alone of "Bearer KEY".
            secrets += [secret, *map(Secret, secret.reveal().split(" ")[1:])]
        return headers, tuple(secrets)
