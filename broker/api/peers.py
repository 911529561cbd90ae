"""Whose connection it is: the address of a client, also behind proxies that are trusted. Pure.

Each proxy appends the address that it serves to a header, so only what stands right of all that a client sent itself
is known: the walk begins at the right, and ends at the first address that no trusted proxy has.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from broker.settings.http import UNIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.settings import Http

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MOST_HOPS = 16
"""Entries of the header that are read, from the right."""
_NETWORK = 64
"""Bits of an IPv6 address that name a site: whoever has one has all its addresses (RFC 6177 §2)."""


@dataclass(frozen=True, slots=True)
class Peers:
    """What the settings say about proxies in front."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    unix: bool
    header: str

    @classmethod
    def from_settings(cls, http: Http) -> Peers:
        """Take the trusted proxies of the settings, and the header to which they append."""
        given = http.trusted_proxies
        networks = tuple(ipaddress.ip_network(network) for network in given if network != UNIX)
        return cls(networks, UNIX in given, http.forwarded_header)

    def is_proxy(self, peer: str) -> bool:
        """Return whether a trusted proxy has the address *peer*; empty: it came over a Unix socket."""
        if not peer:
            return self.unix
        address = _parse(peer)
        return address is not None and any(address in network for network in self.networks)

    def client(self, peer: str, lines: Sequence[str]) -> str:
        """Return the address of the client that the proxy at *peer* serves.

        Args:
            peer: the address of the connection, which a trusted proxy has.
            lines: the header `http.forwarded_header`, as often as it was sent.
        """
        value = ",".join(lines)
        entries = _forwarded(value) if self.header == "Forwarded" else _listed(value)
        for entry, _ in zip(entries, range(_MOST_HOPS), strict=False):
            address = _parse(_without_port(entry))
            if address is None:  # "unknown", a name of RFC 7239 §6.3, or nonsense: the proxy after it is what is known
                break
            peer = str(address)
            if not any(address in network for network in self.networks):
                break
        return peer


@lru_cache(4096)
def site(peer: str) -> str:
    """Return what is counted as one peer: an IPv4 address, or the /64 of an IPv6 address."""
    address = _parse(peer)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _NETWORK), strict=False))
    return peer if address is None else str(address)


def _parse(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _listed(value: str) -> Iterator[str]:
    """Yield the entries of an X-Forwarded-For from the right."""
    while value:
        value, _, entry = value.rpartition(",")
        yield entry.strip()


def _forwarded(value: str) -> Iterator[str]:
    """Yield the `for` of each element of a Forwarded (RFC 7239 §4) from the right; empty where an element has none.

    A quoted value holds no comma and no semicolon where it is an address.
    """
    for element in _listed(value):
        pairs = (pair.partition("=") for pair in element.split(";", 8))
        yield next((node.strip().strip('"') for name, _, node in pairs if name.strip().lower() == "for"), "")


def _without_port(entry: str) -> str:
    """Return the address of `192.0.2.1:80`, `[2001:db8::1]:80`, or of either without a port."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
