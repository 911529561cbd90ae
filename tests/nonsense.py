"""What anybody with the right to publish can put on our channels: no message, or one that nobody of ours wrote.

`%s` stands for the id of the store.
"""

from __future__ import annotations

NONSENSE = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"7",
    b"\xff\xfe",
    b'{"store": 1}',
    b'{"store": "x", "generation": 1}',
    b'{"store": "%s", "generation": 1e400}',
    b'{"store": "%s", "generation": NaN}',
    b'{"store": "%s", "generation": null}',
    b'{"store": "%s", "generation": "later"}',
    b'{"store": "%s", "generation": -1, "x": "\\ud800"}',
    b'{"store": "%s", "generation": ' + b"9" * 5000 + b"}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"store": "%s", "generation": 1, "x": ' + b"[" * 100_000,
)
