"""What a person does at the status page: every button does what it says, and what cannot be undone asks first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.sandbox import Sandbox
from tests.conftest import RunningBroker
from tests.page.steps import gone, kill
from tests.steps import make_due
from tests.waiting import until

Screens = Callable[..., Any]


async def test_refresh_now(broker: RunningBroker, screens: Screens) -> None:
    """The button makes a new generation, the page shows it, and no token reaches the browser."""
    before = await broker.token("acme-1")
    screen = await screens(broker)
    bodies: list[str] = []

    async def keep(response: Any) -> None:
        if "/v1/" in response.url and response.status != 204:
            bodies.append(await response.text())

    screen.page.on("response", keep)
    await screen.sign_in()
    details = await screen.open_details("acme-1")
    await details.get_by_role("button", name="Refresh now").click()
    await screen.page.get_by_text("acme-1 has a new token.").wait_for()
    after = await broker.token("acme-1")
    assert after["generation"] > before["generation"]
    await details.get_by_text(str(after["generation"])).wait_for()
    assert bodies
    assert not any(token["access_token"] in body for token in (before, after) for body in bodies)
    screen.sound()


async def test_log_out_asks_first(
    broker: RunningBroker, screens: Screens, sandbox: Sandbox, screenshot: Any, redis: Redis
) -> None:
    """Nothing happens until the person says yes, Escape is a no, and then the grant is revoked and gone."""
    screen = await screens(broker)
    await screen.sign_in()
    page = screen.page
    details = await screen.open_details("acme-1")
    button = details.get_by_role("button", name="Log out")
    dialog = page.get_by_role("dialog", name="Log out acme-1?")
    for leave in ("Escape", "Enter"):  # the button that keeps it has the focus
        await button.click()
        await dialog.wait_for()
        await screenshot(page, "log-out-asks")
        await page.keyboard.press(leave)
        await dialog.wait_for(state="hidden")
        assert await button.evaluate("node => node === document.activeElement"), "the focus comes back"
    assert (await broker.ask("GET", "/v1/grants/acme-1"))[0] == 200
    families = [family for family in sandbox.rotating.families if not family.revoked]
    await button.click()
    await dialog.get_by_role("button", name="Log out").click()
    await page.get_by_text("acme-1: revoked").wait_for()
    await until(lambda: gone(screen, "acme-1"))
    assert (await broker.ask("GET", "/v1/grants/acme-1"))[0] == 404
    assert len([family for family in sandbox.rotating.families if not family.revoked]) == len(families) - 1
    screen.sound()


async def test_a_person_must_log_in(
    broker: RunningBroker, screens: Screens, sandbox: Sandbox, redis: Redis, screenshot: Any, sound: Any
) -> None:
    """A dead grant is the top line; its button opens the login in a new tab, and the page sees it come to life."""
    await kill(broker, sandbox, redis, "acme-2")
    screen = await screens(broker)
    await screen.sign_in()
    page = screen.page
    await page.get_by_role("heading", name="log in again to acme-2").wait_for()
    assert await page.locator("li.grant .id").first.inner_text() == "acme-2", "what needs a person comes first"
    assert await screen.line("acme-2").locator(".by > :last-child").inner_text() == "now"
    await screenshot(page, "a-person-must-log-in")
    async with screen.context.expect_page() as opening:
        await screen.line("acme-2").get_by_role("button", name="Log in acme-2").click()
    tab = await opening.value
    await tab.get_by_label("User name").fill("demo")
    await tab.get_by_label("Password").fill("demo")
    await tab.get_by_role("button", name="Sign in").click()
    await sound(page, "login-waits")
    await tab.get_by_role("button", name="Allow").click()
    await tab.get_by_role("heading", name="Logged in").wait_for()
    await page.get_by_text("Logged in: token-broker now keeps acme-2 alive.").wait_for()
    await page.get_by_role("button", name="Close").click()
    await page.get_by_role("heading", name="All 6 grants have a valid token.").wait_for()
    assert (await broker.get("/v1/grants/acme-2"))["reason"] is None
    screen.sound()


@pytest.mark.parametrize("at", ["the status page", "the page of the login"])
async def test_another_account(broker: RunningBroker, screens: Screens, screenshot: Any, at: str) -> None:
    """A login of another account replaces nothing; both pages say so, and the button of each replaces it."""
    screen = await screens(broker)
    await screen.sign_in()
    page = screen.page
    await screen.line("acme-1").get_by_text("demo@example.com (demo)").wait_for()
    details = await screen.open_details("acme-1")
    async with screen.context.expect_page() as opening:
        await details.get_by_role("button", name="Log in acme-1").click()
    tab = await opening.value
    await tab.get_by_label("User name").fill("john")
    await tab.get_by_label("Password").fill("demo")
    await tab.get_by_role("button", name="Sign in").click()
    await tab.get_by_role("button", name="Allow").click()
    await tab.get_by_role("heading", name="This is another account").wait_for()
    await tab.get_by_text("is of account demo@example.com (demo), and this login is of account john@").wait_for()
    await page.get_by_text(
        "Not logged in: what is kept as acme-1 at acme is of account demo@example.com (demo)"
    ).wait_for()
    await screenshot(page, "another-account")
    await screenshot(tab, "another-account-in-the-browser")
    assert (await broker.get("/v1/grants/acme-1"))["account"]["id"] == "demo"
    button = (page if at == "the status page" else tab).get_by_role("button", name="Replace the account")
    await button.click()
    if at != "the status page":
        await tab.get_by_role("heading", name="Logged in").wait_for()
    await page.get_by_text("Logged in: token-broker now keeps acme-1 alive.").wait_for()
    assert (await broker.get("/v1/grants/acme-1"))["account"]["id"] == "john"
    await page.get_by_role("button", name="Close").click()
    await screen.line("acme-1").get_by_text("john@example.com (john)").first.wait_for()
    assert [text for text in screen.console if "409" not in text] == []


async def test_a_new_grant(broker: RunningBroker, screens: Screens) -> None:
    """A grant that was never there is begun from the page; a bad id is refused by the form."""
    screen = await screens(broker)
    await screen.sign_in()
    page = screen.page
    await screen.line("acme-1").wait_for()
    await page.get_by_role("button", name="Log in a new grant").click()
    await page.get_by_label("Grant id").fill("-bad id")
    await page.get_by_role("dialog").get_by_label("Provider").select_option("cameramanager")
    await page.get_by_role("button", name="Continue").click()
    assert await page.get_by_label("Grant id").evaluate("node => node.validity.patternMismatch")
    await page.get_by_label("Grant id").fill("brand-new")
    async with screen.context.expect_page() as opening:
        await page.get_by_role("button", name="Continue").click()
    tab = await opening.value
    await tab.get_by_label("User name").fill("demo")
    await tab.get_by_label("Password").fill("demo")
    await tab.get_by_role("button", name="Sign in").click()
    await tab.get_by_role("button", name="Allow").click()
    await page.get_by_text("Logged in: token-broker now keeps brand-new alive.").wait_for()
    await screen.line("brand-new").wait_for()
    screen.sound()


async def test_a_suspended_provider(
    broker: RunningBroker, screens: Screens, sandbox: Sandbox, redis: Redis, screenshot: Any
) -> None:
    """The top line names it and what to check; the retry button has it asked again."""
    sandbox.rotating.faults.order("invalid_client", None)
    await make_due(redis, "acme", "acme-1")
    screen = await screens(broker)
    await screen.sign_in()
    page = screen.page
    await page.get_by_role("heading", name="acme").filter(has_text="invalid_client").wait_for()
    await page.locator("#providers .card").filter(has_text="acme").get_by_text("suspended").wait_for()
    await screenshot(page, "a-suspended-provider")
    words = page.locator("#words")
    assert await words.locator("code").count() == 2
    assert "\n" not in await words.inner_text(), "commands stand within the sentence, not beside it"
    sandbox.rotating.faults.clear()
    await page.get_by_role("button", name="Try again acme").click()
    await page.get_by_text("Requests to acme resume").wait_for()
    await page.get_by_role("heading", name="All 6 grants have a valid token.").wait_for()
    screen.sound()
