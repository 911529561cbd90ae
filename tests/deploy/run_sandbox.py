"""The sandbox on a host of a test network: `python run_sandbox.py ADDRESS`. Nothing outside that network reaches it."""

from __future__ import annotations

import asyncio
import json
import sys

from broker.sandbox import Sandbox, server


async def serve(address: str) -> None:
    """Say how two authorities know us, and refresh tokens of each; then serve until killed."""
    server._is_loopback = lambda _: True  # type: ignore[assignment]
    async with Sandbox(host=address, port=9000, access_lifetime=3600) as sandbox:
        registrations = {
            authority.dialect.name: {
                "client_id": authority.client_id,
                "client_secret": authority.client_secret,
                "refresh_tokens": [authority.issue().refresh_token for _ in range(3)],
            }
            for authority in (sandbox.cameramanager, sandbox.rotating)
        }
        print(json.dumps(registrations), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
