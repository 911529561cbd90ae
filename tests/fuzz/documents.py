"""Fuzz what an operator writes: the settings file, the environment over it, and a file of the catalogue."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from broker.errors import InvalidSettings
from broker.settings import Caller, NoticeChannel, Provider, Settings, catalogue
from broker.settings import file as settings_file
from broker.settings.environment import ENV_PREFIX, model_of
from tests.fuzz.fuzzing import Target
from tests.fuzz.mutations import altered_bytes
from tests.paths import ROOT
from tests.project.pages import blocks
from tests.settings.conftest import PROGRAMMERS

_FOLDER = Path(tempfile.mkdtemp(prefix="tb-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)

_SAMPLES = [
    (ROOT / "deploy/broker.toml").read_bytes(),
    b'[redis]\nurl = "embedded:"\n[providers.acme]\nkind = "oidc"\nclient_id = "x"\nissuer = "https://as.test"\n',
    *(
        block.encode()
        for page in ("README.md", "deploy/README.md", "broker/notify/README.md", "broker/providers/README.md")
        for block in blocks((ROOT / page).read_text("utf-8"), "toml")
    ),
]
_VALUES = (
    '"embedded:"',
    '"redis://127.0.0.1:6379/0"',
    '"redis://[::1"',
    '"rediss+sentinel://u:p@a:1,b:2/main?ssl_cert_reqs=none"',
    '"https://as.test/token"',
    '"https://as.test:99999999/"',
    '"http://[/"',
    '"https://{tenant}/{x}"',
    '"127.0.0.1:8080"',
    '":"',
    '"unix:"',
    '"\\u0000"',
    '"\\u001b[2J"',
    '"ä"',
    '""',
    '" "',
    '"*"',
    '["\\u0000/*"]',
    '["a[!", "/"]',
    '{ a = ["\\u0000"] }',
    '"(?!"',
    '"5m"',
    '"1e9h"',
    '"-1s"',
    '"99999999999999999999d"',
    '"0.0000000001s"',
    '"10MB"',
    "true",
    "0",
    "-1",
    "1e999",
    "nan",
    "-inf",
    "0x7fffffffffffffffff",
    "99999999999999999999999999",
    "1.5",
    "2026-11-30",
    "12:00:00",
    "2026-11-30T12:00:00Z",
    "[]",
    "[[]]",
    '["*"]',
    '["a", 1, {}]',
    "{}",
    "{ a = 1 }",
    '{ "a.b" = { c = [] } }',
    '{ tenant = "common" }',
    '"oauth2"',
    '"oidc"',
    '"cameramanager"',
    '"none"',
    '"https"',
    "'''\n'''",
)
_PIECES = (
    *(f"{value}\n".encode() for value in _VALUES),
    b'"\\u001b[2J\\n" = 1\n',
    b'["\\u0000"]\n',
    b'[providers."\\n\\u202e"]\n',
    b"'' = {}\n",
    b"[redis]\n",
    b"[[http]]\n",
    b"[providers]\n",
    b'[providers."a b"]\n',
    b"[callers.a.b]\n",
    b"\n",
    b"=",
    b"\xff",
    b"\0",
    b'"""',
    b"[" * 3000,
    b"9" * 5000,
    b"a." * 2000,
    b"# ",
    b"{",
    b"\\",
    b"\r",
)


def _tables() -> dict[str, list[str]]:
    """Return the keys of every table, by the table's header."""
    found = {
        "providers.acme": list(Provider.model_fields),
        "callers.svc": list(Caller.model_fields),
        "": list(Settings.model_fields),
    }
    for name, field in Settings.model_fields.items():
        if model := model_of(field.annotation):
            found[name] = list(model.model_fields)
    found["notify.channels.ops"] = list(NoticeChannel.model_fields)
    return found


_TABLES = _tables()


@st.composite
def _written(draw: st.DrawFn) -> bytes:
    """Draw a file of tables and keys that exist, with values that may not stand there."""
    lines, most = [], draw(st.integers(1, 5))
    for table in sorted(draw(st.sets(st.sampled_from(sorted(_TABLES)), max_size=most))):
        if table:
            lines.append(f"[{table}]")
        keys = draw(st.lists(st.sampled_from(_TABLES[table] or ["x"]), max_size=most, unique=True))
        lines += [f"{key} = {draw(st.sampled_from(_VALUES))}" for key in keys]
    if draw(st.integers(0, 3)):
        lines.append("[redis]\nurl = 'embedded:'")
    return "\n".join(lines).encode()


def _require_settings(path: Path | None, names: tuple[str, ...]) -> None:
    """Require settings, or findings that are one line each for people, and begin with one of *names*."""
    try:
        settings_file.load(path)
    except InvalidSettings as invalid:
        assert invalid.findings
        for finding in invalid.findings:
            assert finding.startswith(names), finding
            assert "\n" not in finding
            assert finding.isprintable(), finding
            assert not PROGRAMMERS.search(finding), finding


def _check_settings(raw: bytes) -> None:
    path = _FOLDER / "broker.toml"
    path.write_bytes(raw)
    _require_settings(path, (str(_FOLDER), f"environment: {ENV_PREFIX}"))
    try:
        settings_file.origins(path)("providers", "acme", "issuer")
        settings_file.read_from(path)
    except InvalidSettings:
        pass


_PARTS = sorted({key.upper() for keys in _TABLES.values() for key in keys} | {"ACME", "SVC", "", "0", "ä"})
_TEXTS = [value.strip("\"'\n") for value in _VALUES] + ["[" * 3000, "9" * 5000, '{"a":', "[1,]", "a,b", '["x"]']
_VARIABLES = st.dictionaries(
    st.lists(st.sampled_from(_PARTS), min_size=1, max_size=4).map("__".join)
    | st.tuples(st.sampled_from(sorted(_TABLES)), st.sampled_from(_PARTS)).map(
        lambda pair: f"{pair[0].replace('.', '__').upper()}__{pair[1]}"
    ),
    st.sampled_from(_TEXTS).map(lambda text: text.replace("\0", "")),
    max_size=4,
)


def _check_environment(variables: dict[str, str]) -> None:
    named = {f"{ENV_PREFIX}{name}": text.encode(errors="ignore").decode() for name, text in variables.items()}
    others = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    path = _FOLDER / "base.toml"
    path.write_text('[redis]\nurl = "embedded:"\n')
    with mock.patch.dict(os.environ, others | named, clear=True):
        _require_settings(path, (str(_FOLDER), f"environment: {ENV_PREFIX}"))
        if "INCLUDE" not in variables:  # a pattern would be taken relative to whatever folder the tests run in
            _require_settings(None, ("settings", f"environment: {ENV_PREFIX}"))


_KINDS = [path.read_text("utf-8") for path in sorted(catalogue.DIRECTORY.glob("*.toml"))]
_CATALOGUE = altered_bytes(
    [text.encode() for text in _KINDS],
    (
        *_PIECES,
        b"{x}",
        b"[template.x]\n",
        b'pattern = "("\n',
        b'default = "y"\n',
        b"[settings]\n",
        b"{shop}",
        b"sources = 1\n",
        b"read = 1\n",
    ),
).map(lambda raw: raw.decode(errors="replace"))


def _check_catalogue(text: str) -> None:
    folder = _FOLDER / "catalogue"
    if not folder.exists():
        folder.mkdir()
        for base in catalogue.BASES:
            shutil.copy(catalogue.DIRECTORY / f"{base}.toml", folder)
    (folder / "fuzzed.toml").write_text(text, encoding="utf-8", newline="")
    load: Any = catalogue._load
    checked: Any = catalogue._checked
    load.cache_clear()
    try:
        kind = checked.__wrapped__("fuzzed", Provider, folder)
        list(kind.problems({"x": 1, "shop": "\0"}))
        assert kind.needs is not None
    except InvalidSettings as invalid:
        for finding in invalid.findings:
            assert finding.startswith(str(folder)), finding
            assert "\n" not in finding


TARGETS = (
    Target("settings", _written() | altered_bytes(_SAMPLES, _PIECES), _check_settings, in_suite=200),
    Target("environment", _VARIABLES, _check_environment, in_suite=100),
    Target("catalogue", _CATALOGUE, _check_catalogue, in_suite=100),
)
