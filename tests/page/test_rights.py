"""The status page shows a button only where the key of whoever signed in has the right to what it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from broker.sandbox import Sandbox
from tests.conftest import StartBroker
from tests.page.steps import kill
from tests.rights.conftest import ADMIN_KEY, key_of, with_keys
from tests.steps import log_in

CALLERS: dict[str, dict[str, Any]] = {
    "viewer": {"view": ["*"]},
    "helper": {"view": ["*"], "login": ["mine-*"]},
    "owner": {"view": ["*"], "admin": ["mine-*"], "refresh": ["mine-1"]},
}
LIVING = {"Refresh now": "refresh", "Log in": "login", "Log out": "admin"}
PARKED = {"Try again": "admin", "Log in": "login", "Log out": "admin"}
SHOWN: dict[str, dict[str, list[str]]] = {
    "viewer": {"mine-1": [], "mine-2": [], "other-1": []},
    "helper": {"mine-1": ["Log in"], "mine-2": ["Log in"], "other-1": []},
    "owner": {"mine-1": [*LIVING], "mine-2": [*PARKED], "other-1": []},
}
"""The buttons in the details of each grant; mine-2 is dead, so its line has a button too."""


async def test_only_what_the_key_allows(
    start_broker: StartBroker,
    screens: Callable[..., Any],
    sandbox: Sandbox,
    redis: Redis,
    sound: Any,
    screenshot: Any,
    tmp_path: Path,
) -> None:
    """Each key sees its buttons alone, a sentence names the others with their rights, and nothing is refused."""
    data = tmp_path / "rights"
    data.mkdir()
    (data / "admin.key").write_text(f"{ADMIN_KEY}\n")
    async with start_broker(data_dir=data, callers=with_keys(CALLERS)) as broker:
        broker.secrets |= {key_of(name) for name in CALLERS}
        for grant in ("mine-1", "mine-2", "other-1"):
            await log_in(broker, grant, "acme")
        await kill(broker, sandbox, redis, "mine-2")
        for caller, of_grants in SHOWN.items():
            screen = await screens(broker)
            refused: list[str] = []
            screen.page.on("response", lambda answer, seen=refused: seen.append(answer.url) if not answer.ok else None)
            await screen.sign_in(key_of(caller))
            await screen.line("other-1").wait_for()
            only = " (view only)" if caller == "viewer" else ""
            assert await screen.page.locator("#caller").inner_text() == f"{caller}{only}"
            begins = screen.page.get_by_role("button", name="Log in a new grant")
            assert await begins.count() == (caller != "viewer")
            for grant, labels in of_grants.items():
                details = await screen.open_details(grant)
                assert await details.locator("button").all_inner_texts() == labels, (caller, grant)
                rights = PARKED if grant == "mine-2" else LIVING
                missing = [f"{label} (right {rights[label]})" for label in rights if label not in labels]
                sentences = [f"Your key does not allow: {', '.join(missing)}."] if missing else []
                assert await details.locator(".refused").all_inner_texts() == sentences
            assert await screen.line("mine-2").locator(".act").is_visible() == ("Log in" in of_grants["mine-2"])
            assert await screen.page.get_by_role("button", name="Try again acme").count() == 0
            assert refused == []
            if caller == "viewer":
                await sound(screen.page, "view-only", schemes=("light",))
                await screen.page.set_viewport_size({"width": 1280, "height": 800})
                await screenshot(screen.page, "view-only")
            screen.sound()
