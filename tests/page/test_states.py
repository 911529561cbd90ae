"""Every state of the page, at every width: nothing overlaps or scrolls sideways, and axe-core finds nothing wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from broker.sandbox import Sandbox
from tests.conftest import RunningBroker, StartBroker
from tests.page.steps import parked
from tests.redis_server import RedisServer
from tests.steps import log_in, make_due, refused_often
from tests.waiting import until

Screens = Callable[..., Any]
Sound = Callable[..., Any]
LONG = "x" * 40 + "W" * 40 + "-" + "0" * 47
WORDS = "Unterhaltungselektronikabteilungsleiterstellvertreterin" * 4


async def test_no_grants(start_broker: StartBroker, screens: Screens, sound: Sound) -> None:
    """A new broker: no grants, and the form that begins the first one."""
    async with start_broker() as broker:
        screen = await screens(broker)
        await screen.sign_in()
        await screen.page.get_by_text("No grants yet. Log in the first one").wait_for()
        await sound(screen.page, "empty")
        await screen.page.get_by_role("button", name="Log in a new grant").click()
        await sound(screen.page, "new-login", schemes=("light",))


async def test_all_well(broker: RunningBroker, screens: Screens, sound: Sound) -> None:
    """The sign-in, also after a wrong key; then six grants that are alive, one with its details open."""
    screen = await screens(broker)
    await screen.page.goto(broker.url)
    await screen.page.get_by_label("Key", exact=True).wait_for()
    await sound(screen.page, "sign-in")
    await screen.sign_in("wrong")
    await screen.page.get_by_text("token-broker does not know this key.").wait_for()
    await sound(screen.page, "sign-in-refused", schemes=("light",))
    await screen.sign_in()
    await screen.line("een-1").wait_for()
    await sound(screen.page, "all-well", schemes=("light",))
    details = await screen.open_details("acme-1")
    await details.get_by_text("No token request yet.").wait_for()
    await sound(screen.page, "details")


async def test_the_longest_words(
    broker: RunningBroker, screens: Screens, sound: Sound, sandbox: Sandbox, redis: Redis
) -> None:
    """Dead, failing, parked and expired grants with the longest ids and errors, and a suspended provider."""
    await log_in(broker, LONG, "acme")
    body = {"error": "invalid_grant", "error_description": WORDS}
    sandbox.rotating.faults.order("status", 1, status=400, body=body)
    await make_due(redis, "acme", LONG)
    await until(lambda: parked(broker, LONG))
    sandbox.rotating.faults.order("status", 1, status=400, body={"error": "broken", "error_description": WORDS})
    await refused_often(redis, "acme-1")
    await make_due(redis, "acme", "acme-1")
    await until(lambda: parked(broker, "acme-1"))
    await redis.hset("broker:{0}:grant:een-1", mapping={"expires_at": int(time.time() * 1000) - 4_000_000})
    await redis.hset("broker:{0}:grant:een-2", "failures", 12)
    past = int(time.time() * 1000) - 1000
    await redis.hset("broker:{0}:provider:een", mapping={"ailing": 3, "not_before": past})
    await broker.ask("PUT", "/v1/grants/een-2", json={"owner": WORDS, "label": WORDS[:60]})
    screen = await screens(broker)
    await screen.sign_in()
    page = screen.page
    await screen.line("een-1").wait_for()
    details = await screen.open_details(LONG)
    await details.get_by_text("Last token requests").wait_for()
    await sound(page, "trouble")
    card = page.locator("#providers .card").filter(has_text="een")
    await card.get_by_text("3 failures in a row").wait_for()
    assert "next try" not in await card.inner_text(), "each of its grants says when it is due"
    await details.get_by_role("button", name="Log out").click()
    await sound(page, "log-out-asks", schemes=("light",))
    await page.keyboard.press("Escape")
    sandbox.rotating.faults.order("invalid_client", None)
    await make_due(redis, "acme", "acme-2")
    await page.locator("#providers .card").filter(has_text="acme").get_by_text("suspended").wait_for()
    await sound(page, "suspended", schemes=("light",))


async def test_without_redis_and_without_broker(
    start_broker: StartBroker, sandbox: Sandbox, own_redis: RedisServer, screens: Screens, sound: Sound
) -> None:
    """Redis goes while the page is open, then the broker does."""
    async with start_broker(redis={"url": own_redis.url}) as broker:
        await log_in(broker, "acme-1", "acme")
        screen = await screens(broker)
        await screen.sign_in()
        await screen.line("acme-1").wait_for()
        own_redis.kill()
        await screen.page.get_by_text("The grants cannot be read").wait_for()
        await sound(screen.page, "no-redis", schemes=("light",))
    await screen.page.get_by_role("heading", name="token-broker does not answer.").wait_for()
    await sound(screen.page, "no-answer", schemes=("light",))


async def test_pages_of_a_login(broker: RunningBroker, screens: Screens, sound: Sound) -> None:
    """The pages that a person who logs in sees: a link that does not work, another account, and the good end."""
    screen = await screens(broker)
    page = screen.page
    await page.goto(broker.url + "/login/no-such-ticket")
    await sound(page, "login-no-link")
    assert "grant" not in (await page.inner_text("body")).lower()
    _, started, _ = await broker.ask("POST", "/v1/grants/acme-1/login", json={"provider": "acme"})
    await page.goto(started["login_url"])
    await page.get_by_label("User name").fill("john")
    await page.get_by_label("Password").fill("demo")
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("button", name="Allow").click()
    await page.get_by_role("heading", name="This is another account").wait_for()
    await sound(page, "login-other-account")
    assert "grant" not in (await page.inner_text("body")).lower()
    await page.get_by_role("button", name="Replace the account").click()
    await page.get_by_role("heading", name="Logged in").wait_for()
    await sound(page, "login-done")
    text = await page.inner_text("body")
    assert "token-broker\n" in text, "the brand"
    assert "Your account john@example.com (john) at acme" in text
    assert "grant" not in text.lower()
