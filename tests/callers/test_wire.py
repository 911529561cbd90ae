"""What is written at every refresh: messages and records, read back as they were, whatever is in them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.model import Token
from broker.providers.http import Reply, Request
from broker.providers.members import Members
from broker.secret import Secret
from broker.token_answer import json_text, json_value

TEXT = st.text(st.characters(codec=None))


def objects(integers: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, Any]]:
    """Any JSON object with such integers."""
    plain = st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | TEXT
    values = st.recursive(plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
    return st.dictionaries(TEXT, values, max_size=5)


@given(objects(st.integers()))
@example({"extra": 10**300})
@example({"half of a pair": "\ud800", "\udfff": 1, "both": "\ud800\udc00"})
@example({"n": -(2**63) - 1, "m": 2**64})
def test_whatever_is_in_it_can_be_written(value: dict[str, Any]) -> None:
    """Every other reader of JSON gets it as the standard library would have written it."""
    assert json.loads(json_text(value)) == json.loads(json.dumps(value))


@given(objects(st.integers(-(2**63), 2**64 - 1)))
@example({"half of a pair": "\ud800", "\udfff": 1, "both": "\ud800\udc00"})
def test_whatever_was_written_can_be_read(value: dict[str, Any]) -> None:
    """No message is lost for an odd member in it, whichever of the two wrote it."""
    theirs = json.dumps(value).encode()
    assert json_value(json_text(value).encode()) == json_value(theirs) == json.loads(theirs)


HOLD_SECRETS = (
    Secret("secret"),
    Token("g", "p", 1, Secret("secret"), "Bearer", None, 1, 2, 2, 2),
    Request("POST", "https://as.test/?refresh_token=secret", {}),
    Reply(200, {}, None),
    Members({"refresh_token": "secret"}),
)


@pytest.mark.parametrize("holds_one", HOLD_SECRETS, ids=lambda value: type(value).__name__)
def test_what_holds_secrets_is_not_written(holds_one: object) -> None:
    """Neither writer takes a secret, or one of the broker's own values with what may stand in it."""
    with pytest.raises(TypeError):
        json_text({"held": holds_one})


def test_sealed_fields_in_odd_company() -> None:
    """Bytes are written as *default* says on both ways, beside what only the slower one can write too."""

    def cell(sealed: bytes) -> dict[str, str]:
        return {"b": base64.b64encode(sealed).decode()}

    for odd in ("plain", "\ud800"):
        written = json.loads(json_text({"fields": ["a", b"\0\xff", odd]}, cell))
        assert written == {"fields": ["a", {"b": "AP8="}, odd]}
