"""TLS: certificates that expired, were swapped or never fitted. Nothing is sent then, and nobody is parked."""

from __future__ import annotations

import datetime as dt
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from broker.report.explanation import explain
from tests.regressions.certificates import server_context, sha1, tls_1_0
from tests.regressions.conftest import Ground, MakeGround
from tests.scripted_server import AuthorizationServer, authorization_server
from tests.waiting import until

NOW = dt.datetime.now(dt.UTC)
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of trusted certificates, as `SSL_CERT_FILE` names it; a renewed one is looked for at once."""
    path = tmp_path / "bundle.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setattr("broker.providers.http.TLS_RENEWAL", 0.2)
    return path


@pytest.fixture
def authority(bundle: Path) -> trustme.CA:
    """Return the authority that the bundle trusts."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(bundle))
    return made


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncIterator[AuthorizationServer]:
    """Yield an authorization server with a good certificate."""
    async with authorization_server(tls=server_context(authority), name="localhost") as server:
        yield server


async def swap(auth_server: AuthorizationServer, context: ssl.SSLContext) -> None:
    """Restart the server on its port with another certificate."""
    await auth_server.stop()
    await auth_server.start(context)


async def recovered(ground: Ground, *grants: str) -> None:
    """Whether each grant came through by itself."""
    for grant in grants:

        async def refreshed() -> bool:
            grant_state = await ground.state_of(grant)
            return bool(grant_state["state"] == "due" and grant_state["failures"] == 0)

        await until(refreshed, 20)


async def test_renewed_trust_bundle(make_ground: MakeGround, secure: AuthorizationServer, bundle: Path) -> None:
    """A renewed bundle is taken up without a restart; until then nothing is sent, and "certificate" is said."""
    async with make_ground("g1", at=secure) as ground:
        second = trustme.CA()
        await swap(secure, server_context(second))
        state = await ground.falls_due()
        assert (state["state"], state["last"]["outcome"], len(secure.requests_of("g1"))) == ("due", "not_sent", 1)
        assert "certificate" in state["last"]["detail"]
        past = await ground.broker.get("/v1/grants/g1/attempts")
        (provider,) = (p for p in (await ground.broker.get("/v1/providers"))["providers"] if p["provider"] == "as")
        assert "certificate" in provider["detail"]
        assert "certificate" in explain("g1", state, past, provider, time.time()).why
        second.cert_pem.write_to_path(str(bundle))
        await recovered(ground, "g1")
        assert len(secure.requests_of("g1")) == 2


def expired(authority: trustme.CA, _folder: Path) -> ssl.SSLContext:
    """Return a certificate that expired an hour ago."""
    return server_context(authority, not_before=NOW - 24 * HOUR, not_after=NOW - HOUR)


def misnamed(authority: trustme.CA, _folder: Path) -> ssl.SSLContext:
    """Return a certificate for another host."""
    return server_context(authority, "elsewhere.test")


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        pytest.param(expired, "expired", id="expired"),
        pytest.param(misnamed, "localhost", id="wrong-name"),
        pytest.param(sha1, "too weak", id="sha-1"),
        pytest.param(None, "PROTOCOL_VERSION", id="tls-1.0"),
    ],
)
async def test_certificate_not_to_be_accepted(
    make_ground: MakeGround,
    secure: AuthorizationServer,
    authority: trustme.CA,
    tmp_path: Path,
    spoilt: Callable[[trustme.CA, Path], ssl.SSLContext] | None,
    words: str,
    ended: list[subprocess.Popen[Any]],
) -> None:
    """A handshake that fails sends nothing and parks nobody; the lane half-closes, and a good certificate heals it."""
    async with make_ground("g1", "g2", at=secure) as ground:
        good = secure.tls
        assert good is not None
        if spoilt is None:
            await secure.stop()
            ended.append(await tls_1_0(authority, tmp_path, secure.port))
        else:
            await swap(secure, spoilt(authority, tmp_path))
        await ground.due("g1", "g2")

        async def half_closed() -> dict[str, Any] | None:
            state = await ground.provider()
            return state if state["failures"] >= 3 and state["not_before"] else None

        state = await until(half_closed, 20)
        assert words in state["detail"]
        described = [await ground.state_of(grant) for grant in ("g1", "g2")]
        assert {one["last"]["outcome"] for one in described} == {"not_sent"}
        assert all(words in one["last"]["detail"] for one in described)
        assert state["grants"]["parked"] == 0
        assert [len(secure.requests_of(grant)) for grant in ("g1", "g2")] == [1, 1]
        assert (await ground.broker.token("g1"))["access_token"] == secure.access["g1"]
        for process in ended:
            process.kill()
            process.wait()
        await swap(secure, good)
        await recovered(ground, "g1", "g2")
