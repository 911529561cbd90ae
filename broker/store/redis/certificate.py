"""Why a certificate of Redis was not accepted, in words that name both sides and the way out."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

from cryptography import x509

from broker.store.redis.connections import CALL_TIMEOUT
from broker.store.redis.replies import certificate_error

if TYPE_CHECKING:
    from broker.settings.redis_url import RedisPlace
    from broker.store.redis.locate import Address

_NAME_MISMATCH = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_ANNOUNCED = {
    "sentinel": ", as the Sentinels announce it: have them announce names (sentinel resolve-hostnames yes, "
    "sentinel announce-hostnames yes), or",
    "cluster": ", as the Cluster announces it: have it announce names (cluster-preferred-endpoint-type hostname), or",
}


async def certificate_words(
    place: RedisPlace, address: Address | None, error: BaseException, *, announced: bool
) -> str | None:
    """What to say of *error* where it is about the name in a certificate; None where it is about something else.

    *announced*: the address is what Sentinels or a Cluster say, where they were asked; else it stands in the URL.
    """
    refused = certificate_error(error)
    if refused is None or refused.verify_code not in _NAME_MISMATCH or address is None:
        return None
    wanted = place.tls_options.get("server_name") or address[0]
    shown = ", ".join(await _names(address, place.tls_options.get("server_name"))) or "another name"
    whose = _ANNOUNCED.get(place.way, ":") if announced else ":"
    first = shown.partition(",")[0]
    return (
        f"its certificate is for {shown}, but it is asked for as {wanted}{whose} name the server in redis.url "
        f"(?ssl_server_name={first})"
    )


async def _names(address: Address, server_name: str | None) -> list[str]:
    """Whom the certificate shown at *address* is for. It is looked at and nothing is sent: it is not trusted."""
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
