"""Chromium, for the status page: one browser a test, as a person with an admin's key has it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from broker.sandbox import Sandbox
from tests.conftest import RunningBroker, StartBroker
from tests.page.measure import WIDTHS, misplaced, violations
from tests.regressions.process import missing
from tests.steps import PROVIDERS, log_in

_SCREENSHOTS = "TOKEN_BROKER_SCREENSHOTS"
_WHERE = os.environ.get(_SCREENSHOTS)  # a fixture takes our variables away from the tests
TALL, HEIGHT = {320: 568, 480: 800, 768: 1024, 1024: 768, 1280: 800, 1920: 1080}, 800


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    """Debian's Chromium, headless."""
    program = shutil.which("chromium")
    if program is None:
        missing("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest.fixture
def screenshot(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Page, str], Any]:
    """Keep what a page looks like, in the directory of the variable or the test run's own."""
    folder = Path(_WHERE) if _WHERE else tmp_path_factory.getbasetemp() / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)

    async def keep(page: Page, name: str, *, full: bool = False) -> None:
        path = folder / f"{name}.png"
        await page.screenshot(path=path, full_page=full)
        print(f"screenshot: {path}")

    return keep


@pytest.fixture
def sound(screenshot: Any) -> Callable[..., Any]:
    """Measure a page at every width, run axe-core in light and dark, and keep pictures where they are wanted."""

    async def check(page: Page, name: str, *, schemes: tuple[str, ...] = ("light", "dark")) -> None:
        wrong: dict[str, list[str]] = {}
        for width in WIDTHS:
            await page.set_viewport_size({"width": width, "height": TALL.get(width, HEIGHT)})
            if found := await misplaced(page):
                wrong[f"{name} at {width} px"] = found
            if _WHERE:
                await screenshot(page, f"{name}-{width}", full=True)
        for scheme in schemes:
            await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            ground = await page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            assert not ground.startswith("rgb(") or (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")
            if found := await violations(page):
                wrong[f"{name}, {scheme}"] = found
            if _WHERE and scheme == "dark":
                await screenshot(page, f"{name}-dark", full=True)
        await page.emulate_media(color_scheme="light")
        assert not wrong, json.dumps(wrong, indent=1)

    return check


@dataclass(slots=True)
class Screen:
    """A page of the broker in a browser of its own, and what its console said."""

    page: Page
    context: BrowserContext
    broker: RunningBroker
    console: list[str] = field(default_factory=list)

    async def sign_in(self, key: str | None = None, *, hash_: str = "") -> None:
        """Open the page and sign in."""
        await self.page.goto(self.broker.url + "/" + hash_)
        await self.page.get_by_label("Key", exact=True).fill(self.broker.admin_key if key is None else key)
        await self.page.get_by_role("button", name="Sign in").click()

    def named(self, grant: str) -> Any:
        """Return the button with a grant's id, which opens its details."""
        return self.page.locator("button.id").get_by_text(grant, exact=True)

    def line(self, grant: str) -> Any:
        """Return the line of a grant."""
        return self.page.locator("li.grant").filter(has=self.named(grant))

    async def open_details(self, grant: str) -> Any:
        """Return a grant's details."""
        await self.named(grant).click()
        return self.line(grant).locator(".details")

    def sound(self) -> None:
        """Check that the browser found no violation of the policy and no error of a script."""
        assert self.console == []


@pytest.fixture
async def screens(chromium: Browser) -> AsyncIterator[Callable[..., Any]]:
    """Open screens; each is a browser that knows nothing of the others."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_screen(broker: RunningBroker, **options: Any) -> Screen:
            context = await chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
            stack.push_async_callback(context.close)
            context.set_default_timeout(15_000)
            page = await context.new_page()
            screen = Screen(page, context, broker)
            page.on("console", lambda said: screen.console.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: screen.console.append(str(error)))
            return screen

        yield open_screen


@pytest.fixture
async def broker(start_broker: StartBroker, sandbox: Sandbox) -> AsyncIterator[RunningBroker]:
    """Yield a broker with two grants at each provider; a refresh may be forced at any time."""
    async with start_broker(refresh={"min_interval": "0s"}) as running:
        for provider in PROVIDERS:
            for number in (1, 2):
                await log_in(running, f"{provider}-{number}", provider)
        yield running
