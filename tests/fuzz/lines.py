"""Fuzz lines: of a journal's file, and of a streamed import."""

from __future__ import annotations

import asyncio
import atexit
import base64
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

from hypothesis import strategies as st

from broker.api import ndjson
from broker.api.request_ids import request_id
from broker.api.requests import BODY_LIMIT
from broker.journal.file_format import Entry, line_of, read_entries
from broker.process.audit_file import AuditFile
from broker.secret import Sealer
from broker.settings.audit import Audit
from tests.fuzz.fuzzing import Target
from tests.fuzz.mutations import ODD_PIECES, altered_bytes, odd_texts

_FOLDER = Path(tempfile.mkdtemp(prefix="tb-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
_SEALER = Sealer([b"k" * 32])
_WHOLE = [line_of(Entry(f"g{number}", 1_800_000_000_000 + number, '{"a": 1}'), _SEALER) for number in range(4)]


def _sealed(text: str) -> bytes:
    return base64.b64encode(_SEALER.seal(text, "journal", purpose="journal")) + b"\n"


_TEXTS = st.tuples(st.integers().map(str) | odd_texts(6000), odd_texts(50), odd_texts(50)).map(" ".join)
_JOURNALS = st.lists(
    st.sampled_from(_WHOLE) | altered_bytes(_WHOLE) | (_TEXTS | odd_texts(50)).map(_sealed), max_size=6
).map(b"".join)


def _check_journal(raw: bytes) -> None:
    """Require every whole line that was written, and no error for the others."""
    path = _FOLDER / "fuzzed.journal"
    path.write_bytes(raw)
    entries, whole = read_entries(path, _SEALER)
    known = [line for line in raw.split(b"\n") if line + b"\n" in _WHOLE]
    assert len([entry for entry in entries if entry.text == '{"a": 1}']) >= len(known)
    lines = [line for line in raw.split(b"\n") if line]
    assert len(entries) <= len(lines)
    if whole:
        assert len(entries) >= len(lines) - 1, "a line inside was lost silently"


_IMPORTS = [
    b'{"grant_id": "a", "provider": "acme", "refresh_token": "r"}\n',
    b"\n",
    b"  \r\n",
    b"x" * BODY_LIMIT + b"\n",
    b"x" * (BODY_LIMIT + 1) + b"\n",
    b"\n" * 3000,
    b"{}\n" * 200,
]
_PIECES = st.lists(
    st.sampled_from(_IMPORTS) | altered_bytes(_IMPORTS[:3]) | st.sampled_from(ODD_PIECES), max_size=8
).flatmap(lambda parts: st.tuples(st.just(b"".join(parts)), st.lists(st.integers(0, 1 << 18), max_size=5)))


def _check_ndjson(given: tuple[bytes, list[int]]) -> None:
    """Require the lines of the body, numbered, in bounded groups, wherever it was cut on its path."""
    body, cuts = given
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    pieces = [body[start:end] for start, end in pairwise(places)]

    async def arriving() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def read() -> list[list[ndjson.Line]]:
        return [group async for group in ndjson.LineReader(arriving()).groups()]

    groups = asyncio.run(read())
    wanted: list[ndjson.Line] = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if len(line) > BODY_LIMIT:
            wanted.append((number, None))
        elif line.strip():
            wanted.append((number, line))
    assert [line for group in groups for line in group] == wanted
    for group in groups:
        assert len(group) <= ndjson.MOST_LINES


_AUDIT = AuditFile(Audit(file=str(_FOLDER / "audit.log"), max_size=1 << 30))
atexit.register(_AUDIT.close)
_EVENTS = st.lists(
    st.tuples(odd_texts(100), odd_texts(100), odd_texts(100), st.integers(), odd_texts(200), st.booleans()), max_size=30
)


def _check_audit(events: list[tuple[str, str, str, int, str, bool]]) -> None:
    """Require one line of JSON for each event, with its members, whatever id its client sent."""
    path = _FOLDER / "audit.log"
    begin = path.stat().st_size
    sent_ids = []
    for caller, peer, grant, generation, sent, is_read in events:
        request = _Request(sent)
        sent_ids.append(request_id(request))
        if is_read:  # what the settings, the socket and the route have checked
            _AUDIT.read("wall", "::1", "acme-1", generation, sent_ids[-1])
        else:
            _AUDIT.write("grant.deleted", caller=caller, peer=peer, grant_id=grant, request_id=sent_ids[-1])
    assert _AUDIT.drain(30)
    with path.open("rb") as file:
        file.seek(begin)
        written = [json.loads(line) for line in file]
    assert [line["request_id"] for line in written] == sent_ids
    for line, (caller, peer, grant, generation, _, is_read) in zip(written, events, strict=True):
        if is_read:
            assert line["generation"] == generation
        else:
            assert (line["caller"], line["peer"], line["grant_id"]) == (caller, peer, grant)


class _Request(dict[str, str]):
    """As much of a request as its id needs."""

    def __init__(self, sent: str) -> None:
        super().__init__()
        self.headers = {"X-Request-Id": sent}


TARGETS = (
    Target("audit", _EVENTS, _check_audit, in_suite=60),
    Target("journal", _JOURNALS, _check_journal),
    Target("ndjson", _PIECES, _check_ndjson, in_suite=200),
)
