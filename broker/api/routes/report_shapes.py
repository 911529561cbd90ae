"""The JSON bodies of what people and supervisors read: verdict, explanation and checks; likewise for `openapi`."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from broker.api.routes.shapes import Account, At, Attempt, GrantId
from broker.report.cause import Kind, Status


class Cause(TypedDict):
    """One thing that is wrong; what follows from it is not listed."""

    kind: Kind
    provider: str | None
    sentence: Annotated[str, Field(description="what is wrong, and why")]
    since: At | None
    grants: Annotated[int | None, Field(description="how many grants it concerns")]
    unserved: Annotated[int | None, Field(description="how many of them have no valid token")]
    next: Annotated[str | None, Field(description="what happens next by itself")]
    next_at: At | None
    action: Annotated[str | None, Field(description="what a person must do")]
    examples: Annotated[list[GrantId], Field(description="five grants at most")]


class ProviderCounts(TypedDict):
    """The grants of a provider."""

    grants: int
    unserved: Annotated[int, Field(description="those that have no valid token")]


class Memory(TypedDict):
    """The valid tokens in the broker's memory."""

    tokens: int
    first_end_at: At | None
    last_end_at: At | None


class Verdict(TypedDict):
    """How the broker is: null stands for what is not known, since Redis does not answer."""

    status: Annotated[
        Status,
        Field(description="recovering: nobody needs to act; login_needed: somebody must log in; failing: see `causes`"),
    ]
    summary: Annotated[str, Field(description="one sentence: what is wrong, and what to do")]
    at: At
    grants: int | None
    alive: int | None
    unserved: Annotated[int | None, Field(description="grants that have no valid token")]
    next_end_at: Annotated[At | None, Field(description="when the next token of a healthy grant ends")]
    causes: Annotated[list[Cause], Field(description="most urgent first")]
    providers: dict[str, ProviderCounts]
    memory: Memory


class ExplainedAttempt(Attempt):
    """One token request, in words."""

    meaning: Annotated[str, Field(description="what it came to")]
    decision: Annotated[str, Field(description="what the broker decided after it, and for when")]


class Explanation(TypedDict):
    """Why a grant is in its state, what happens next, and what a person must do."""

    grant_id: GrantId
    now: At
    state_words: Annotated[str | None, Field(description="null: not known, since Redis does not answer")]
    why: str
    next: str
    next_at: At | None
    person: Annotated[str, Field(description="what a person must do, or can do")]
    command: Annotated[str | None, Field(description="the command that does it")]
    exit_code: Annotated[Literal[0, 1, 75, 77], Field(description="of `token-broker explain`")]
    account: Account | None
    owner: str | None
    label: str | None
    attempts: Annotated[list[ExplainedAttempt], Field(description="oldest first, ten at most")]


class Day(TypedDict):
    """The last day of a provider, by quarters of an hour: three lists of 96 numbers, the quarter under way last."""

    provider: str
    refreshed: Annotated[list[int], Field(description="token requests that brought what they were for")]
    failed: Annotated[list[int], Field(description="token requests that did not")]
    unserved: Annotated[list[int], Field(description="minutes in which some grant had no valid token, 15 at most")]


class Days(TypedDict):
    """The last day of providers."""

    begins_at: Annotated[At, Field(description="the beginning of the first quarter")]
    providers: list[Day]


class Check(TypedDict):
    """One thing that can fail."""

    status: Annotated[
        Literal["ok", "degraded", "unknown"],
        Field(description="unknown: a provider that has answered no request yet"),
    ]
    since: At
    detail: Annotated[str, Field(description="what is wrong and what to do")]


class PublicVerdict(TypedDict):
    """The verdict without ids of grants: the route needs no key."""

    status: Status
    summary: str


class Health(TypedDict):
    """All checks, by name."""

    status: Literal["ok", "degraded", "failed", "starting", "stopping"]
    checks: dict[str, Check]
    verdict: NotRequired[PublicVerdict]
