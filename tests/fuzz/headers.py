"""Fuzz what a caller or a person hands in: headers with keys, client credentials, and a pasted redirect."""

from __future__ import annotations

import base64
import re
from functools import partial
from typing import Any

from aiohttp.test_utils import make_mocked_request
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from broker.api.callers import Caller, Callers
from broker.api.routes.client_credentials import RequestRefused, authenticate_client
from broker.errors import InvalidRequest, UnknownKey
from broker.login.redirect import read_query, read_redirect, with_code
from broker.secret import key_digest
from tests.fuzz.fuzzing import Target
from tests.fuzz.mutations import altered_bytes, odd_texts

KEY = "tbk_fuzzed-key-0123456789-0123456789_abc"
_NOTHING, _ALL = re.compile(r"(?!)"), re.compile(".*")
_CALLER = Caller("svc", {"read": re.compile("g.*"), "refresh": _NOTHING, "admin": _NOTHING})
_BASIC = base64.b64encode(f"svc:{KEY}".encode())


def _as_sent(raw: bytes) -> str:
    """Return a header's value as aiohttp decodes it."""
    return raw.decode("utf-8", "surrogateescape").replace("\r", "").replace("\n", "")


_VALUES = altered_bytes(
    [f"Bearer {KEY}".encode(), b"Basic " + _BASIC, KEY.encode(), b"Bearer", b"bearer  ", b"Basic Og==", b"Digest x=1"],
    (b"", b" ", b"\t", b"\xff", b"\xc3\xa4", b"=", b":", b"Bearer ", b"Basic ", b"%FF", b"x" * 5000, b"\x00"),
).map(_as_sent)
_HEADERS = st.lists(
    st.tuples(st.sampled_from(["Authorization", "X-Broker-Key", "Content-Type", "x-broker-KEY"]), _VALUES), max_size=3
)


def _check_keys(given: list[tuple[str, str]]) -> None:
    """Require the caller whose key is sent, and for all else one of two errors that repeat nothing of it."""
    headers = CIMultiDict(given)
    try:
        caller = Callers({key_digest(KEY): _CALLER}).authenticate(headers)
    except (InvalidRequest, UnknownKey) as error:
        assert KEY not in str(error)
    else:
        assert caller is _CALLER
        assert any(KEY in value for _, value in given), "a caller without the key"


_FORMS = [
    b"grant_type=client_credentials&scope=grant:g1",
    f"grant_type=client_credentials&scope=grant%3Ag1&client_id=svc&client_secret={KEY}".encode(),
    b"grant_type=client_credentials&scope=grant:other",
]
_FORM = "application/x-www-form-urlencoded"
_REQUESTS = st.tuples(
    _HEADERS,
    st.just(_FORM) | altered_bytes([_FORM.encode(), b"application/json; charset=x"]).map(_as_sent) | odd_texts(50),
    altered_bytes(_FORMS, (b"&", b"=", b"%", b"%FF", b"%00", b"+", b"\xff", b";", b"a=" * 40, b"scope=", b"&" * 500)),
)


def _check_client(given: tuple[list[tuple[str, str]], str, bytes]) -> None:
    """Require the caller and its own grant, or an error of RFC 6749 section 5.2 that shows no key."""
    headers, kind, body = given
    fields = CIMultiDict([(name, value) for name, value in headers if name != "Content-Type"])
    fields["Content-Type"] = kind.encode(errors="surrogateescape" if kind.isascii() else "replace").decode("latin-1")
    callers: Any = Callers({key_digest(KEY): _CALLER})
    request = make_mocked_request("POST", "/oauth2/token")
    request._headers = CIMultiDictProxy(fields)  # as aiohttp parses them: its own mock takes no bytes beyond UTF-8
    try:
        caller, grant_id = authenticate_client(callers, request, body)
    except RequestRefused as error:
        assert error.status in {400, 401}
        assert re.fullmatch("[a-z_]+", error.code)
        assert KEY not in str(error)
    else:
        assert caller is _CALLER
        assert grant_id.startswith("g")


_REDIRECT = "https://broker.test/callback"
_PASTED = altered_bytes(
    [
        f"{_REDIRECT}?code=abc&state=xyz&iss=https%3A%2F%2Fas.test".encode(),
        f"{_REDIRECT}/?error=access_denied&amp;state=xyz".encode(),
        f" {_REDIRECT}?code=a+b/c==&\n state=x#fragment".encode(),
        b"https://other.test/cb?code=1",
    ],
    (b"&", b"=", b"?", b"#", b"%", b"%FF", b"[", b"]", b":", b"//", b"@", b"\xff", b"\t", b"x" * 17_000, b"&a" * 900),
).map(lambda raw: raw.decode(errors="surrogateescape"))


def _check_redirect(text: str) -> None:
    """Require each parameter once, or `InvalidRequest` in printable words."""
    for read in (partial(read_redirect, text, _REDIRECT, "https://other.test/cb"), partial(read_query, text)):
        try:
            found = read()
        except InvalidRequest as error:
            assert str(error).isprintable()
            assert len(str(error)) < 300
        else:
            assert all(isinstance(part, str) for pair in found.items() for part in pair)
            with_code(found, "auth_code")


TARGETS = (
    Target("keys", _HEADERS, _check_keys),
    Target("client-credentials", _REQUESTS, _check_client),
    Target("redirects", _PASTED, _check_redirect),
)
