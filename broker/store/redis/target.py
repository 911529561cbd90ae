"""The Redis that `token-broker move` goes to: what is wrong with it is said by the options that name it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.errors import StoreUnavailable, WrongStore
from broker.store.redis.primary import Primary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from broker.store.redis.connections import Argument, Pool
    from broker.store.scripts import Script

_OPTIONS = {
    "redis.url": "--to",
    "redis.password_file": "--to-password-file",
    "redis.sentinel_password_file": "--to-sentinel-password-file",
    "redis.sentinel_username": "--to-sentinel-username",
}
"""By the setting of the Redis of the settings."""


class Target(Primary):
    """A primary whose errors and cures name the options of `move`, and not the settings."""

    async def _use(self, work: Callable[[Pool], Awaitable[Any]]) -> Any:
        try:
            return await super()._use(work)
        except StoreUnavailable as error:
            raise of_target(error) from None

    async def run_each(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Run a script as `Primary.run_each` does."""
        replies = await super().run_each(script, calls)
        return [of_target(reply) if isinstance(reply, StoreUnavailable) else reply for reply in replies]


def of_target(error: StoreUnavailable) -> StoreUnavailable:
    """Return an error of the Redis that is moved to; one that says which store is there names it itself."""
    if isinstance(error, WrongStore):
        return error
    what = str(error).removeprefix("Redis: ").removeprefix("Redis ")
    return StoreUnavailable(f"--to: Redis {what}", cure=by_options(error.cure))


def by_options(cure: str) -> str:
    """Return a cure with the options in place of the settings."""
    for setting, option in _OPTIONS.items():
        cure = cure.replace(setting, option)
    return cure
