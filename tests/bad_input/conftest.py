"""What every refusal must be: JSON with two texts, nothing secret, and a broker that serves on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from broker.sandbox import Sandbox
from broker.secret import key_digest
from tests.conftest import RunningBroker, StartBroker

READER = "reader-key-0123456789-0123456789-0123456789"
Refused = Callable[..., Any]


@pytest.fixture
async def broker(start_broker: StartBroker, sandbox: Sandbox, tmp_path: Any) -> AsyncIterator[RunningBroker]:
    """Yield a broker with the grant `good`; an admin asks, and `READER` may read `good*` and nothing else."""
    data = tmp_path / "bad"
    data.mkdir()
    (data / "admin.key").write_text("admin-key-0123456789-0123456789-0123456789\n")
    reader = {"key_sha256": key_digest(READER), "read": ["good*"]}
    async with start_broker(data_dir=data, callers={"reader": reader}) as running:
        await running.import_("good", "acme", sandbox.rotating.issue().refresh_token or "")
        yield running
        assert (await running.ask("GET", "/v1/grants/good/token"))[0] == 200, "it does not serve on"
        assert '"request.failed"' not in running.log.getvalue(), "a bug answered"


@pytest.fixture
def refused(broker: RunningBroker) -> Refused:
    """Ask, and check that it is refused as every refusal is; gives its description and headers."""

    async def ask(status: int, method: str, path: str, **options: Any) -> tuple[str, Any]:
        got, body, headers = await broker.ask(method, path, **options)
        assert got == status, (method, path, got, body)
        assert set(body) == {"error", "error_description"}, body
        assert headers["Content-Type"].startswith("application/json")
        assert headers["Cache-Control"] == "no-store"
        for text in body.values():
            assert text
            assert "Traceback" not in text
            assert broker.admin_key not in text
        return str(body["error_description"]), headers

    return ask


async def raw(broker: RunningBroker, request: bytes) -> bytes:
    """Return what comes back for bytes that no HTTP client would send."""
    host, port = broker.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = b""
    try:
        writer.write(request)
        while part := await asyncio.wait_for(reader.read(65536), 1):
            answer += part
    except (TimeoutError, ConnectionError):
        pass  # kept alive, or cut off
    finally:
        writer.transport.abort()
    return answer
