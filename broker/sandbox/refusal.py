"""How a server rejects a request: one exception, with the error codes of RFC 6749 §4.1.2.1 and §5.2."""

from __future__ import annotations

from typing import Final

ACCESS_DENIED: Final = "access_denied"
INVALID_CLIENT: Final = "invalid_client"
INVALID_GRANT: Final = "invalid_grant"
INVALID_REQUEST: Final = "invalid_request"
INVALID_SCOPE: Final = "invalid_scope"
UNSUPPORTED_GRANT_TYPE: Final = "unsupported_grant_type"
UNSUPPORTED_RESPONSE_TYPE: Final = "unsupported_response_type"


class Refused(Exception):
    """A request that is rejected with an error code."""

    def __init__(self, error: str, description: str) -> None:
        """Keep the *error* code and what a developer should read about it."""
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
