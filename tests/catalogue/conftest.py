"""A broker and the emulator of one kind, joined by the names of the provider's hosts and an authority of the tests."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.asyncio import Redis
from yarl import URL

from broker.providers.dialects import Dialect
from broker.settings import Provider as ProviderSettings
from tests.catalogue.demands import Demands, all_demands
from tests.catalogue.emulator import Emulator
from tests.catalogue.exact_client import CALLBACK, CLIENT_ID, CLIENT_SECRET, emulator_of
from tests.catalogue.server import Provider, hosts, serving, tls_of
from tests.conftest import RunningBroker, StartBroker
from tests.steps import make_due
from tests.waiting import until

PUBLIC_URL = CALLBACK.removesuffix("/callback")


@dataclass(slots=True)
class Meeting:
    """A broker with one provider, "theirs", and the provider."""

    broker: RunningBroker
    provider: Provider
    redis: Redis
    trust: ssl.SSLContext

    @property
    def emulator(self) -> Emulator:
        """The provider without its HTTP."""
        return self.provider.emulator

    async def log_in(self, *grants: str) -> None:
        """Log in as a person would, in a browser: the link, the provider's page, the way back."""
        for grant in grants:
            status, started, _ = await self.broker.ask("POST", f"/v1/grants/{grant}/login", json={"provider": "theirs"})
            assert status == 200, started
            page = await self._browse(started["login_url"])
            assert "Logged in" in page, (page, self.emulator.refusals)

    async def _browse(self, url: str) -> str:
        """Return the text of the last page."""
        status, _, headers = await self.broker.ask("GET", url.removeprefix(PUBLIC_URL))
        assert status == 302
        cookie = headers["Set-Cookie"].partition(";")[0]
        there = URL(headers["Location"], encoded=True)
        async with self.broker.session.get(there, ssl=self.trust, allow_redirects=False) as answer:
            assert answer.status == 302, await answer.text()
            back = answer.headers["Location"]
        assert back.startswith(PUBLIC_URL)
        here = URL(self.broker.url + back.removeprefix(PUBLIC_URL), encoded=True)
        async with self.broker.session.get(here, headers={"Cookie": cookie}) as answer:
            page = await answer.text()
        if 'name="confirm"' not in page:
            return page
        # Without a state in the redirect the person confirms whose login it was.
        state = re.search(r'name="state" value="([^"]+)"', page)
        assert state is not None, page
        form = {"state": state[1], "confirm": "yes"}
        headers = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}
        async with self.broker.session.post(here.with_query(None), data=form, headers=headers) as answer:
            return await answer.text()

    async def fall_due(self, *grants: str, beside: str | None = None) -> None:
        """Have these grants refreshed now, all at once; their access tokens are old enough for another one.

        A grant *beside* them that is refreshed too spares them a retry by a person, after which refusals count anew.
        """
        self.emulator.age()
        await make_due(self.redis, "theirs", *grants)
        await self._wake(beside or grants[0])

    async def _wake(self, grant: str) -> None:
        """Have the lane look now who is due, which it does every two seconds."""
        status, answer, _ = await self.broker.ask("POST", f"/v1/grants/{grant}/retry")
        assert status == 202, answer

    async def generations(self, *grants: str) -> list[int]:
        """Return the generations of these grants' tokens."""
        return [(await self.state(grant))["generation"] for grant in grants]

    async def refreshed(self, before: list[int], *grants: str) -> None:
        """Wait until each grant has another token than *before*."""

        async def newer() -> bool:
            now = await self.generations(*grants)
            return all(one > other for one, other in zip(now, before, strict=True))

        await until(newer)

    async def refused(self, *grants: str, beside: str | None = None) -> None:
        """Have these grants refreshed now, and wait until the provider has refused each."""
        asked = len(self.emulator.refusals)
        await self.fall_due(*grants, beside=beside)
        await until(lambda: len(self.emulator.refusals) >= asked + len(grants))

        async def recorded() -> bool:
            return "leased" not in [(await self.state(grant))["state"] for grant in grants]

        await until(recorded)

    async def state(self, grant: str) -> dict[str, Any]:
        """Return a grant as the broker describes it."""
        return await self.broker.get(f"/v1/grants/{grant}")

    async def parked(self, *grants: str) -> dict[str, str]:
        """Return which of these grants are parked, and why."""
        states = [await self.state(grant) for grant in grants]
        return {state["grant_id"]: state["reason"] for state in states if state["state"] == "parked"}

    async def resume(self) -> None:
        """Have the provider asked again at once, as a person does when a busy minute is over."""
        status, answer, _ = await self.broker.ask("POST", "/v1/providers/theirs/retry")
        assert status == 202, answer

    async def end_pause(self, *grants: str) -> None:
        """Let the provider's pause end now: the next probe is sent."""
        await self.redis.hset("broker:{0}:provider:theirs", "not_before", "1")
        await self._wake(grants[0])

    async def suspended(self) -> str | None:
        """Return why the provider is suspended."""
        (provider,) = (await self.broker.get("/v1/providers"))["providers"]
        reason: str | None = provider["suspended"]
        return reason


Meet = Callable[[Demands], contextlib.AbstractAsyncContextManager[Meeting]]


def settings_of(demands: Demands, folder: Path | None = None) -> dict[str, Any]:
    """Return what a person sets: kind, client id and secret, and what the description says must be given.

    A scope is set only where the kind brings none. *folder* holds the files of secret headers.
    """
    given = demands.given
    settings: dict[str, Any] = {"kind": demands.kind, "client_id": CLIENT_ID}
    if "Authorization" not in given.headers:
        settings["client_secret"] = CLIENT_SECRET
    if given.parameters:
        settings["parameters"] = given.parameters
    if given.headers and folder is not None:
        settings["headers"] = {}
        for name, value in given.headers.items():
            (folder / name).write_text(value + "\n")
            settings["headers"][name] = {"file": str(folder / name)}
    if given.scope is not None and dialect_of(settings).scope is None:
        settings["scope"] = given.scope
    return settings


def dialect_of(settings: dict[str, Any]) -> Dialect:
    """Return the provider "theirs" as the broker understands these settings."""
    return Dialect.from_settings("theirs", ProviderSettings(**settings))


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """The authority that certifies every provider's hosts."""
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture(scope="session")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """The servers' side."""
    return tls_of(authority, hosts(*all_demands().values()))


@pytest.fixture
def trust(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The clients' side; the broker reads it where `SSL_CERT_FILE` points to."""
    authority.cert_pem.write_to_path(str(tmp_path / "bundle.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "bundle.pem"))
    return ssl.create_default_context(cafile=str(tmp_path / "bundle.pem"))


@pytest.fixture
def meet(start_broker: StartBroker, redis: Redis, tls: ssl.SSLContext, trust: ssl.SSLContext, tmp_path: Path) -> Meet:
    """Return how a broker meets a kind's emulator: with nothing set but what a person must set."""

    @contextlib.asynccontextmanager
    async def meeting(demands: Demands) -> AsyncIterator[Meeting]:
        providers = {"theirs": settings_of(demands, tmp_path)}
        async with (
            serving(emulator_of(demands), tls) as provider,
            start_broker(providers=providers, http={"public_url": PUBLIC_URL}) as broker,
        ):
            yield Meeting(broker, provider, redis, trust)
            broker.secrets |= provider.emulator.secrets() | {*demands.given.headers.values()}

    return meeting
