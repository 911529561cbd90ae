"""The HTTP client of authorization servers: it builds and sends requests, and reads what the responses mean.

Owns the dialects, the building and the single sending of token requests, discovery, the authorization URL and
revocation. Must not know the store, the schedule, callers or `aiohttp.web`; decides nothing about grants, logs
nothing, retries nothing, and lets no secret into an outcome.
"""

from broker.providers.consent import authorization_url, challenge, check_issuer, new_verifier
from broker.providers.dialects import Dialect, Metadata
from broker.providers.endpoint import Endpoint
from broker.providers.http import Http, open_http
from broker.providers.revocation import Revocation, revoke

__all__ = [
    "Dialect",
    "Endpoint",
    "Http",
    "Metadata",
    "Revocation",
    "authorization_url",
    "challenge",
    "check_issuer",
    "new_verifier",
    "open_http",
    "revoke",
]
