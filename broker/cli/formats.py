"""A token answer as whoever reads it wants it."""

from __future__ import annotations

import json
import shlex
from typing import Any, Literal

Form = Literal["text", "json", "header", "env", "k8s"]
FileForm = Literal["text", "json", "header", "env", "k8s", "netrc"]


def formatted(answer: dict[str, Any], form: str, *, machine: str = "", login: str = "") -> str:
    """A token answer in one of the forms, without a line's end. *machine* and *login* are netrc's."""
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
            from datetime import UTC, datetime

            expires = datetime.fromtimestamp(answer["expires_at"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            status = {"token": answer["access_token"], "expirationTimestamp": expires}
            return json.dumps(
                {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
            )
        case _:
            return str(answer["access_token"])
