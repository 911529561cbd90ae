"""The page shows changes at once by a stream, asks by itself without one, and says what an older broker lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from broker.sandbox import Sandbox
from tests.conftest import RunningBroker, StartBroker
from tests.page.steps import kill
from tests.steps import log_in
from tests.waiting import until

Screens = Callable[..., Any]


async def test_a_change_is_shown_at_once(
    broker: RunningBroker, screens: Screens, sandbox: Sandbox, redis: Redis
) -> None:
    """A grant that dies is the top line within seconds, although the page itself would ask much later."""
    screen = await screens(broker)
    page = screen.page

    async def without_polls(route: Any) -> None:
        answer = await route.fetch()
        text = await answer.text()
        assert "POLL_WITH_STREAM = 15000" in text
        await route.fulfill(response=answer, body=text.replace("POLL_WITH_STREAM = 15000", "POLL_WITH_STREAM = 1e9"))

    await page.route("**/page/main.js", without_polls)
    await screen.sign_in()
    await page.get_by_text("Shows changes at once.").wait_for()
    await screen.line("acme-2").get_by_text("alive").wait_for()
    await kill(broker, sandbox, redis, "acme-2")
    await screen.line("acme-2").get_by_text("needs a login").wait_for()
    screen.sound()


async def test_the_stream_comes_back(start_broker: StartBroker, screens: Screens) -> None:
    """A hidden page holds no stream; one that is shown again opens it anew."""
    async with start_broker() as broker:
        await log_in(broker, "acme-1", "acme")
        screen = await screens(broker)
        opened: list[str] = []
        screen.page.on("request", lambda sent: opened.append(sent.url) if "/v1/events" in sent.url else None)
        await screen.sign_in()
        await screen.page.get_by_text("Shows changes at once.").wait_for()
        hide = """hidden => { Object.defineProperty(document, 'visibilityState', {value: hidden ? 'hidden' : 'visible',
            configurable: true}); document.dispatchEvent(new Event('visibilitychange')); }"""
        await screen.page.evaluate(hide, True)
        assert len(opened) == 1
        await screen.page.evaluate(hide, False)
        await until(lambda: len(opened) == 2)
        await screen.page.get_by_text("Shows changes at once.").wait_for()


async def test_a_fresh_token(start_broker: StartBroker, screens: Screens) -> None:
    """*Refresh now* on a fresh token is no error: it says when it was refreshed, and when it can be again."""
    async with start_broker(refresh={"min_interval": "60s"}) as broker:
        await log_in(broker, "acme-1", "acme")
        screen = await screens(broker)
        await screen.sign_in()
        details = await screen.open_details("acme-1")
        await details.get_by_role("button", name="Refresh now").click()
        message = screen.page.locator("#said")
        await message.get_by_text("acme-1: refreshed").wait_for()
        text = await message.inner_text()
        assert " ago, again in " in text or "just now, again in " in text
        assert await message.get_attribute("data-bad") == "no"


async def test_an_older_broker(broker: RunningBroker, screens: Screens) -> None:
    """Behind one address may stand a broker without the verdict: the page says so, and guesses nothing."""
    screen = await screens(broker)
    missing = {"status": 404, "json": {"error": "not_found", "error_description": "no such route"}}
    for path in ("verdict", "history", "grants/*/explanation"):
        await screen.page.route(f"**/v1/{path}?**", lambda route: route.fulfill(**missing))
    await screen.sign_in()
    await screen.page.get_by_role("heading", name="This broker is older than this page").wait_for()
    await screen.page.get_by_text("last hour: nothing refreshed").first.wait_for()
    details = await screen.open_details("acme-1")
    await details.get_by_text("this broker is older than this page").wait_for()
