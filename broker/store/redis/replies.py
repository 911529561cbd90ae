"""What Redis's errors mean for us: in words, and whether the primary is to be found anew. Pure."""

from __future__ import annotations

import asyncio
import ssl

from redis import exceptions

from broker.errors import WrongStore

_WORDS = {
    "MISCONF": "refuses writes: it cannot save to its disk (MISCONF): make room there, or mend its permissions",
    "OOM": "refuses writes: its memory is full (OOM): raise maxmemory",
    "NOREPLICAS": "refuses writes: too few replicas are connected (NOREPLICAS, see min-replicas-to-write)",
    "BUSY": "is busy with a slow script (BUSY)",
    "READONLY": "is a read-only replica",
    "LOADING": "is loading its data",
    "MASTERDOWN": "is a replica without its primary",
    "CLUSTERDOWN": "is in a Cluster that is down",
    "MOVED": "has given our slot to another node",
    "ASK": "is giving our slot to another node",
    "TRYAGAIN": "is giving our slot to another node",
}
_FOREIGN = "FOREIGN"
"""What `lua/prelude.lua` says where another store answers."""
_NO_MORE_CLIENTS = "max number of clients"
POOL_EMPTY = "No connection available"
_ELSEWHERE = frozenset({"READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED"})
_UNREACHED = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, asyncio.TimeoutError)


def _bare(error: BaseException) -> BaseException:
    """What the server said, where redis-py wrapped it into a failure to connect."""
    wrapped = isinstance(error, exceptions.ConnectionError) and isinstance(error.__cause__, exceptions.RedisError)
    return error.__cause__ or error if wrapped else error


def code_of(error: BaseException) -> str:
    """The code in front of an error's text, as MISCONF; READONLY also where a script's error only quotes it."""
    error = _bare(error)
    text = str(error)
    code: str = getattr(error, "status_code", None) or text.partition(" ")[0]
    return "READONLY" if code == "ERR" and "READONLY" in text else code


def foreign(error: BaseException) -> WrongStore | None:
    """The error to raise where a script found itself in another store than ours."""
    return not_ours(str(error).partition(" ")[2]) if code_of(error) == _FOREIGN else None


def not_ours(store: str) -> WrongStore:
    """The error to raise where *store* is the id of the store that answers, or empty where there is none."""
    if not store:
        return WrongStore("Redis answers but holds no token-broker data: it was emptied, or this is another server")
    return WrongStore(f"Redis holds another store ({store[:64]}) than the one we began with: mend redis.url")


def unreached(error: BaseException) -> bool:
    """Whether a connection failed, or could not be had, so that the next is not to be tried at once."""
    return isinstance(error, _UNREACHED) and POOL_EMPTY not in str(error)


def elsewhere(error: BaseException) -> bool:
    """Whether the primary may be at another place by now. One that loads, or that refuses us, is where it was."""
    error = _bare(error)
    if code_of(error) in _ELSEWHERE:
        return True
    stays = (exceptions.BusyLoadingError, exceptions.AuthenticationError, exceptions.AuthorizationError)
    return unreached(error) and not isinstance(error, stays) and _NO_MORE_CLIENTS not in str(error)


def certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """The certificate error behind an error of redis-py, where there is one."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def describe(error: BaseException) -> str:
    """What a Redis error says, bounded, without the addresses and commands redis-py puts into some of them."""
    error = _bare(error)
    if words := _WORDS.get(code_of(error)):
        return words
    if (refused := certificate_error(error)) is not None:
        return f"shows a certificate that is not accepted: {refused.verify_message[:120]}"
    if _NO_MORE_CLIENTS in str(error):
        return "takes no more clients (see its maxclients)"
    if POOL_EMPTY in str(error):
        return "is slower than we ask: all our connections are in use"
    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
        return f"refused us: {str(error)[:120]}"
    if isinstance(error, (exceptions.TimeoutError, asyncio.TimeoutError)):
        return "did not answer in time"
    if isinstance(error, (exceptions.ConnectionError, OSError)):
        return "cannot be reached"
    return str(error).split("script:", 1)[0][:160]
