"""Nothing that a login's query or provider says reaches a page, a JSON response or the log with a control character."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from broker.sandbox import Sandbox
from tests.broker.logins import browser, opened, start
from tests.conftest import RunningBroker, StartBroker
from tests.scripted_server import http, scripted_server

NASTY = "a\x1b[31m\x07\x9b2J\x7f\u202e\u2028\r\n\x00\ud83d\ude00 b".encode("utf-16", "surrogatepass").decode("utf-16")
"""Escapes of terminals in 7 and 8 bits, ends of lines, a change of direction, NUL; and an emoji, which is fine."""
ASCII = "".join(char for char in NASTY if char.isascii())
"""An error code of RFC 6749 is ASCII."""
TOKENS = {"access_token": "AT-of-a-login", "refresh_token": "RT-of-a-login", "expires_in": 3600}


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(inner)


def assert_clean(broker: RunningBroker, *values: Any) -> None:
    """Check that no text, and nothing in the log, has a character that is not printed."""
    found = [text for value in (*values, broker.events()) for text in texts(value) if not text.isprintable()]
    assert found == []


async def seen(session: Any, url: str, **options: Any) -> str:
    """Return title and text of a page."""
    async with session.request(options.pop("method", "GET"), url, **options) as answer:
        page = await answer.text()
    (title,) = re.findall(r"<h1>(.*?)</h1>", page, re.DOTALL)
    (text,) = re.findall(r"<p>(.*?)</p>", page, re.DOTALL)
    return f"{html.unescape(title)} {html.unescape(text)}"


QUERIES = [
    "error={nasty}&state={state}&iss={iss}",
    "error=access_denied&error_description={nasty}&state={state}&iss={iss}",
    "code={nasty}&state={state}&iss={nasty}",
    "code={nasty}&state={nasty}",
    "{nasty}=1&{nasty}=2&state={state}",
    "code=x&iss=x&state={state}&{nasty}={nasty}",
]


async def test_texts_of_the_query(broker: RunningBroker, sandbox: Sandbox) -> None:
    """Each place of a redirect, in the browser and pasted; and of a login link."""
    nasty, iss = quote(NASTY, safe=""), quote(sandbox.rotating.issuer, safe="")
    queries = [query.replace("{iss}", iss) for query in QUERIES]
    filled = [query.replace("{nasty}", quote(text, safe="")) for query in queries for text in (NASTY, ASCII)]
    shown: list[Any] = []
    async with browser() as mine:
        for number, query in enumerate(filled):
            started = await start(broker, f"g{number}", "acme")
            state = (await opened(mine, started["login_url"])).partition("state=")[2].partition("&")[0]
            url = f"{broker.url}/callback?{query.format(state=state)}"
            shown += [await seen(mine, url), await seen(mine, url)]  # a reload says what happened
            shown.append(await broker.get(f"/v1/grants/g{number}/login/{started['ticket']}"))
            started = await start(broker, f"g{number}", "acme")
            pasted = f"{broker.url}/callback?{query.format(state=started['state'])}"
            for body in ({"redirected_to": pasted}, {"redirected_to": pasted, "state": NASTY}):
                status, answer, _ = await broker.ask("POST", f"/v1/grants/g{number}/login/complete", json=body)
                assert 400 <= status < 500, answer
                shown.append(answer)
        for target in (f"login/{nasty}", f"login/x?owner={nasty}", f"callback/{nasty}?code=x&state=x"):
            shown.append(await seen(mine, f"{broker.url}/{target}"))
        form = {"data": {"state": NASTY, "confirm": NASTY}, "headers": {"Origin": broker.url}, "method": "POST"}
        shown.append(await seen(mine, f"{broker.url}/callback", **form))
        for body in ({"provider": NASTY}, {"provider": "acme", "label": NASTY}, {"provider": "acme", "owner": NASTY}):
            shown.append((await broker.ask("POST", "/v1/grants/g1/login", json=body))[1])
    assert len(broker.events("login.failed")) > len(QUERIES)
    assert_clean(broker, *shown)


def id_token(**claims: Any) -> dict[str, Any]:
    """Return a token response whose id_token has these claims."""
    given = {"iss": "https://as.test", "sub": "jane", "aud": "id", "exp": 4_000_000_000} | claims
    payload = base64.urlsafe_b64encode(json.dumps(given).encode()).rstrip(b"=").decode()
    return TOKENS | {"id_token": f"e30.{payload}.c2ln"}


def responses(text: str) -> list[bytes]:
    """Return responses of a token endpoint with *text* in each place that a person may be shown."""
    return [
        http({"error": text, "error_description": text}, 400),
        http(text, 400, kind="text/plain"),
        http({"error": "temporarily_unavailable", "error_description": text}, 503),
        http({"access_token": "AT-of-a-login", "scope": text}),
        http(TOKENS | {"scope": text}),
        http(TOKENS | {"token_type": text}),
        http(id_token(iss=text)),
        http(id_token(email=text, name=text, preferred_username=text)),
        http(id_token(sub=text)),
        http(id_token(tid=text, iss=text, aud=text)),
    ]


RESPONSES = responses(NASTY) + responses(ASCII)


@pytest.mark.parametrize("optional", [False, True])
async def test_texts_of_the_provider(start_broker: StartBroker, *, optional: bool) -> None:
    """Each text of a token response and an id_token, where the login fails, succeeds, or waits for a person."""
    shown: list[Any] = []
    async with scripted_server(*RESPONSES) as server:
        acme = {
            "kind": "oauth2",
            "client_id": "id",
            "issuer": "https://as.test",
            "authorization_endpoint": f"{server.url}/a",
            "token_endpoint": f"{server.url}/t",
            "state": "optional" if optional else "required",
        }
        async with start_broker(providers={"acme": acme}) as broker:
            for number, _ in enumerate(RESPONSES):
                async with browser() as mine:
                    started = await start(broker, f"g{number}", "acme")
                    state = (await opened(mine, started["login_url"])).partition("state=")[2].partition("&")[0]
                    given = "" if optional else f"&state={state}"
                    shown.append(await seen(mine, f"{broker.url}/callback?code=c{given}"))
                    form = {"data": {"state": state}, "headers": {"Origin": broker.url}, "method": "POST"}
                    shown.append(await seen(mine, f"{broker.url}/callback", **form))
                    shown.append(await broker.get(f"/v1/grants/g{number}/login/{started['ticket']}"))
                    shown.append((await broker.ask("GET", f"/v1/grants/g{number}"))[1])
            assert len(server.requests) == len(RESPONSES)
            assert_clean(broker, *shown)


async def test_texts_of_an_account_endpoint(start_broker: StartBroker) -> None:
    """Whatever the account endpoint says of a person, or of why it does not."""
    accounts = [
        http({"sub": "jane", "email": NASTY, "name": NASTY}),
        http({"sub": NASTY}),
        http(NASTY, kind="text/html"),
        http({NASTY: NASTY}, 500),
        http({"a": NASTY}, 302, f"Location: /{quote(NASTY)}"),
    ]
    shown: list[Any] = []
    async with scripted_server(*(each for account in accounts for each in (http(TOKENS), account))) as server:
        acme = {
            "kind": "oauth2",
            "client_id": "id",
            "authorization_endpoint": f"{server.url}/a",
            "token_endpoint": f"{server.url}/t",
            "account_endpoint": f"{server.url}/me",
            "state": "optional",
        }
        async with start_broker(providers={"acme": acme}) as broker:
            for number, _ in enumerate(accounts):
                async with browser() as mine:
                    started = await start(broker, f"g{number}", "acme")
                    await opened(mine, started["login_url"])
                    shown.append(await seen(mine, f"{broker.url}/callback?code=c"))
                    assert "Is this you?" in shown[-1]
                    shown.append(await broker.get(f"/v1/grants/g{number}/login/{started['ticket']}"))
            assert len(server.requests) == 2 * len(accounts)
            assert_clean(broker, *shown)
