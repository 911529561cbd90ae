"""The formats in which `token` prints a token response and `sink` writes it."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["text", "json", "header", "env", "k8s"]
FileFormat = Literal["text", "json", "header", "env", "k8s", "netrc"]


def formatted(answer: dict[str, Any], form: str, *, machine: str = "", login: str = "") -> str:
    """Return a token response in one of the formats, without an end of line.

    Args:
        answer: The token response of the broker.
        form: A `FileFormat`.
        machine: Host that the token is for; netrc alone has it.
        login: User name there; netrc alone has it.
    """
    match form:
        case "json":
            return json.dumps(answer)
        case "header":
            return f"Authorization: Bearer {answer['access_token']}"
        case "env":
            return f"ACCESS_TOKEN={shlex.quote(answer['access_token'])}\nACCESS_TOKEN_EXPIRES_AT={answer['expires_at']}"
        case "netrc":
            return f"machine {machine} login {login} password {answer['access_token']}"
        case "k8s":
            expires = datetime.fromtimestamp(answer["expires_at"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            status = {"token": answer["access_token"], "expirationTimestamp": expires}
            return json.dumps(
                {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
            )
        case _:
            return str(answer["access_token"])
