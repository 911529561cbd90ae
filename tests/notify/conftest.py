"""A receiver of notices: a real server on loopback that can be unreachable, slow or unwilling."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.notify.services import Services
from tests.ports import free_port

SECRET = b"0123456789abcdef0123456789abcdef"


@dataclass(slots=True)
class Receiver:
    """Accept notices by POST as Standard Webhooks defines it, and know each by its id."""

    secret_file: Path
    port: int = field(default_factory=free_port)
    status: int = 204
    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?team=cameras"

    @property
    def settings(self) -> dict[str, Any]:
        """Return `[notify]` of a broker that notifies this receiver."""
        return {"webhook": self.url, "secret_file": self.secret_file, "timeout": "2s"}

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_post("/hook", self._post)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """Stop listening."""
        if self.runner is not None:
            await self.runner.cleanup()
        self.runner = None

    async def _post(self, request: web.Request) -> web.Response:
        self.posts.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=self.status, headers={"Location": "/elsewhere"} if self.status == 307 else {})

    @property
    def notices(self) -> list[dict[str, Any]]:
        """Return what arrived, each notice once."""
        return list({notice["id"]: notice for notice in map(json.loads, (body for _, body in self.posts))}.values())

    @property
    def events(self) -> list[str]:
        return [notice["event"] for notice in self.notices]

    def verify(self) -> None:
        """Assert that every POST was signed, over the very bytes that arrived."""
        for headers, body in self.posts:
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
            assert headers["webhook-signature"] == f"v1,{expected}"
            assert headers["webhook-id"] == json.loads(body)["id"]
            assert headers["content-type"] == "application/json"


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    """Start a receiver."""
    secret_file = tmp_path / "webhook_secret"
    secret_file.write_text(f"whsec_{base64.b64encode(SECRET).decode()}\n")
    made = Receiver(secret_file)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    """Start the services; none may refuse what it gets."""
    made = Services()
    await made.start()
    yield made
    assert made.runner is not None
    await made.runner.cleanup()
    assert not made.refused
