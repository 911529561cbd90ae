"""Two providers and one broker: no code of the one comes to the other (RFC 9207 §1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

from broker.sandbox import walk_login, walk_to_redirect
from tests.broker.logins import browser, come_back, exchanges, opened, start
from tests.conftest import provider_settings
from tests.steps import assert_sound

if TYPE_CHECKING:
    from broker.sandbox import Sandbox
    from tests.conftest import StartBroker


def by_path(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    """Return the sandbox's providers, each with a path of its own."""
    return {name: given | {"redirect_path": "provider"} for name, given in provider_settings(sandbox).items()}


def state_in(url: str) -> str:
    """Return the state of an authorization request."""
    (state,) = parse_qs(urlsplit(url).query)["state"]
    return state


async def test_an_issuer_that_nobody_expects(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """A provider without a known issuer takes no `iss`, another's or not, where there are others; alone it does."""
    een = provider_settings(sandbox)["een"]
    async with start_broker() as broker, browser() as mine:
        for iss, words in ((sandbox.rotating.issuer, "that of provider 'acme'"), ("https://x.test", "set issuer")):
            where = await opened(mine, (await start(broker, "g1", "een"))["login_url"])
            redirected = await walk_to_redirect(where, broker.settings.redirect_uri)
            status, text = await come_back(mine, f"{redirected}&iss={quote(iss, safe='')}")
            assert status == 400
            assert words in text.replace("&#x27;", "'")
        assert await exchanges(sandbox, "een") == 0
    async with start_broker(providers={"een": een}) as broker, browser() as mine:
        where = await opened(mine, (await start(broker, "g1", "een"))["login_url"])
        redirected = await walk_to_redirect(where, broker.settings.redirect_uri)
        assert (await come_back(mine, f"{redirected}&iss=https%3A%2F%2Fx.test"))[0] == 200


async def test_a_provider_that_hands_its_login_to_another(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """A provider's authorization endpoint that sends the browser to another one's gets no code of that one.

    `acme` names no issuer in its redirects here: its path alone tells the two apart.
    """
    sandbox.rotating.options.send_iss = False
    async with start_broker(providers=by_path(sandbox)) as broker, browser() as mine:
        honest = (await start(broker, "g2", "acme"))["authorization_url"]
        evil = await opened(mine, (await start(broker, "g1", "een"))["login_url"])
        redirected = await walk_to_redirect(honest.replace(state_in(honest), state_in(evil)), broker.url)
        assert redirected.startswith(f"{broker.settings.redirect_uri}/acme?")
        status, text = await come_back(mine, redirected)
        assert (status, "redirects elsewhere" in text) == (400, True)
        # Neither the shared path nor the one that the state belongs to takes what came for another.
        for path in ("", "/cameramanager", "/unknown"):
            moved = redirected.replace("/callback/acme", f"/callback{path}")
            assert (await come_back(mine, moved))[0] == 400
        started = await start(broker, "g1", "een")
        pasted = redirected.replace(state_in(evil), started["state"])
        body = {"redirected_to": pasted, "state": started["state"]}
        status, answer, _ = await broker.ask("POST", "/v1/grants/g1/login/complete", json=body)
        assert (status, answer["error"]) == (400, "login_refused")
        assert [await exchanges(sandbox, name) for name in ("acme", "een")] == [0, 0]
        # The login that was abused is still open.
        assert (await come_back(mine, await walk_to_redirect(evil, broker.url)))[0] == 200
        await assert_sound(broker, sandbox, ("g1", "een"))


async def test_a_path_for_each_provider(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """Every kind logs in by its own path, by browser and by paste; CameraManager's page posts there too."""
    async with start_broker(providers=by_path(sandbox)) as broker:
        for number, provider in enumerate(("cameramanager", "een", "acme")):
            started = await start(broker, f"g{number}", provider)
            sent = f"{broker.settings.redirect_uri}/{provider}"
            assert parse_qs(urlsplit(started["authorization_url"]).query)["redirect_uri"] == [sent]
            assert broker.settings.redirect_uri_of(provider) == sent
            assert "Logged in" in await walk_login(started["login_url"])
            started = await start(broker, f"p{number}", provider)
            redirected = await walk_to_redirect(started["authorization_url"], sent)
            body = {"redirected_to": redirected, "state": started["state"]}
            assert (await broker.ask("POST", f"/v1/grants/p{number}/login/complete", json=body))[0] == 200
            await assert_sound(broker, sandbox, (f"g{number}", provider), (f"p{number}", provider))


async def test_one_path_is_not_the_others(start_broker: StartBroker, sandbox: Sandbox) -> None:
    """A provider without the setting keeps the shared path, beside one that has its own."""
    providers = provider_settings(sandbox)
    providers["cameramanager"]["redirect_path"] = "provider"
    async with start_broker(providers=providers) as broker, browser() as mine:
        where = await opened(mine, (await start(broker, "g1", "een"))["login_url"])
        redirected = await walk_to_redirect(where, broker.settings.redirect_uri)
        assert (await come_back(mine, redirected.replace("/callback?", "/callback/een?")))[0] == 400
        waiting = await opened(mine, (await start(broker, "g2", "cameramanager"))["login_url"])
        stateless = await walk_to_redirect(waiting, broker.settings.redirect_uri)
        assert (await come_back(mine, stateless.replace("/callback/cameramanager?", "/callback?")))[0] == 400
        assert [await exchanges(sandbox, name) for name in ("een", "cameramanager")] == [0, 0]
        assert (await come_back(mine, redirected))[0] == 200
        assert (await come_back(mine, stateless))[0] == 200
