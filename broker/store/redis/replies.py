"""What Redis's errors mean for the broker: in words, and whether the primary has to be located again. Pure."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from typing import TypeVar

from redis import exceptions

from broker.errors import MovedStore, WrongStore
from broker.store.redis.moved import describe_move

E = TypeVar("E", bound=BaseException)

_WORDS = {
    "MISCONF": "refuses writes: it cannot save to its disk (MISCONF)",
    "OOM": "refuses writes: its memory is full (OOM)",
    "NOREPLICAS": "refuses writes: too few replicas are connected (NOREPLICAS, see min-replicas-to-write)",
    "BUSY": "is busy with a slow script (BUSY)",
    "READONLY": "is a read-only replica",
    "LOADING": "is loading its data",
    "MASTERDOWN": "is a replica without its primary",
    "CLUSTERDOWN": "is in a Cluster that is down",
    "MOVED": "has moved the broker's slot to another node",
    "ASK": "is moving the broker's slot to another node",
    "TRYAGAIN": "is moving the broker's slot to another node",
}
_AFRESH = "or, to start afresh with what it holds, stop the broker and remove store.id from data_dir"
EMPTY = f"restore its data, or correct redis.url; {_AFRESH}"
OTHER = f"correct redis.url; {_AFRESH}"
_DAMAGED = re.compile(r"\bDAMAGED (\S+)")
_FOREIGN = "FOREIGN"
"""What `lua/prelude.lua` says where another store answers."""
NO_MORE_CLIENTS = "max number of clients"
POOL_EMPTY = "No connection available"
_ELSEWHERE = frozenset({"READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED"})
_UNREACHED = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, asyncio.TimeoutError)


def unwrap(error: BaseException) -> BaseException:
    """Return the server's error where redis-py wrapped it into a failure to connect."""
    wrapped = isinstance(error, exceptions.ConnectionError) and isinstance(error.__cause__, exceptions.RedisError)
    return error.__cause__ or error if wrapped else error


def error_code(error: BaseException) -> str:
    """Return the code in front of an error's text, like MISCONF; READONLY also where a script's error quotes it."""
    error = unwrap(error)
    text = str(error)
    code: str = getattr(error, "status_code", None) or text.partition(" ")[0]
    return "READONLY" if code == "ERR" and "READONLY" in text else code


def wrong_store_error(error: BaseException) -> WrongStore | None:
    """Return the error to raise where a script ran in another store than this broker's, else None."""
    return wrong_store(str(error).partition(" ")[2]) if error_code(error) == _FOREIGN else None


def wrong_store(store: str) -> WrongStore:
    """Return the error to raise where the server holds *store*; an empty id means none."""
    if not store:
        return WrongStore(
            "Redis replies but holds no token-broker data: it was emptied, or this is another server", cure=EMPTY
        )
    if move := describe_move(store):
        return MovedStore(f"Redis: {move[0]}", cure=move[1])
    return WrongStore(f"Redis holds another store ({store[:64]}) than this broker's", cure=OTHER)


def is_damaged(reply: object) -> bool:
    """Return whether a reply says that a key is of another type than the command is for."""
    return isinstance(reply, exceptions.ResponseError) and error_code(reply) == "WRONGTYPE"


def damaged_set(error: BaseException) -> str | None:
    """Return the key of a set of the schedule that is of another type, where a script says that it is (see prelude)."""
    found = _DAMAGED.search(str(error))
    return found[1] if found else None


def is_unreached(error: BaseException) -> bool:
    """Return whether a connection failed, or could not be opened, so that the next must not be tried at once."""
    return isinstance(error, _UNREACHED) and POOL_EMPTY not in str(error)


def may_have_moved(error: BaseException) -> bool:
    """Return whether the primary may have moved. One that loads its data, or denies access, has not."""
    error = unwrap(error)
    if error_code(error) in _ELSEWHERE:
        return True
    stays = (exceptions.BusyLoadingError, exceptions.AuthenticationError, exceptions.AuthorizationError)
    return is_unreached(error) and not isinstance(error, stays) and NO_MORE_CLIENTS not in str(error)


def is_away(error: BaseException) -> bool:
    """Return whether nothing replied at all: no server there, or no way to it."""
    replied = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.BusyLoadingError)
    bare = unwrap(error)
    if isinstance(bare, replied) or error_code(bare) in _WORDS or NO_MORE_CLIENTS in str(bare):
        return False
    return is_unreached(bare) and find_cause(error, ssl.SSLError) is None


def find_cause(error: BaseException | None, kind: type[E]) -> E | None:
    """Return the error of *kind* behind an error of redis-py, if there is one."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Return the certificate error behind an error of redis-py, if there is one."""
    return find_cause(error, ssl.SSLCertVerificationError)


def describe(error: BaseException) -> str:
    """Return what a Redis error says, bounded, without the addresses and commands that redis-py puts into some."""
    error = unwrap(error)
    if words := _WORDS.get(error_code(error)):
        return words
    if (rejected := certificate_error(error)) is not None:
        return f"shows a certificate that is not accepted: {rejected.verify_message[:120]}"
    if NO_MORE_CLIENTS in str(error):
        return "accepts no more clients (see its maxclients)"
    if POOL_EMPTY in str(error):
        return "is too slow: all connections of this broker are in use"
    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
        return f"denied access: {str(error)[:120]}"
    if isinstance(error, (exceptions.TimeoutError, asyncio.TimeoutError)):
        return "did not reply in time"
    if isinstance(error, (exceptions.ConnectionError, OSError)):
        return f"cannot be reached{_why(error)}"
    return str(error).split("script:", 1)[0][:160]


def _why(error: BaseException) -> str:
    """Return why a connection failed, where that is not simply that nobody listens."""
    if find_cause(error, socket.gaierror):
        return ": its name cannot be resolved"
    if find_cause(error, PermissionError):
        return ": the broker's user may not open its socket"
    return ": the TLS handshake failed" if find_cause(error, ssl.SSLError) else ""
