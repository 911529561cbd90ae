"""Explain why a certificate of Redis was not accepted: name both sides and the cure."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

from cryptography import x509

from broker.store.redis.connections import CALL_TIMEOUT
from broker.store.redis.replies import certificate_error

if TYPE_CHECKING:
    from broker.settings.redis_url import RedisLocation
    from broker.store.redis.locate import Address

_NAME_MISMATCH = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_ANNOUNCED = {
    "sentinel": ", the address that the Sentinels announce: have them announce names (sentinel resolve-hostnames yes, "
    "sentinel announce-hostnames yes), or",
    "cluster": ", the address that the Cluster announces: have it announce names (cluster-preferred-endpoint-type "
    "hostname), or",
}


async def describe_mismatch(
    location: RedisLocation, address: Address | None, error: BaseException, *, announced: bool
) -> str | None:
    """Describe *error* if it is about the name in a certificate, else return None.

    Args:
        location: from `redis.url`.
        address: that was connected to.
        error: of that connection.
        announced: the address comes from Sentinels or a Cluster; else it stands in the URL.
    """
    rejected = certificate_error(error)
    if rejected is None or rejected.verify_code not in _NAME_MISMATCH or address is None:
        return None
    wanted = location.tls_options.get("server_name") or address[0]
    names = ", ".join(await _names(address, location.tls_options.get("server_name"))) or "another name"
    source = _ANNOUNCED.get(location.topology, ":") if announced else ":"
    first = names.partition(",")[0]
    return (
        f"its certificate is for {names}, but the broker connects to {wanted}{source} name the server in redis.url "
        f"(?ssl_server_name={first})"
    )


async def _names(address: Address, server_name: str | None) -> list[str]:
    """Return the names in the certificate at *address*. The connection only reads it and sends nothing."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(OSError, TimeoutError, ValueError, x509.ExtensionNotFound):
        async with asyncio.timeout(CALL_TIMEOUT):
            _, writer = await asyncio.open_connection(
                *address, ssl=unverified, server_hostname=server_name or address[0]
            )
            try:
                shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            finally:
                writer.close()
        names = x509.load_der_x509_certificate(shown).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return [
            *names.value.get_values_for_type(x509.DNSName),
            *map(str, names.value.get_values_for_type(x509.IPAddress)),
        ]
    return []
