"""What one provider and a thousand cost: starting, memory, an idle broker, a scrape, SIGHUP.

    python -m tests.benchmarks.many_providers [--providers 1 1000] [--grants 1000] [--seconds 30]

Real processes: a Redis and `token-broker run`, one settings file for each provider. The same grants are spread over the
providers, due in the hours to come, so that nothing is refreshed meanwhile.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from broker.secret import Sealer, parse_sealing_keys
from tests.benchmarks.many_grants import HOUR, command, resident, scrape, send
from tests.benchmarks.processes import cpu, cpu_seconds, running_broker
from tests.benchmarks.write_path import settings
from tests.ports import free_port
from tests.redis_server import running_redis


def provider_files(folder: Path, many: int) -> None:
    """Write a file for each of *many* providers."""
    folder.mkdir(exist_ok=True)
    for n in range(many):
        (folder / f"p{n}.toml").write_text(
            f'[providers.p{n}]\nkind = "oauth2"\nclient_id = "client{n}"\nclient_secret = "secret-of-client-{n}"\n'
            f'token_endpoint = "http://127.0.0.1:9/{n}/token"\n'
        )


def grants(many: int, providers: int, sealer: Sealer, now: int) -> Iterator[bytes]:
    """*many* grants, spread over the *providers*, due within the next ten hours."""
    for n in range(many):
        name, provider, due = f"g{n}", f"p{n % providers}", now + HOUR + (n * 7919) % (10 * HOUR)
        cells = {field: sealer.seal(text, name, field) for field, text in _SEALED.items()}
        times = {"generation": now, "issued_at": now, "granted_at": now, "answered_at": now, "refresh_at": due}
        fields = {"provider": provider, **cells, **times, "expires_at": due + HOUR}
        words: list[Any] = [word for pair in fields.items() for word in pair]
        yield command("HSET", f"broker:{{0}}:grant:{name}", *words)
        yield command("ZADD", f"broker:{{0}}:due:{provider}", due, name)


_SEALED = {"access_token": "a" * 40, "refresh_token": "r" * 40, "extra": "{}"}


def events(log: Path, name: str) -> list[dict[str, Any]]:
    """Return the events of this *name* so far."""
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    return [event for event in map(json.loads, lines) if event["event"] == name]


def took(action: Any) -> float:
    """Return the milliseconds that *action* takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def fetch(url: str, path: str, key: str = "") -> int:
    """Return the bytes of a response."""
    request = urllib.request.Request(url + path, headers={"X-Broker-Key": key})
    with urllib.request.urlopen(request) as answer:
        return len(answer.read())


def reload(process: Any, log: Path, port: int, key: str) -> str:
    """Send SIGHUP; return how long it took until the settings were taken up, and how long reads took meanwhile."""
    before, began = len(events(log, "settings.reloaded")), time.perf_counter()
    reads, over = list[float](), threading.Event()
    reader = threading.Thread(target=read, args=(port, key, reads, over))
    reader.start()
    process.send_signal(signal.SIGHUP)
    while len(events(log, "settings.reloaded")) == before:
        time.sleep(0.01)
    lasted = time.perf_counter() - began
    over.set()
    reader.join()
    figures = f"median {statistics.median(reads):.1f} ms, worst {max(reads):.0f}"
    return f"{lasted:.2f} s, {len(reads)} reads meanwhile: {figures}"


def read(port: int, key: str, reads: list[float], over: threading.Event) -> None:
    """Read a token again and again over one connection; milliseconds each."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while not over.is_set() or not reads:
        began = time.perf_counter()
        connection.request("GET", "/v1/grants/g0/token", headers={"X-Broker-Key": key})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        reads.append((time.perf_counter() - began) * 1000)
    connection.close()


def measure(providers: int, many: int, seconds: float) -> None:
    """Print the figures of so many *providers* with *many* grants together."""
    with tempfile.TemporaryDirectory(prefix="tb-providers-") as name:
        folder, port = Path(name), free_port()
        with running_redis(folder, None, "--appendonly", "no") as store:
            path = settings(folder, port, store.port, free_port())
            text = path.read_text().partition("[providers.bench]")[0].replace('"warning"', '"info"')
            path.write_text('include = ["providers.d/*.toml"]\n' + text + "[metrics]\nmax_grants = 100\n")
            provider_files(folder / "providers.d", providers)
            sealer = Sealer(parse_sealing_keys((folder / "keys").read_text()))
            sealer.binds = True
            send(store.port, grants(many, providers, sealer, int(time.time() * 1000)), 2 * many)
            log, began, url = folder / "log", time.perf_counter(), f"http://127.0.0.1:{port}"
            with log.open("wb") as stderr, running_broker(path, port, stdout=stderr, stderr=stderr) as process:
                print(f"{providers} providers, {many} grants")
                print(
                    f"  start: {time.perf_counter() - began:.2f} s until ready, {cpu_seconds(process.pid):.2f} s of CPU"
                )
                time.sleep(8)
                print(f"  memory of the broker: {resident(process.pid):.0f} MiB")
                redis.Redis(port=store.port).config_resetstat()
                before, at = (cpu(process.pid), cpu(store.process.pid)), time.monotonic()
                time.sleep(seconds)
                lasted = time.monotonic() - at
                busy = [100 * (cpu(p.pid) - b) / lasted for p, b in zip((process, store.process), before, strict=True)]
                print(f"  idle CPU of one core: broker {busy[0]:.2f} %, Redis {busy[1]:.2f} %")
                key = (folder / "data" / "admin.key").read_text().strip()
                anew = []
                for _ in range(3):
                    time.sleep(3.1)
                    anew.append(scrape(url))
                print(f"  scrape: {statistics.median(ms for ms, _ in anew):.0f} ms, {anew[-1][1] // 1024} KiB")
                for asked in ("/healthz", "/readyz", "/v1/providers"):
                    times = [took(lambda asked=asked: fetch(url, asked, key)) for _ in range(5)]
                    print(f"  {asked}: {statistics.median(times):.0f} ms, {fetch(url, asked, key) // 1024} KiB")
                print(f"  SIGHUP without a change: {reload(process, log, port, key)}")
                provider_files(folder / "providers.d", providers + 1)
                print(f"  SIGHUP with one provider more: {reload(process, log, port, key)}")
                print(f"  memory of the broker at the end: {resident(process.pid):.0f} MiB")


def main() -> None:
    """Print the figures of each number of providers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--providers", type=int, nargs="*", default=[1, 1000])
    parser.add_argument("--grants", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0)
    chosen = parser.parse_args()
    for providers in chosen.providers:
        measure(providers, chosen.grants, chosen.seconds)


if __name__ == "__main__":
    main()
