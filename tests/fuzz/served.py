"""Fuzz a broker that serves: its fast reads against its router, bytes that are hardly HTTP, and every route."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from broker.api import app, listeners
from broker.process import logs
from broker.process.signals import Signals
from broker.sandbox import Sandbox
from broker.secret import key_digest, new_sealing_key
from broker.service import serve
from broker.settings import Log, Settings
from tests.conftest import provider_settings
from tests.fuzz.fuzzing import Crash, Result, Target
from tests.fuzz.mutations import altered_bytes
from tests.ports import free_port
from tests.redis_server import running_redis

KEY = "tbk_reader-key-0123456789-0123456789_abc"
ADMIN = "tbk_admin-key-0123456789-0123456789_abcd"
GRANT = "g1"
_ANSWER_TIME = 5.0
"""Seconds for an answer to a whole request."""
_HALF_TIME = 0.15
"""Seconds for an answer to bytes that may be half a request: most get none before the broker's own time limit."""


@dataclass(slots=True)
class Served:
    """A broker in a thread of this process, with one live grant."""

    port: int
    log: io.StringIO
    refresh_token: str
    etag: bytes = b""
    """Of the token that is served."""
    routed: bool = False
    """Whether the router gets every request."""

    def find_read(self, method: str, path: str) -> Any:
        """Find a read as the broker does, or none."""
        return None if self.routed else app.find_read(method, path)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def take_log(self) -> None:
        """Have the log of this process written where `require_sound` reads it."""
        logs.set_up(Log(format="json", level="info"), self.log)

    def send(self, request: bytes, seconds: float = _ANSWER_TIME) -> bytes:
        """Return all that comes back until the broker closes, or for so many seconds without a byte."""
        answer = b""
        with socket.create_connection(("127.0.0.1", self.port), _ANSWER_TIME) as link:
            link.settimeout(seconds)
            with contextlib.suppress(OSError):
                link.sendall(request)
                while part := link.recv(65_536):
                    answer += part
        return answer

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Return the JSON of a request of the admin's."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"X-Broker-Key": ADMIN}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def require_sound(self) -> None:
        """Require that nothing it served was a bug to it, and that its log holds no secret."""
        text = self.log.getvalue()
        self.log.truncate(0)
        self.log.seek(0)
        assert '"request.failed"' not in text, text[-3000:]
        for secret in (KEY, ADMIN, self.refresh_token):
            assert secret not in text, "a secret in the log"


@contextlib.contextmanager
def serving() -> Iterator[Served]:
    """Run Redis, the sandbox and a broker as long as the body lasts."""
    with tempfile.TemporaryDirectory(prefix="tb-fuzz-") as name, running_redis(Path(name)) as redis:
        served, ready = Served(free_port(), io.StringIO(), ""), threading.Event()
        stopping: list[Any] = []
        thread = threading.Thread(target=_run, args=(Path(name), redis.url, served, ready, stopping), daemon=True)
        with mock.patch.object(listeners, "find_read", served.find_read):
            thread.start()
            try:
                assert ready.wait(30), "the broker does not start"
                _import(served)
                yield served
            finally:
                for stop in stopping:
                    stop()
                thread.join(30)


def _run(folder: Path, redis_url: str, served: Served, ready: threading.Event, stopping: list[Any]) -> None:
    async def run() -> None:
        async with Sandbox(access_lifetime=36_000) as sandbox:
            settings = _settings(folder, redis_url, served.port, sandbox)
            served.take_log()
            signals, loop = Signals(of_process=False), asyncio.get_running_loop()
            stopping.append(lambda: loop.call_soon_threadsafe(signals.stopping.set))
            served.refresh_token = sandbox.rotating.issue().refresh_token or ""
            ready.set()
            await serve(settings, signals, reload=lambda: settings)

    asyncio.run(run())


def _settings(folder: Path, redis_url: str, port: int, sandbox: Sandbox) -> Settings:
    (folder / "sealing.keys").write_text(new_sealing_key() + "\n")
    (folder / "sealing.keys").chmod(0o600)
    reader = {"key_sha256": key_digest(KEY), "read": ["g*"]}
    admin = {"key_sha256": key_digest(ADMIN), "read": ["*"], "refresh": ["*"], "admin": ["*"]}
    tables: dict[str, Any] = {
        "data_dir": folder / "data",
        "redis": {"url": redis_url},
        "sealing": {"keys_file": folder / "sealing.keys"},
        "providers": provider_settings(sandbox),
        "callers": {"reader": reader, "admin": admin},
        "http": {"listen": [f"127.0.0.1:{port}"], "public_url": f"http://127.0.0.1:{port}", "drain_delay": "0s"},
    }
    return Settings(**tables)


def _import(served: Served) -> None:
    ends = time.monotonic() + 30
    while True:
        try:
            served.ask("PUT", f"/v1/grants/{GRANT}", {"provider": "acme", "refresh_token": served.refresh_token})
            served.etag = b'"%d"' % served.ask("GET", f"/v1/grants/{GRANT}/token")["generation"]
        except OSError:
            assert time.monotonic() < ends, served.log.getvalue()[-3000:]
            time.sleep(0.05)
        else:
            return


_ETAG = b'"@"'
"""Stands for the ETag of the token that is served."""
_PATHS = [
    b"/v1/grants/g1/token",
    b"/v1/grants/g1/token?min_ttl=60",
    b"/v1/grants/other/token",
    b"/v1/grants/g1/authorization",
    b"/v1/grants/g1/authorization/a/b?c=d",
    b"/oauth2/token",
]
_UNPRINTABLE = bytes([32, *range(32), 127])
"""What makes a request no HTTP, in a target; all but the first, a blank, in a header's value too."""
_IN_PATHS = (
    *(b"", b"/", b"//", b"?", b"#", b"%", b"%2F", b"%67", b"%00", b"..", b"&", b"=", b";", b"x" * 130, b"\xff"),
    *(b"min_ttl=", b"min_ttl=1&min_ttl=2", b"1e3", b"-0", b"+60", b"http://127.0.0.1/", b"_", b"~", b"g1"),
)
_NAMES = ["Authorization", "X-Broker-Key", "Prefer", "If-None-Match", "If-Match", "Accept", "Content-Type", "Cookie"]
_NAMES += ["Content-Encoding", "Expect", "X-Request-Id", "Host", "X-Forwarded-For", "Sec-Fetch-Site", "Upgrade"]
_VALUES = altered_bytes(
    [
        f"Bearer {KEY}".encode(),
        KEY.encode(),
        b"wait=0",
        b"*",
        _ETAG,
        b'"1"',
        b"text/html",
        b"application/x-www-form-urlencoded",
        b"gzip",
        b"100-continue",
        b"127.0.0.1",
        b"other.test",
    ],
    (b"", b" ", b"\t", b",", b";", b"=", b'"', b"\xff", b"\xc3\xa4", b"0", b"identity", b"x" * 300),
).map(lambda raw: raw.translate(None, _UNPRINTABLE[1:]) if len(raw) % 8 else raw.replace(b"\n", b""))
_FORMS = [
    b"",
    b"{}",
    f"grant_type=client_credentials&scope=grant:g1&client_id=reader&client_secret={KEY}".encode(),
    b"grant_type=client_credentials&scope=grant:g1",
    b"grant_type=client_credentials&scope=grant:other",
]


def _of_name(*, twice: bool) -> Callable[[tuple[str, bytes]], object]:
    """Return what may be there once among headers: a name, unless it may be there *twice*."""
    return (lambda header: header) if twice else (lambda header: header[0])


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    """Draw a whole request for a frequent read, or nearly for one; a `Prefer` asks for no wait."""
    method = draw(st.sampled_from([b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PROPFIND"]))
    path = draw(st.sampled_from(_PATHS) | altered_bytes(_PATHS, _IN_PATHS))
    body = draw(altered_bytes(_FORMS)) if draw(st.booleans()) else b""
    twice = draw(st.integers(0, 9)) == 0
    headers = draw(st.lists(st.tuples(st.sampled_from(_NAMES), _VALUES), max_size=4, unique_by=_of_name(twice=twice)))
    if draw(st.integers(0, 3)) and (twice or not {"Authorization", "X-Broker-Key"} & {name for name, _ in headers}):
        headers.append(("X-Broker-Key", KEY.encode()))
    if path.startswith(b"/oauth2") and draw(st.booleans()):
        method = b"POST"
        headers = [("Content-Type", b"application/x-www-form-urlencoded")]
        body = draw(altered_bytes(_FORMS))
    if draw(st.integers(0, 7)):
        path = path.translate(None, _UNPRINTABLE)
    names = {name for name, _ in headers}
    if "Host" not in names:
        headers.append(("Host", b"127.0.0.1"))
    lines = [name.encode() + b": " + value for name, value in headers if name != "Prefer" or b"wait=0" in value]
    lines += [b"Content-Length: %d" % len(body), b"Prefer: wait=0", b"Connection: close"]
    head = b"\r\n".join([b"%s %s HTTP/1.1" % (method, path.replace(b"\r", b"").replace(b"\n", b"")), *lines])
    return head + b"\r\n\r\n" + body


_VARIES = re.compile(rb'(?m)^(Date|X-Request-Id|Content-Length): .*\r\n|(?<="expires_in":)\s*[0-9]+|max-age=[0-9]+')
_RAW = altered_bytes(
    [
        f"GET /v1/grants/g1/token HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Broker-Key: {KEY}\r\n\r\n".encode(),
        b"POST /oauth2/token HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\na=",
        b"POST /v1/import HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"GET /login/x HTTP/1.0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /callback?code=x&state=y HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: a=b\r\nAccept: text/html\r\n\r\n",
    ],
    (
        *(b"", b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"\xff", b"\xc3\xa4", b"%", b"/", b"?"),
        *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"HTTP/9.9"),
        *(b"Connection: close\r\n", b"Content-Encoding: gzip\r\n", b"Host: a\r\n", b"ffffffffffffffff\r\n", b"-1"),
        *(b"X-Broker-Key: \xe9\xff\r\n", b"Accept: text/html\r\n", b"x" * 9000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ),
)
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")


def _allowed(answer: bytes) -> bool:
    """Return whether an answer is none, or HTTP that puts nothing down to a fault of the broker's."""
    found = _STATUS.match(answer)
    return not answer or (found is not None and (found[1] < b"500" or found[1] in {b"503", b"505"}))


def targets(served: Served) -> tuple[Target, ...]:
    """Return what is fuzzed at a broker that serves."""

    def check_read(request: bytes) -> None:
        """Require the same answer of the fast path and of the router: status, headers and body."""
        answers, request = [], request.replace(_ETAG, served.etag)
        for served.routed in (False, True):
            answers.append(served.send(request))
        served.routed = False
        fast, routed = (_VARIES.sub(b"", answer) for answer in answers)
        assert fast == routed, answers
        assert _allowed(answers[0]), answers[0]
        served.require_sound()

    def check_bytes(raw: bytes) -> None:
        """Require a 4xx, what was asked for, or the end of the connection."""
        answer = served.send(raw, _HALF_TIME)
        assert _allowed(answer), answer
        served.require_sound()

    return (
        Target("fast-reads", _requests(), check_read, in_suite=150),
        Target("wire", _RAW, check_bytes, in_suite=20),
    )


ROUTES = "routes"
"""The target that schemathesis serves."""
_CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]  # what the fuzzer imports is soon parked: 503 is the response to that
"""
_PHASES = "examples,coverage,fuzzing"
_COUNTS = re.compile(r"([0-9,]+) generated")


def fuzz_routes(
    served: Served, result: Result, seed: int, examples: int, key: str | None, *, phases: str = _PHASES
) -> None:
    """Have schemathesis ask every route of the OpenAPI document, with a key or without one; add to *result*."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tb-fuzz-") as folder:
        (Path(folder) / "schemathesis.toml").write_text(_CONFIG)
        program = str(Path(sys.executable).with_name("schemathesis"))
        done = subprocess.run(
            [
                *(program, "run", f"{served.url}/openapi.json", "--seed", str(seed), "--max-examples", str(examples)),
                *("--phases", phases, "--warnings", "off", "--no-color", "-H", "Prefer: wait=0"),
                *("--exclude-path", "/v1/import", "--exclude-path", "/v1/grants/{id}/authorization/{suffix}"),
                *("--exclude-checks", "positive_data_acceptance,negative_data_rejection,missing_required_header"),
                *(() if key is None else ("-H", f"Authorization: Bearer {key}")),
            ],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    counts = _COUNTS.search(done.stdout)
    result.inputs += int(counts[1].replace(",", "")) if counts else 0
    result.seconds += time.monotonic() - began
    result.next_seed = seed + 1
    if done.returncode != 0:
        result.crashes[f"schemathesis, seed {seed}"] = Crash(seed, "see its report", done.stdout[-6000:])
    try:
        served.require_sound()
    except AssertionError as error:
        result.crashes[f"log, seed {seed}"] = Crash(seed, "see its log", str(error))
