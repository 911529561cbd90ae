"""`python -m broker.sandbox`: run the sandbox until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from broker.sandbox.authorize import PASSWORD, USER
from broker.sandbox.server import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def describe(sandbox: Sandbox) -> Iterator[str]:
    """Yield the lines that show a person every address and account."""
    yield f"Sandbox: {sandbox.url}  (user {USER}, password {PASSWORD}; Ctrl-C ends it)"
    for name, authority in sandbox.authorities.items():
        yield ""
        yield f"{name}: client {authority.client_id}, secret {authority.client_secret}"
        for endpoint, path in authority.dialect.paths.items():
            yield f"  {endpoint:<10} {sandbox.url}{path}"
    yield ""
    yield f"Ledger: GET {sandbox.url}/sandbox/state"
    yield f'Faults: POST {sandbox.url}/sandbox/faults {{"authority": "v3", "kind": "status"}}'


async def run(port: int, access_lifetime: float | None, *, offline_by_consent: bool = False) -> None:
    """Serve until SIGINT or SIGTERM; *access_lifetime* in seconds; see `Options` for *offline_by_consent*.

    Raises:
        OSError: the port is taken.

    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with Sandbox(port=port, access_lifetime=access_lifetime) as sandbox:
        sandbox.rotating.options.offline_by_consent = offline_by_consent
        sys.stdout.writelines(f"{line}\n" for line in describe(sandbox))
        sys.stdout.flush()
        await stopping.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; return the exit code: 0, or 1 if the port is taken."""
    parser = argparse.ArgumentParser("python -m broker.sandbox", description="An OAuth 2.0 server to test with.")
    parser.add_argument("--port", type=int, default=9000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--access-lifetime",
        type=float,
        metavar="SECONDS",
        help="life of access tokens (each server has its own)",
    )
    parser.add_argument(
        "--offline-by-consent",
        action="store_true",
        help="rotating: offline_access counts only with prompt=consent, as OpenID Connect Core 11 has it",
    )
    chosen = parser.parse_args(arguments)
    try:
        asyncio.run(run(chosen.port, chosen.access_lifetime, offline_by_consent=chosen.offline_by_consent))
    except OSError as error:
        sys.stderr.write(f"sandbox: cannot listen on port {chosen.port}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":  # pragma: no cover - the tests run it in a process of its own
    sys.exit(main())
