"""What an import of many grants takes, what bounds it, and how long others wait meanwhile.

    python -m tests.benchmarks.bulk_import [--grants 30000] [--attack] [--seconds 4]

Real processes: a Redis with appendfsync always and `token-broker run` with the default log. The file is imported, and
once more, by when nothing changes. The bare baseline is a client that writes fields of the same size to the same
Redis, one durable write for each grant, and 64 in a trip. Meanwhile 20 connections read a token and one asks for
/healthz every 10 ms.

`--attack` sends 1 MB/s of each kind of wrong input instead, and then as much as the broker takes.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.benchmarks.processes import PYTHON, cpu, running, running_broker, wait_for_port
from tests.benchmarks.read_path import request_for
from tests.benchmarks.write_path import settings
from tests.ports import free_port
from tests.redis_server import running_redis

PIPE = subprocess.PIPE
CONNECTIONS, PAUSE = 20, 0.03
RATE = 1_000_000
"""Bytes a second."""
LONG = 64 * 1024 - 8
"""Just below the limit of a line."""
WRONG = {
    "lines of one letter": b"x\n" * 8192,
    "blank lines": b"\n" * 16384,
    "lines without a grant id": b'{"provider":"bench","refresh_token":"r"}\n' * 400,
    "lines of an unknown provider": b'{"grant_id":"a","provider":"none","refresh_token":"r"}\n' * 300,
    "deep JSON": b"[" * LONG + b"\n",
    "wide JSON": b"[" + b"1," * (LONG // 2 - 1) + b"1]\n",
    "long numbers": b"1" * LONG + b"\n",
    "escapes": b'"' + b"\\u0041" * (LONG // 6 - 1) + b'"\n',
    "lines over the limit": b"x" * (LONG + 100) + b"\n",
    "an endless line": b"x" * 16384,
}
"""Kinds of wrong input, each to be repeated."""


@contextlib.contextmanager
def asking_health(port: int) -> Iterator[dict[str, float]]:
    """Ask for /healthz as long as the body lasts; the figures are there when it has ended."""
    figures: dict[str, float] = {}
    command = [*PYTHON, "tests.benchmarks.ask_health", str(port)]
    process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE)
    try:
        yield figures
    finally:
        printed, _ = process.communicate()
        figures |= json.loads(printed)


def health(figures: dict[str, float]) -> str:
    """Return what is printed of these figures."""
    return (
        f"/healthz median {figures['median']:.2f}, slowest {figures['slowest']:.1f} ms "
        f"(the machine was late by up to {figures['late']:.1f})"
    )


class Reads:
    """Reads of a token by a process of their own, begun now."""

    def __init__(self, port: int, key: str, seconds: float) -> None:
        command = [*PYTHON, "tests.benchmarks.load", str(port), str(CONNECTIONS), str(seconds), str(PAUSE)]
        self._process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdin is not None
        self._process.stdin.write(request_for("/v1/grants/reader/token", f"X-Broker-Key: {key}"))
        self._process.stdin.close()

    def result(self) -> tuple[float, float]:
        """p50 and p99 (ms), once the seconds are over; every answer must be 200."""
        assert self._process.stdout is not None
        printed = self._process.stdout.read()
        if self._process.wait():  # nothing was answered
            return float("inf"), float("inf")
        figures = json.loads(printed)
        assert list(figures["statuses"]) == ["200"], figures["statuses"]
        return figures["p50"], figures["p99"]


def send_file(port: int, key: str, lines: list[bytes]) -> tuple[float, float, Counter[str]]:
    """Import; return the seconds until the first outcome and until the last, and how many there were of each status."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    began = time.perf_counter()
    connection.putrequest("POST", "/v1/import")
    connection.putheader("X-Broker-Key", key)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()

    def send() -> None:
        for at in range(0, len(lines), 500):
            body = b"".join(lines[at : at + 500])
            connection.send(b"%x\r\n%s\r\n" % (len(body), body))
        connection.send(b"0\r\n\r\n")

    threading.Thread(target=send).start()
    answers: list[bytes] = []
    first = 0.0
    response = connection.response_class(connection.sock, method="POST")
    response.begin()
    while line := response.readline():
        first = first or time.perf_counter() - began
        answers.append(line)
    return first, time.perf_counter() - began, Counter(json.loads(line)["status"] for line in answers)


def bare(client: redis.Redis, many: int, together: int) -> float:
    """Write so many grants with nothing but a client; return the seconds for each."""
    began = time.perf_counter()
    for at in range(0, many, together):
        pipeline = client.pipeline(transaction=False)
        for n in range(at, min(many, at + together)):
            pipeline.hset(f"bare:{n}", mapping={"generation": 1_700_000_000_000 + n, "refresh_token": b"x" * 80})
            pipeline.zadd("bare", {f"bare:{n}": n})
        pipeline.execute()
    took = (time.perf_counter() - began) / many
    client.delete("bare", *(f"bare:{n}" for n in range(many)))
    return took


def import_many(port: int, key: str, client: redis.Redis, many: int, pids: tuple[int, int]) -> None:
    """Import twice, and print what it took."""
    single, grouped = bare(client, 3000, 1), bare(client, 12800, 64)
    print(f"bare client: {1e6 * single:.0f} us a grant alone, {1e6 * grouped:.0f} us with 64 in a trip", flush=True)
    lines = [
        json.dumps({"grant_id": f"g{n}", "provider": "bench", "refresh_token": f"first-token-of-{n}"}).encode() + b"\n"
        for n in range(many)
    ]
    quiet = Reads(port, key, 3).result()
    print(f"  quiet: reads p50 {quiet[0]:.2f}, p99 {quiet[1]:.2f} ms", flush=True)
    for what in ("nobody reads", "again", "again, while others read"):
        reads = Reads(port, key, 3) if what.endswith("read") else None
        before = [cpu(pid) for pid in pids]
        with asking_health(port) as waits:
            first, took, statuses = send_file(port, key, lines)
        broker, store = (1e6 * (cpu(pid) - was) / many for pid, was in zip(pids, before, strict=True))
        print(f"{what}: {many} grants in {took:.2f} s ({took / many / single:.2f}x of a bare write each), ", end="")
        print(f"first outcome after {1000 * first:.0f} ms, {dict(statuses)}")
        print(f"  CPU for each: broker {broker:.0f} us, Redis {store:.0f} us")
        print(f"  {health(waits)}", flush=True)
        if reads is not None:
            p50, p99 = reads.result()
            print(f"  reads: p50 {p50:.2f}, p99 {p99:.2f} ms ({p99 / quiet[1]:.1f}x of the quiet broker)", flush=True)
    fresh = [line.replace(b': "g', b': "h').replace(b"first", b"other") for line in lines]
    reads = Reads(port, key, 3)
    with asking_health(port) as waits:
        _, took, statuses = send_file(port, key, fresh)
    p50, p99 = reads.result()
    print(f"while others read: {many} grants in {took:.2f} s, {dict(statuses)}")
    print(f"  {health(waits)}; reads p50 {p50:.2f}, p99 {p99:.2f} ms", flush=True)


def send_wrong(port: int, key: str, piece: bytes, seconds: float, rate: float) -> int:
    """Send *piece* again and again at *rate* bytes a second, reading what is answered; return the bytes sent."""
    sock = socket.create_connection(("127.0.0.1", port))
    head = f"POST /v1/import HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Broker-Key: {key}\r\n"
    sock.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")

    def drain() -> None:
        with contextlib.suppress(OSError):
            while sock.recv(1 << 20):
                pass

    reading = threading.Thread(target=drain)
    reading.start()
    chunk, sent, began = b"%x\r\n%s\r\n" % (len(piece), piece), 0, time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() < began + seconds:
            sock.sendall(chunk)
            sent += len(piece)
            time.sleep(max(0.0, began + sent / rate - time.monotonic()))
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    reading.join()
    sock.close()
    return sent


def attack(port: int, key: str, seconds: float) -> None:
    """Print how long others wait while wrong input comes in."""
    for what, piece in {"nothing": b"", **WRONG}.items():
        for rate in (RATE, 1e12) if piece else (RATE,):
            reads = Reads(port, key, seconds)
            with asking_health(port) as waits:
                sent = send_wrong(port, key, piece, 1.25 * seconds + 0.5, rate) if piece else 0
                p50, p99 = reads.result()
            print(
                f"{what:30} {sent / (1.25 * seconds + 0.5) / 1e6:7.2f} MB/s: "
                f"reads p50 {p50:6.2f}, p99 {p99:7.2f} ms; {health(waits)}",
                flush=True,
            )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grants", type=int, default=30_000)
    parser.add_argument("--attack", action="store_true")
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        token_port, port = free_port(), free_port()
        stack.enter_context(running(*PYTHON, "tests.benchmarks.token_server", str(token_port), "1"))
        store = stack.enter_context(running_redis(folder))
        wait_for_port(token_port)
        path = settings(folder, port, store.port, token_port)
        text = path.read_text().replace('import_spread = "1ms"', 'import_spread = "12h"')
        path.write_text(text.replace('level = "warning"', 'level = "info"'))
        log = stack.enter_context((folder / "log").open("wb"))
        broker = stack.enter_context(running_broker(path, port, stdout=log, stderr=log))
        key = (folder / "data" / "admin.key").read_text().strip()
        connection = http.client.HTTPConnection("127.0.0.1", port)
        body = json.dumps({"provider": "bench", "refresh_token": "of-the-reader"})
        connection.request("PUT", "/v1/grants/reader", body, {"X-Broker-Key": key})
        assert connection.getresponse().read()
        time.sleep(1)  # refreshed by then: an import by PUT is due at once
        if given.attack:
            attack(port, key, given.seconds)
        else:
            client = redis.Redis(port=store.port)
            import_many(port, key, client, given.grants, (broker.pid, store.process.pid))


if __name__ == "__main__":
    main()
