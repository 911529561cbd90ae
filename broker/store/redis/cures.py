"""What a person does about a Redis that cannot be used: each state has its own cure. Pure."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

from redis import exceptions

from broker.errors import DamagedSchedule, StoreUnavailable
from broker.store.redis.replies import (
    NO_MORE_CLIENTS,
    POOL_EMPTY,
    certificate_error,
    damaged_set,
    describe,
    error_code,
    find_cause,
    is_away,
    unwrap,
    wrong_store_error,
)

if TYPE_CHECKING:
    from broker.settings.redis_url import Credentials
    from broker.store.redis.locate import Address

HANGS = (
    "find out what keeps it busy (SLOWLOG, CPU, swap), or what drops packets between it and the broker; with rediss:// "
    "in redis.url it must speak TLS"
)
_RESTORE = (
    "find out who writes Redis; restore it from a backup, or remove that key, then `token-broker retry` each grant of "
    "the provider"
)
_CURES = {
    "MISCONF": "free space on its disk, or correct the permissions of its directory",
    "OOM": "raise its maxmemory, or remove other data from it",
    "NOREPLICAS": "connect its replicas, or lower min-replicas-to-write",
    "BUSY": "wait for the script of another client, or end it (SCRIPT KILL)",
    "READONLY": "name the primary in redis.url, or its Sentinels (redis+sentinel://)",
    "LOADING": "wait: the broker goes on by itself when the data is loaded",
    "MASTERDOWN": "start its primary, or name the primary in redis.url",
    "CLUSTERDOWN": "start the missing nodes of the Cluster (CLUSTER NODES)",
    "MOVED": "wait: the broker looks for the node itself; with redis:// in redis.url use redis+cluster://",
    "ASK": "wait until the slot has moved",
    "TRYAGAIN": "wait until the slot has moved",
    "WRONGTYPE": (
        "find out who writes Redis, and with TYPE which key of the store is of another type: restore it from a backup; "
        "if it is the one that ends in :epoch, remove it"
    ),
}
_NO_DATABASE = "DB index is out of range"
_ANNOUNCE = (
    "if it runs, have it announce an address that can be reached from here ({}), or run the broker in that network; "
    "else start it"
)
_ANNOUNCED = {
    "sentinel": (
        "the Sentinels name",
        _ANNOUNCE.format("replica-announce-ip in its settings; sentinel monitor and announce-ip in the Sentinels'"),
    ),
    "cluster": ("the Cluster names", _ANNOUNCE.format("cluster-announce-ip, cluster-announce-port")),
}


def unavailable(error: BaseException) -> StoreUnavailable:
    """Return the error to raise for an error of Redis or of a connection to it, with its cure."""
    if key := damaged_set(error):
        return damaged_schedule(key)
    return wrong_store_error(error) or StoreUnavailable(f"Redis: {describe(error)}", cure=find_cure(error))


def damaged_schedule(key: str) -> DamagedSchedule:
    """Return the error to raise where a *key* of a provider's schedule is of another type."""
    words = f"Redis: the key {key} holds something else than grants, so its provider's schedule cannot be used"
    return DamagedSchedule(words, cure=_RESTORE)


def announced_unreachable(topology: str, address: Address | None, error: BaseException) -> StoreUnavailable | None:
    """Return the error to raise where an address that Sentinels or a Cluster announce cannot be reached.

    Args:
        topology: of `redis.url`.
        address: that they announce.
        error: of the connection to it.

    Returns:
        None where *redis.url* names the address itself, or the server behind it did reply.
    """
    if topology not in _ANNOUNCED or address is None or not is_away(error):
        return None
    who, cure = _ANNOUNCED[topology]
    host, port = address
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return StoreUnavailable(f"Redis: {who} {where}, which cannot be reached from here", cure=cure)


def replica_error(topology: str) -> StoreUnavailable:
    """Return the error to raise where the server that was found is a replica."""
    if topology not in _ANNOUNCED:
        return StoreUnavailable("Redis: is a read-only replica", cure=_CURES["READONLY"])
    who, _ = _ANNOUNCED[topology]
    cure = "wait until the failover is over; if it lasts, promote a server (SENTINEL FAILOVER, CLUSTER FAILOVER)"
    return StoreUnavailable(f"Redis: the server that {who} is a read-only replica", cure=cure)


def sentinel_cure(error: BaseException, credentials: Credentials) -> str | None:
    """Return what helps against a Sentinel's refusal, by the *credentials* that it got; None for any other error."""
    error = unwrap(error)
    if isinstance(error, exceptions.NoPermissionError):
        return (
            "give the Sentinels' user +sentinel|get-master-addr-by-name +client|setname (ACL SETUSER at each Sentinel)"
        )
    if not isinstance(error, exceptions.AuthenticationError):
        return None
    if credentials[1] is None:
        return (
            "the Sentinels demand a password of their own: write it to a file and name that in "
            "redis.sentinel_password_file (with redis.sentinel_username for a user other than default); the user and "
            "password of the servers are not sent to them"
        )
    return "correct redis.sentinel_username, or the file of redis.sentinel_password_file"


def find_cure(error: BaseException) -> str | None:
    """Return what helps against *error*; None: the general cure, to start Redis or to correct `redis.url`."""
    error = unwrap(error)
    if cure := _CURES.get(error_code(error)):
        return cure
    if certificate_error(error) is not None:
        return "renew its certificate, or name the CA that signed it in redis.url (?ssl_ca_certs=FILE)"
    if _NO_DATABASE in str(error):
        return "correct the number of the database at the end of redis.url, or raise `databases` in its settings"
    if NO_MORE_CLIENTS in str(error):
        return "raise its maxclients, or close clients that are no longer needed"
    if POOL_EMPTY in str(error) or isinstance(error, (exceptions.TimeoutError, asyncio.TimeoutError)):
        return HANGS
    if isinstance(error, exceptions.NoPermissionError):
        return "give the broker's user what deploy/redis/users.acl has"
    if isinstance(error, exceptions.AuthenticationError):
        return "correct user and password in redis.url, or the file of redis.password_file"
    return _cure_of_connection(error)


def _cure_of_connection(error: BaseException) -> str | None:
    if find_cause(error, socket.gaierror):
        return "correct the host in redis.url, or the name service of this machine"
    if find_cause(error, PermissionError):
        return "let the broker's user open the socket of Redis (unixsocketperm, or its group)"
    if find_cause(error, ssl.SSLError):
        return "use redis:// if it speaks no TLS; else compare its TLS settings with the ssl_ options of redis.url"
    return None
