"""The Python client of token-broker: a live access token in a few lines.

    async with Broker.from_env() as broker:
        cameras = broker.grant("acme-cameras")
        async with aiohttp.ClientSession(middlewares=[cameras.aiohttp("https://rest.example.com")]) as session:
            ...

It speaks HTTP with a running broker and knows nothing of the daemon: of this package it imports only itself, of others
only aiohttp. httpx, requests and redis are imported by the functions that need them.
"""

from broker.client.broker import Broker
from broker.client.errors import (
    BrokerError,
    BrokerUnreachable,
    InvalidConfiguration,
    InvalidRequest,
    NotAllowed,
    ReauthorizationRequired,
    TokenUnavailable,
    UnknownGrant,
    UnknownKey,
)
from broker.client.grant import Grant
from broker.client.sync import SyncBroker, SyncGrant
from broker.client.token import Token

__all__ = [
    "Broker",
    "BrokerError",
    "BrokerUnreachable",
    "Grant",
    "InvalidConfiguration",
    "InvalidRequest",
    "NotAllowed",
    "ReauthorizationRequired",
    "SyncBroker",
    "SyncGrant",
    "Token",
    "TokenUnavailable",
    "UnknownGrant",
    "UnknownKey",
]
