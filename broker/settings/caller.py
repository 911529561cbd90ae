"""The settings of one caller: its key, its rights, and its quotas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from broker.settings.values import Pattern, Section, matching

ProviderPattern = Annotated[
    str,
    matching(
        r"[A-Za-z0-9._*?-]{1,128}",
        'must be a pattern of provider names, such as "acme*" ("*" matches any text, "?" any character)',
    ),
]


class Caller(Section):
    """A service or person that asks the broker and is known by its key."""

    key_sha256: (
        Annotated[str, matching("[0-9a-f]{64}", "must be the 64 hex digits that `token-broker caller new NAME` prints")]
        | None
    ) = Field(default=None, description="SHA-256 of the caller's key in hex, as `token-broker caller new` prints it")
    key_file: Path | None = Field(default=None, description="file with the key itself, in place of key_sha256")
    read: list[Pattern] = Field(default=[], description="patterns of grant ids whose token the caller may read")
    refresh: list[Pattern] = Field(default=[], description="patterns of grant ids that the caller may have refreshed")
    view: list[Pattern] = Field(
        default=[], description="patterns of grant ids that the caller may list and describe, without changing them"
    )
    login: list[Pattern] = Field(
        default=[], description="patterns of grant ids that the caller may log in, without importing or deleting them"
    )
    admin: list[Pattern] = Field(
        default=[], description="patterns of grant ids that the caller may log in, import, list and delete"
    )
    providers: list[ProviderPattern] = Field(
        default=["*"], description="patterns of the providers to which all rights of the caller keep"
    )
    requests_per_second: int = Field(
        default=0, ge=0, le=1_000_000, description="requests a second of the caller at each broker; 0: no limit"
    )
    long_polls: int = Field(
        default=0, ge=0, le=1_000_000, description="requests of the caller that wait at each broker; 0: no limit"
    )
    grants: int = Field(
        default=0,
        ge=0,
        le=10_000_000,
        description="grants of its patterns beyond which the caller may import or log in no new one; exact at one "
        "broker, but N brokers at once may store N times what was free; 0: no limit",
    )

    @field_validator("key_file")
    @classmethod
    def _one_key(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if "key_sha256" not in info.data:  # that key has a finding already
            return file
        if file is None and info.data["key_sha256"] is None:
            raise ValueError(
                "is missing, and so is key_sha256: set one of them (`token-broker caller new NAME` prints the lines)"
            )
        if file is not None and info.data["key_sha256"] is not None:
            raise ValueError("conflicts with key_sha256: keep one of them")
        return file

    @field_validator("providers")
    @classmethod
    def _some_provider(cls, patterns: list[str]) -> list[str]:
        if not patterns:
            raise ValueError('must not be empty: name providers, or remove it for all of them (["*"])')
        return patterns
