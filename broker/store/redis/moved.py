"""What the id of a store says of a move (`token-broker move`). Pure.

A move renames the store that is left, and every script of every broker refuses to run in a store with another name: it
holds back brokers of earlier versions too. They show the name, so it is a sentence that a person understands.
"""

from __future__ import annotations

LEFT_SCHEMA = "left"
"""The schema of a store that is being left: no version starts on it afresh."""
ARRIVING_SCHEMA = "arriving"
_LEAVING, _LEFT, _ARRIVING = "being moved to ", "moved to ", "arriving from "
_MAX = 200


def leaving(to: str, move_id: str) -> str:
    """Return the name of a store from the moment on in which its brokers are held back."""
    return f"{_LEAVING}{to} #{move_id}"


def left(to: str) -> str:
    """Return the name of a store once all of it is at *to*."""
    return f"{_LEFT}{to}"


def arriving(origin: str, move_id: str) -> str:
    """Return the name of the new store until it holds everything."""
    return f"{_ARRIVING}{origin} #{move_id}"


def is_leaving(store: str) -> bool:
    """Return whether *store* is being moved away."""
    return store.startswith(_LEAVING)


def is_left(store: str) -> bool:
    """Return whether *store* was moved away."""
    return store.startswith(_LEFT)


def is_arriving(store: str) -> bool:
    """Return whether *store* is incomplete."""
    return store.startswith(_ARRIVING)


def describe_move(store: str) -> tuple[str, str] | None:
    """Return what a broker says of a store with this id, and what a person must do; None: it is of no move."""
    where = store[:_MAX].partition(" #")[0]
    if is_left(store):
        to = where.removeprefix(_LEFT)
        return f"this store was left: token-broker move brought it to {to}", f"set redis.url to {to}, and restart"
    if is_leaving(store):
        to = where.removeprefix(_LEAVING)
        cure = f"let `token-broker move --to {to}` end (run it again if it was broken off), then set redis.url to it"
        return f"this store is being moved to {to}", f"{cure}, and restart"
    if is_arriving(store):
        return (
            f"a store is arriving here from {where.removeprefix(_ARRIVING)}, and is not complete",
            "let `token-broker move` end (run it again if it was broken off): the broker goes on by itself then",
        )
    return None
