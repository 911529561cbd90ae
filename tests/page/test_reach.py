"""The status page for everybody: with ten thousand grants, and by keyboard alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.model import Ending, Token
from broker.secret import Sealer, Secret, parse_sealing_keys
from broker.store import open_store
from tests.conftest import RunningBroker, StartBroker
from tests.page.steps import changed, counts
from tests.steps import PROVIDERS
from tests.waiting import until

Screens = Callable[..., Any]


async def seeded(broker: RunningBroker, redis: Redis, number: int) -> None:
    """Put *number* grants with tokens into the store, of every kind that a fleet has, and an hour of history."""
    settings = broker.settings
    assert settings.sealing.keys_file
    sealer = Sealer(parse_sealing_keys(settings.sealing.keys_file.read_text()))
    moment = int(time.time() * 1000)
    async with open_store(settings.redis, sealer, data_dir=settings.data_dir) as store:
        await store.identify()

        async def put(index: int) -> None:
            life = 3_600_000
            issued = moment - index * 250 % (life // 2)
            token = Token(
                f"site-{index:05}",
                PROVIDERS[index % 3],
                moment + index,
                Secret("t"),
                "bearer",
                "vms.all",
                issued,
                issued + life,
                issued + life * 3 // 4,
                issued + life,
            )
            limit = moment + (90 * 86_400_000) if index % 3 else None
            login = store.registry.prepare_login(token, Secret(f"r{index}"), ending=Ending(limit), followed=0)
            await store.registry.log_in(login, seen=None, message={})

        for start in range(0, number, 500):
            await asyncio.gather(*(put(index) for index in range(start, start + 500)))
    for provider in PROVIDERS:
        minutes = {
            f"{moment // 60_000 - back}{kind}": (back * 7919 % 40 + 12 if kind == "r" else 6)
            for back in range(60)
            for kind in "rf"
            if kind == "r" or back in {11, 12, 13}
        }
        await redis.hset(f"broker:{{0}}:history:{provider}", mapping=minutes)  # type: ignore[arg-type]
        quarter = moment // 900_000
        day = {f"{quarter - back}r": back * 7919 % 40 + 12 for back in range(96)}
        day |= {f"{quarter - back}f": 9 for back in (11, 12, 13)} | {f"{quarter - 12}u": 0b111_1111}
        await redis.hset(f"broker:{{0}}:day:{provider}", mapping=day)  # type: ignore[arg-type]


@pytest.mark.timeout(120)
async def test_ten_thousand_grants(start_broker: StartBroker, screens: Screens, redis: Redis, screenshot: Any) -> None:
    """The first rows, a filter and a search over all of them come soon, and the page holds a hundred at a time."""
    async with start_broker() as broker:
        await seeded(broker, redis, 10_000)
        screen = await screens(broker)
        page = screen.page
        await screen.sign_in()
        began = time.monotonic()
        await page.locator("li.grant").nth(99).wait_for()
        first = time.monotonic() - began
        await page.get_by_role("heading", name="All 10,000 grants have a valid token.").wait_for()
        assert (await page.locator("#aside").inner_text()).startswith("10,000 alive, the next ends in ")
        assert await page.locator("li.grant").count() == 100
        picture = page.locator("#providers .card").first.locator(".day")
        assert "27 failed, 7 min unserved" in await picture.inner_text()
        assert await picture.locator("rect.good").count() == 96
        assert await page.evaluate("document.querySelectorAll('*').length") < 4_000
        await screenshot(page, "ten-thousand")
        began = time.monotonic()
        await page.locator("#provider").select_option("een")
        await page.get_by_text("scheduled 3,333").wait_for()
        filtered = time.monotonic() - began
        began = time.monotonic()
        await page.get_by_label("Id", exact=True).fill("E-0999")
        await until(lambda: counts(page, 3))
        searched = time.monotonic() - began
        print(f"first rows {first:.2f} s, filter {filtered:.2f} s, search {searched:.2f} s")
        assert max(first, filtered, searched) < 5
        await page.get_by_label("Id", exact=True).fill("")
        await until(lambda: counts(page, 100))
        before = await page.locator("li.grant .id").all_inner_texts()
        await page.get_by_role("button", name="Next").click()
        await page.get_by_text("page 2 of 34").wait_for()
        await until(lambda: changed(page.locator("li.grant .id").first, before[0]))
        after = await page.locator("li.grant .id").all_inner_texts()
        assert len(after) == 100
        assert not set(before) & set(after)
        await page.get_by_role("button", name="Page 1", exact=True).click()
        await until(lambda: page.get_by_text(before[0], exact=True).count())
        screen.sound()


async def test_keyboard_alone(broker: RunningBroker, screens: Screens) -> None:
    """From the sign-in to a logged-out grant without a mouse, with the focus seen at every step."""
    screen = await screens(broker)
    page, press = screen.page, screen.page.keyboard.press
    await page.goto(broker.url)
    await page.get_by_label("Key", exact=True).wait_for()
    await until(lambda: page.evaluate("document.activeElement.id === 'key'"))
    await page.keyboard.type(broker.admin_key)
    await press("Enter")
    await screen.line("acme-1").wait_for()
    await page.reload()
    await screen.line("acme-1").wait_for()
    await press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to the grants"
    await press("Enter")
    seen: list[str] = []

    async def tab_to(name: str) -> None:
        for _ in range(60):
            await press("Tab")
            focus = await page.evaluate(
                """() => { const node = document.activeElement;
                const mark = node.matches('.states input') ? node.nextElementSibling : node;
                const style = getComputedStyle(mark);
                const name = node.getAttribute('aria-label') || node.textContent || node.id;
                return [name, style.outlineStyle, style.outlineWidth]; }"""
            )
            seen.append(focus[0])
            assert focus[1] != "none", f"no focus to be seen on {focus}"
            assert focus[2] != "0px", focus
            if focus[0] == name:
                return
        raise AssertionError(f"{name} is not reached by Tab: {seen}")

    await tab_to("acme-1")
    await press("Enter")
    assert await page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    await screen.line("acme-1").get_by_text("No token request yet.").wait_for()
    await tab_to("Log out acme-1")
    await press("Enter")
    assert await page.evaluate("document.activeElement.textContent") == "Keep it"
    await press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Log out"
    await press("Enter")
    await page.get_by_text("acme-1: revoked").wait_for()
    assert (await broker.ask("GET", "/v1/grants/acme-1"))[0] == 404
    screen.sound()
