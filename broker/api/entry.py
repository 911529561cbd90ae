"""Where a person begins: the address of the status page, and which key signs in there. Pure; never shows a key."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.api.callers import Callers
    from broker.settings import Settings


def page_entry(settings: Settings, callers: Callers, bound: Sequence[str]) -> dict[str, str]:
    """Return the status page's `url`, and how to `sign_in` there.

    Args:
        settings: `public_url` leads to the page, unless `public_listen` is set: then it serves logins only.
        callers: Those who have a key.
        bound: The addresses of the listeners, those of `http.listen` first.
    """
    return {"url": f"{settings.status_page_url or bound[0]}/", "sign_in": _key(settings, callers)}


def _key(settings: Settings, callers: Callers) -> str:
    """Return which key signs in: its file, the callers who have one, or the command for one."""
    admins = callers.admins
    if "admin" in admins and "admin" not in settings.callers:
        return f"with the key in {settings.data_dir / 'admin.key'}"
    if admins:
        return f"with the key of caller {' or '.join(admins)}"
    return "no caller may: token-broker caller new NAME --admin '*'"
