"""Whether the broker could listen on the addresses of the settings: tried without listening, so that nobody is served.

An address that is in use is no fault: the checks run beside a broker.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from broker.api.listeners import cannot_listen
from broker.check.finding import Finding, from_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.settings import Settings

_PATIENCE = 1.0
"""Seconds for a Unix socket to take a connection."""


def check_listening(settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each address that `run` could not listen on, and for each that is in use."""
    http = settings.http
    for key, addresses in (("http.listen", http.listen), ("http.public_listen", http.public_listen)):
        for address in addresses:
            try:
                used = _is_used(address)
            except (OSError, UnicodeError) as error:
                yield from map(from_error, cannot_listen(key, address, error).findings)
                continue
            if used:
                yield Finding("unknown", key, f"{address} is in use", "by a broker that runs, or by another program")


def _is_used(address: str) -> bool:
    """Return whether somebody listens on *address*.

    Raises:
        OSError: nobody could.
        UnicodeError: its host is no host name.
    """
    if address.startswith("unix:"):
        return _is_socket_used(Path(address.removeprefix("unix:")))
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, where in found:
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(where)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                return True
    return False


def _is_socket_used(path: Path) -> bool:
    if not path.parent.is_dir():
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:  # left behind: `run` replaces it
            return False
    return True
