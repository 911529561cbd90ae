"""What the `meta` of a store says of a move, and whether a move may go on or be aborted with it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from broker.errors import InvalidSettings
from broker.store.redis import moved


@dataclass(frozen=True, slots=True)
class Marks:
    """What the `meta` of one side says; empty where it says nothing."""

    store: str
    schema: str
    move_id: str
    move_store: str
    """The id of the store that is moved."""
    move_schema: str
    move_to: str
    cursor: str

    @property
    def id(self) -> str:
        """The id of the store, whatever it is called during a move."""
        return self.move_store or self.store

    @property
    def begun(self) -> bool:
        """Whether its brokers are held back, because it is being moved away or was."""
        return moved.is_leaving(self.store) or moved.is_left(self.store)


def require_movable(old: Marks, new: Marks, to: str, namespace: str) -> None:
    """Check that the store *old* can be moved to *to*, which holds *new*. Pure.

    Raises:
        InvalidSettings: it cannot.
    """
    if not old.store:
        raise InvalidSettings(f"redis.url: holds no store under namespace {namespace!r}: there is nothing to move")
    if moved.is_arriving(old.store):
        raise InvalidSettings(
            "redis.url: a store is arriving at this Redis: run the move with the settings of the one that is left"
        )
    is_left = moved.is_left(old.store)
    opened = is_left and new.store == old.move_store
    if old.begun and old.move_to != to and new.move_id != old.move_id and not opened:
        raise InvalidSettings(
            f"--to: this store {'was' if is_left else 'is being'} moved to {old.move_to}: use --to {old.move_to}"
            + ("" if is_left else ", or return to the old store first: the same with --abort")
        )
    arrives = new.id == old.id and (moved.is_arriving(new.store) or moved.is_left(new.store))
    if is_left and not opened and not (arrives and new.move_id == old.move_id):
        what = "is empty" if not new.store else "holds something else"
        raise InvalidSettings(
            f"--to: this store was moved to {old.move_to}, but what is there {what}: restore its data; where a "
            "--abort was broken off, run that again"
        )
    if not new.store or opened or arrives:
        return
    if new.store == old.id:
        raise InvalidSettings(
            f"--to: {to} already holds store {new.store}, the same as redis.url: one of them is an old copy. Let "
            "redis.url name the current one, and remove the other's keys"
        )
    raise InvalidSettings(
        f"--to: {to} already holds a store ({new.store[:80]}) under namespace {namespace!r}: choose another database "
        "or server"
    )


def require_known(old: Marks, known: str | None) -> None:
    """Check that *old* is the store that the broker of these settings knows, if it knows one. Pure.

    Raises:
        InvalidSettings: it is another one.
    """
    if known is not None and old.id != known:
        raise InvalidSettings(
            f"redis.url: names store {old.id}, but the broker of these settings knows store {known} (store.id in "
            "data_dir): correct redis.url, or run the move with the right settings"
        )


def require_abortable(old: Marks, new: Marks | None, to: str) -> None:
    """Check that a move to *to* can be aborted; *new* is None where nobody answers there. Pure.

    Raises:
        InvalidSettings: it cannot.
    """
    arriving = new is not None and moved.is_arriving(new.store) and new.id == old.id
    if not old.begun and not arriving:
        raise InvalidSettings("--abort: no move has begun: there is nothing to abort")
    if old.begun and old.move_to != to and not arriving:
        raise InvalidSettings(f"--to: this store is being moved to {old.move_to}: use --to {old.move_to}")
    if moved.is_left(old.store) and not arriving:
        raise InvalidSettings(
            f"--abort: the store at {to} was opened, and brokers may have used it: set redis.url to {to}. To return, "
            "move it back: the same command with the settings of the new Redis, and --to the old one"
        )
