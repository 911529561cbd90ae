"""How fast the current token is read, against a bare routed aiohttp handler with a body of the same size, in one run.

    python -m tests.benchmarks.read_path [--rounds 5] [--seconds 2]

Real processes: a token endpoint, a Redis, `token-broker run`, the bare handler, and a raw load of 64 connections.
A B A B, medians; what is printed are ratios to the bare handler: requests per second (1.0: as fast), p99 (1.0: as
quick), and the process's own CPU time per request (1.0: as much), which says the most where the machine is not quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import tempfile
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.processes import PYTHON, cpu_seconds, running, running_broker, wait_for_port
from tests.benchmarks.write_path import import_grants, settings
from tests.ports import free_port
from tests.redis_server import running_redis

CONNECTIONS = 64
EVERY_SECOND = ("--appendfsync", "everysec")
"""What is read is in memory: no disk is measured."""


def request_for(path: str, *headers: str, method: str = "GET", body: str = "") -> bytes:
    """Return a raw request as a kept client sends it."""
    length = [f"Content-Length: {len(body)}"] if body else []
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: */*", "User-Agent: load", *headers, *length]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class Run(NamedTuple):
    """Requests per second, p99 (ms), and CPU seconds of the server per request."""

    rps: float
    p99: float
    cpu: float


def load(server: int, port: int, request: bytes, seconds: float, status: str = "200") -> Run:
    """Load the process *server*; return its figures. Every answer must have this status."""
    before = cpu_seconds(server)
    command = [*PYTHON, "tests.benchmarks.load", str(port), str(CONNECTIONS), str(seconds)]
    done = subprocess.run(command, input=request, stdout=subprocess.PIPE, check=True)
    figures = json.loads(done.stdout)
    assert list(figures["statuses"]) == [status], figures["statuses"]
    return Run(figures["rps"], figures["p99"], (cpu_seconds(server) - before) / figures["answers"])


def requests_by_name(key: str, etag: str) -> dict[str, tuple[bytes, str]]:
    """Return what is asked of the broker, and the status it answers with."""
    mine, basic = f"Authorization: Bearer {key}", b64encode(f"admin:{key}".encode()).decode()
    path, form = "/v1/grants/g0/token", "grant_type=client_credentials&scope=grant%3Ag0"
    return {
        "cached read": (request_for(path, mine), "200"),
        "304": (request_for(path, mine, f"If-None-Match: {etag}"), "304"),
        "min_ttl=60": (request_for(f"{path}?min_ttl=60", mine), "200"),
        "/authorization": (request_for("/v1/grants/g0/authorization", mine), "200"),
        "/oauth2/token": (
            request_for(
                "/oauth2/token",
                f"Authorization: Basic {basic}",
                "Content-Type: application/x-www-form-urlencoded",
                method="POST",
                body=form,
            ),
            "200",
        ),
    }


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        token_port, port, bare_port = (free_port() for _ in range(3))
        stack.enter_context(running(*PYTHON, "tests.benchmarks.token_server", str(token_port), "0"))
        store = stack.enter_context(running_redis(folder, None, *EVERY_SECOND))
        wait_for_port(token_port)
        broker = stack.enter_context(running_broker(settings(folder, port, store.port, token_port), port))
        key = (folder / "data" / "admin.key").read_text().strip()
        import_grants(port, key, 1)
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/grants/g0/token", headers={"X-Broker-Key": key})
        with urllib.request.urlopen(asked) as answer:
            etag, size = answer.headers["ETag"], len(answer.read())
        handler = stack.enter_context(running(*PYTHON, "tests.benchmarks.bare_handler", str(bare_port), str(size)))
        wait_for_port(bare_port)
        bare = request_for("/v1/grants/g0/token", f"Authorization: Bearer {key}")
        print(f"body of {size} bytes, {CONNECTIONS} connections, {given.rounds} rounds of {given.seconds:g} s")
        for what, (request, status) in requests_by_name(key, etag).items():
            if given.only not in what:
                continue
            pairs = [
                (
                    load(handler.pid, bare_port, bare, given.seconds),
                    load(broker.pid, port, request, given.seconds, status),
                )
                for _ in range(given.rounds)
            ]
            rps, p99, cpu = (statistics.median(ours[n] / theirs[n] for theirs, ours in pairs) for n in range(3))
            print(f"{what:15} {rps:5.2f}x requests/s   {p99:5.2f}x p99   {cpu:5.2f}x CPU", flush=True)


if __name__ == "__main__":
    main()
