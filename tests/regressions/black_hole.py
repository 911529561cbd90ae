"""A port that answers nothing, as a dropping firewall does."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def black_hole(port: int) -> Iterator[None]:
    """[::1]:*port* lets every connect hang: a listener whose queue is full drops what comes."""
    with contextlib.ExitStack() as stack:
        hole = stack.enter_context(socket.socket(socket.AF_INET6))
        hole.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        hole.bind(("::1", port))
        hole.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket(socket.AF_INET6))
            filler.setblocking(False)
            filler.connect_ex(("::1", port))
        yield
