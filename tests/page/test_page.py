"""What the status page shows, in a real Chromium, at a real broker with grants of the sandbox."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from broker.sandbox import Sandbox
from broker.secret import key_digest
from tests.conftest import RunningBroker, StartBroker
from tests.page.steps import changed, kill, newer, parked
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.steps import log_in, make_due, refused_often
from tests.waiting import until

Screens = Callable[..., Any]
FEW = "few-key-0123456789-0123456789-0123456789"
MARKUP = "<img src=x onerror=\"document.title='owned'\">"


async def test_all_is_well(broker: RunningBroker, screens: Screens, screenshot: Any, redis: Redis) -> None:
    """The top line says so; every grant has its life, next refresh and limit; details show the attempts."""
    generation = (await broker.token("acme-1"))["generation"]
    await make_due(redis, "acme", "acme-1")
    await until(lambda: newer(broker, "acme-1", generation))
    screen = await screens(broker)
    await screen.sign_in()
    page = screen.page
    await page.get_by_role("heading", name="All 6 grants have a valid token.").wait_for()
    assert (await page.locator("#aside").inner_text()).startswith("6 alive, the next ends in 59 min")
    assert await page.locator("li.grant").count() == 6
    line = screen.line("een-1")
    assert (await line.locator(".left").inner_text()).startswith("59 min")
    assert (await line.locator(".next > :last-child").inner_text()).startswith("in 5")
    assert (await line.locator(".by > :last-child").inner_text()).startswith("in 13 d")
    assert await screen.line("cameramanager-1").locator(".by > :last-child").inner_text() == "no limit"
    left = await line.locator(".left").inner_text()
    await until(lambda: changed(line.locator(".left"), left), 5)
    details = await screen.open_details("acme-1")
    await details.get_by_text("Last token requests").wait_for()
    assert await details.locator("tbody tr").count() == 1
    assert "a new token came" in await details.locator("tbody tr").inner_text()
    await screenshot(page, "all-is-well")
    screen.sound()


async def test_signing_in_and_out(broker: RunningBroker, screens: Screens, screenshot: Any) -> None:
    """A wrong key is said in words; the right one lasts over a reload; after signing out nothing is left to see."""
    screen = await screens(broker, viewport={"width": 900, "height": 620})
    page = screen.page
    await screen.sign_in("wrong")
    await page.get_by_text("token-broker does not know this key.").wait_for()
    await screenshot(page, "signing-in")
    assert "401" in " ".join(screen.console)  # the browser's own note of that answer
    screen.console.clear()
    await page.get_by_label("Key", exact=True).fill(broker.admin_key)
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="All 6 grants have a valid token.").wait_for()
    await page.reload()
    await screen.line("acme-1").wait_for()
    stored = await page.evaluate("JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}])")
    assert stored == '["",{},{}]', "no script can read the cookie, and nothing is kept elsewhere"
    assert broker.admin_key not in await page.content()
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_label("Key", exact=True).wait_for()
    assert "acme-1" not in await page.content()
    await page.reload()
    await page.get_by_label("Key", exact=True).wait_for()
    screen.sound()


async def test_a_session_that_ends(broker: RunningBroker, screens: Screens) -> None:
    """When the cookie opens nothing any more, the page says so and asks for the key again."""
    screen = await screens(broker)
    await screen.sign_in()
    await screen.line("acme-1").wait_for()
    await screen.context.clear_cookies()
    await screen.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # looked at again: it asks
    await screen.page.get_by_text("no key").or_(screen.page.get_by_text("sign in again")).first.wait_for()
    assert await screen.page.locator("li.grant").count() == 0


async def test_filters(broker: RunningBroker, screens: Screens, sandbox: Sandbox, redis: Redis) -> None:
    """By state, by provider and by a part of the id, kept in the address, so that a link shows the same."""
    await kill(broker, sandbox, redis, "acme-2")
    screen = await screens(broker)
    await screen.sign_in()
    page = screen.page
    await screen.line("een-1").wait_for()

    async def shown() -> list[str]:
        return sorted(await page.locator("li.grant .id").all_inner_texts())

    async def shows(*wanted: str) -> None:
        async def right() -> bool:
            return await shown() == sorted(wanted)

        await until(right)

    await page.get_by_label("parked").check()
    await shows("acme-2")
    await page.get_by_label("all").check()
    await page.locator("#provider").select_option("een")
    await shows("een-1", "een-2")
    await page.get_by_label("Id", exact=True).fill("N-2")
    await shows("een-2")
    await page.reload()
    await shows("een-2")
    await page.get_by_label("Id", exact=True).fill("nobody")
    await page.get_by_text("No grant matches.").wait_for()
    screen.sound()


async def test_no_answer(start_broker: StartBroker, sandbox: Sandbox, screens: Screens, screenshot: Any) -> None:
    """A broker that is gone is the top line, what was seen stays with its time."""
    async with start_broker() as broker:
        await log_in(broker, "acme-1", "acme")
        screen = await screens(broker)
        await screen.sign_in()
        await screen.line("acme-1").wait_for()
        await screen.page.evaluate("sessionStorage.clear()")
    await screen.page.get_by_role("heading", name="token-broker does not answer.").wait_for()
    assert "The data below is from" in await screen.page.locator("#aside").inner_text()
    assert await screen.line("acme-1").count() == 1
    await screenshot(screen.page, "no-answer")


async def test_no_redis(start_broker: StartBroker, sandbox: Sandbox, own_redis: RedisServer, screens: Screens) -> None:
    """Without Redis the page says that the grants cannot be shown, not that there are none."""
    async with start_broker(redis={"url": own_redis.url}) as broker:
        await log_in(broker, "acme-1", "acme")
        own_redis.kill()
        screen = await screens(broker)
        await screen.sign_in()
        page = screen.page
        await page.get_by_text("The grants cannot be read: Redis").wait_for()
        assert await page.get_by_text("No grants yet").count() == 0
        top = await page.locator("#words").inner_text()
        assert "Redis cannot be reached" in top
        assert top.count("Redis") == 2, "what is wrong, and what to do"


async def test_markup_stays_text(broker: RunningBroker, screens: Screens, sandbox: Sandbox, redis: Redis) -> None:
    """What a provider says, a grant's label and what is typed are shown as they are, and run nothing."""
    body = {"error": "broken", "error_description": MARKUP}
    sandbox.rotating.faults.order("status", 1, status=400, body=body)
    await refused_often(redis, "acme-1")
    await make_due(redis, "acme", "acme-1")
    await until(lambda: parked(broker, "acme-1"))
    assert (await broker.ask("PUT", "/v1/grants/acme-2", json={"owner": MARKUP, "label": MARKUP}))[0] == 200
    await redis.hset("broker:{0}:grant:acme-2", "last_outcome", MARKUP)
    await redis.hset("broker:{0}:grant:acme-2", "last_at", 1)
    await redis.hset("broker:{0}:grant:acme-1", "reason", MARKUP)
    screen = await screens(broker)
    await screen.sign_in(hash_="#search=" + MARKUP.replace(" ", "%20"))
    page = screen.page
    await page.get_by_text("No grant matches.").wait_for()
    assert await page.get_by_label("Id", exact=True).input_value() == MARKUP
    await page.get_by_label("Id", exact=True).fill("")
    for grant in ("acme-1", "acme-2"):
        details = await screen.open_details(grant)
        await details.get_by_text("onerror").first.wait_for()
    await screen.line("acme-2").locator(".last").get_by_text("onerror").wait_for()
    assert await page.locator("img:not(header img)").count() == 0
    assert "owned" not in await page.title()
    screen.sound()


async def test_an_admin_of_some(start_broker: StartBroker, sandbox: Sandbox, screens: Screens, tmp_path: Path) -> None:
    """They see their grants alone, no counts of others', and no button that would be refused for all of them."""
    callers = {"few": {"key_sha256": key_digest(FEW), "admin": ["mine-*"]}}
    data = tmp_path / "some"
    data.mkdir()
    (data / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
    async with start_broker(callers=callers, data_dir=data) as broker:
        for grant in ("mine-1", "other-1", "other-2"):
            await log_in(broker, grant, "acme")
        screen = await screens(broker)
        await screen.sign_in(FEW)
        page = screen.page
        await page.get_by_role("heading", name="All 3 grants have a valid token.").wait_for()
        assert await page.locator("li.grant .id").all_inner_texts() == ["mine-1"]
        assert await page.locator(".states span").all_inner_texts() == ["all", "parked", "refreshing", "scheduled"]
        assert "other-" not in await page.content()
        details = await screen.open_details("mine-1")
        await details.get_by_text("Your key does not allow: Refresh now (right refresh).").wait_for()
        assert await details.get_by_role("button").all_inner_texts() == ["Log in", "Log out"]
        screen.sound()


async def test_polling_stops_when_hidden(broker: RunningBroker, screens: Screens) -> None:
    """Without the stream it asks every five seconds while it is looked at, not at all while hidden, then at once."""
    screen = await screens(broker)
    await screen.page.route("**/v1/events", lambda route: route.abort())
    await screen.page.clock.install()
    await screen.sign_in()
    await screen.line("acme-1").wait_for()
    asked: list[float] = []
    screen.page.on(
        "request", lambda request: asked.append(time.monotonic()) if "/v1/providers" in request.url else None
    )
    hide = """hidden => { Object.defineProperty(document, 'visibilityState', {value: hidden ? 'hidden' : 'visible',
        configurable: true}); document.dispatchEvent(new Event('visibilitychange')); }"""
    for wanted in (1, 2):
        await screen.page.clock.run_for(5_100)
        await until(lambda: len(asked) == wanted)
        await screen.page.wait_for_load_state("networkidle")
    await screen.page.evaluate(hide, True)
    await screen.page.clock.run_for(60_000)
    assert len(asked) == 2
    await screen.page.evaluate(hide, False)
    await until(lambda: len(asked) == 3)


async def test_below_a_path(start_broker: StartBroker, screens: Screens) -> None:
    """Below the path of `public_url` the page loads, signs in, shows its grants and logs one in."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/tools/broker"
    async with start_broker(http={"listen": [f"127.0.0.1:{port}"], "public_url": url}) as broker:
        await log_in(broker, "acme-1", "acme")
        screen = await screens(broker)
        await screen.page.goto(url)
        await screen.page.get_by_label("Key", exact=True).fill(broker.admin_key)
        await screen.page.get_by_role("button", name="Sign in").click()
        await screen.page.get_by_role("heading", name="The grant has a valid token.").wait_for()
        assert screen.page.url == f"{url}/"
        await screen.open_details("acme-1")
        await screen.page.reload()
        await screen.line("acme-1").wait_for()
        screen.sound()
