"""What goes over the wire as JSON, by name: handlers answer with these, and `openapi` makes its schemas of them.

Members that end in `_at`, `_by` and `_until` are epoch seconds. More members may come with a later version.
"""

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from broker.model import GRANT_ID, State

GrantId = Annotated[str, Field(pattern=f"^{GRANT_ID.pattern}$", examples=["acme-cameras"])]
At = Annotated[int, Field(description="epoch seconds")]
Generation = Annotated[
    int, Field(description="a grant's version: grows with every new token; the ETag, without quotes")
]


class Error(TypedDict):
    """Why not, and what to do."""

    error: Annotated[str, Field(description="a code for programs")]
    error_description: Annotated[str, Field(description="what is wrong and what to do, for people")]
    login_url: NotRequired[Annotated[str, Field(description="where a person logs in again")]]


@with_config(ConfigDict(extra="allow"))
class TokenAnswer(TypedDict):
    """A token answer of RFC 6749 §5.1, our own members, and every other member that the provider sent."""

    access_token: str
    token_type: str
    expires_in: Annotated[int, Field(ge=0, description="seconds, counted from this answer")]
    expires_at: At
    scope: NotRequired[str]
    grant_id: GrantId
    generation: Generation
    provider: str


@with_config(ConfigDict(extra="allow"))
class StandardTokenAnswer(TokenAnswer):
    """The same for stock OAuth clients: `scope` as it was asked for, and an end some seconds before the real one."""

    provider_scope: NotRequired[str]


class ClientCredentials(TypedDict):
    """A token request of RFC 6749 §4.4.2."""

    grant_type: Literal["client_credentials"]
    scope: Annotated[str, Field(pattern=f"^grant:{GRANT_ID.pattern}$", examples=["grant:acme-cameras"])]
    client_id: NotRequired[Annotated[str, Field(description="the caller's name, where Basic does not say it")]]
    client_secret: NotRequired[Annotated[str, Field(description="the caller's key, where Basic does not say it")]]


class Last(TypedDict):
    """What the last token request of a grant came to."""

    outcome: str
    detail: str | None
    at: At


class Grant(TypedDict):
    """A grant, secrets aside."""

    grant_id: GrantId
    provider: str
    state: State
    reason: Annotated[str | None, Field(description="why it is parked")]
    generation: Generation
    issued_at: At | None
    expires_at: At | None
    refresh_at: At
    granted_at: At
    reauthorize_by: At | None
    reauthorize_soon: Annotated[bool, Field(description="a person must log in again before long")]
    scope: str | None
    failures: Annotated[int, Field(ge=0, description="failed token requests in a row")]
    unreadable: Annotated[bool, Field(description="no sealing key opens its token")]
    last: Last | None


class Grants(TypedDict):
    """A page of the list."""

    grants: list[Grant]
    next: Annotated[str | None, Field(description="the `cursor` of the next page; null: this is the last")]


class NewGrant(TypedDict):
    """A refresh token to take over."""

    provider: Annotated[str, Field(description="one of those in the settings", examples=["cameramanager"])]
    refresh_token: Annotated[str, Field(min_length=1, examples=["tGzv3JOkF0XG5Qx2TlKWIA"])]
    scope: NotRequired[str | None]


class ImportLine(NewGrant):
    """One line of a bulk import."""

    grant_id: GrantId


class Imported(TypedDict):
    """What an import did."""

    grant_id: GrantId
    provider: str
    status: Literal["created", "replaced", "unchanged"]


class ImportOutcome(TypedDict):
    """What became of one line of a bulk import."""

    line: Annotated[int, Field(ge=1)]
    grant_id: NotRequired[GrantId]
    status: Literal["created", "replaced", "unchanged", "refused"]
    error: NotRequired[str]
    error_description: NotRequired[str]
    holder: NotRequired[Annotated[str, Field(description="the grant that holds this refresh token")]]


class LoggedOut(TypedDict):
    """What a log out did."""

    grant_id: GrantId
    forgotten: Literal[True]
    revoked: Annotated[bool, Field(description="whether the provider did its part")]
    detail: str


class Retried(TypedDict):
    """A grant that is asked for once more."""

    grant_id: GrantId
    state: Literal["due", "leased"]


class Attempt(TypedDict):
    """One token request."""

    at: At
    replica: Annotated[str, Field(description="the broker's host and process")]
    outcome: str
    error: Annotated[str | None, Field(description="the provider's")]
    error_description: Annotated[str | None, Field(description="the provider's")]
    decided: str
    next_at: At | None


class UnderWay(TypedDict):
    """A token request that is not over."""

    at: At
    replica: str


class Attempts(TypedDict):
    """What was tried for a grant, and what is planned."""

    grant_id: GrantId
    now: At
    attempts: Annotated[list[Attempt], Field(description="oldest first, ten at most")]
    under_way: UnderWay | None
    unknown_at: Annotated[int | None, Field(description="when a request went out whose answer nobody saw")]
    next_at: At | None
    fenced_until: Annotated[int | None, Field(description="nobody refreshes until then: Redis was restarted")]
    forgotten_at: At | None


class Minute(TypedDict):
    """The token requests of one minute."""

    at: At
    refreshed: int
    failed: int


class Provider(TypedDict):
    """A provider's health."""

    provider: str
    kind: Annotated[str | None, Field(description="null: no longer in the settings")]
    suspended: Annotated[str | None, Field(description="what the provider refuses us with")]
    suspended_at: At | None
    not_before: At | None
    failures: Annotated[int, Field(description="in a row, over all grants")]
    reuse_grace: Annotated[
        float | Literal["forever"] | None,
        Field(description="seconds for which a spent refresh token may be presented again"),
    ]
    detail: str | None
    grants: dict[State, int]
    history: Annotated[list[Minute], Field(description="the last 60 minutes, the one under way last")]


class Providers(TypedDict):
    """All providers, those of the settings and those that only hold grants still."""

    providers: list[Provider]


class ProviderRetried(TypedDict):
    """A provider that is asked again."""

    provider: str
    grants_taken_up: int


class WayTested(TypedDict):
    """What came of a test notice by one way."""

    way: str
    told: bool
    detail: str


class NoticesTested(TypedDict):
    """What came of a test notice."""

    ways: list[WayTested]


class NewLogin(TypedDict):
    """Where to log in."""

    provider: Annotated[str, Field(description="one of those in the settings", examples=["cameramanager"])]


class LoginStarted(TypedDict):
    """A login that waits for a person."""

    grant_id: GrantId
    login_url: Annotated[str, Field(description="opens until the login is completed or has expired")]
    authorization_url: Annotated[str, Field(description="for a browser elsewhere: see `login/complete`")]
    state: str
    ticket: str
    expires_at: At


class LoginStatus(TypedDict):
    """How far a login is."""

    grant_id: GrantId
    provider: str
    status: Literal["pending", "working", "completed", "failed"]
    error: NotRequired[str]
    error_description: NotRequired[str]


class Redirected(TypedDict):
    """Where a browser ended, that logged in by an `authorization_url`."""

    redirected_to: Annotated[str, Field(description="the whole URL")]
    state: NotRequired[Annotated[str | None, Field(description="of the login, where the URL does not carry it")]]


class LoggedIn(TypedDict):
    """A login that was completed."""

    grant_id: GrantId
    provider: str
    scope: str | None
    expires_in: Annotated[int, Field(description="seconds, of the first access token")]


class Resume(TypedDict):
    """Where to go on."""

    cursor: NotRequired[Annotated[str | None, Field(description="`next` of the answer before")]]


_Pass = TypedDict("_Pass", {"pass": int})  # a word of Python's


class Resealed(_Pass):
    """How far resealing is; when it is done, what that means for the old keys."""

    grants: int
    grants_resealed: int
    logins_resealed: int
    unreadable: Annotated[list[str], Field(description="grants that no key in the settings opens")]
    next: Annotated[str | None, Field(description="the `cursor` to go on with; null: done")]
    old_keys_may_go: NotRequired[bool]
    detail: NotRequired[str]


class Key(TypedDict):
    """Who signs in."""

    key: Annotated[str, Field(min_length=1, description="of a caller with the right `admin`")]


class Session(TypedDict):
    """Who is signed in at the status page; `caller` is null for nobody."""

    caller: str | None
    admin_of_all: NotRequired[bool]
    ends_at: NotRequired[At]


class Check(TypedDict):
    """One thing that can fail."""

    status: Literal["ok", "degraded"]
    since: At
    detail: Annotated[str, Field(description="how it is and what to do")]


class Health(TypedDict):
    """All that can fail, by name."""

    status: Literal["ok", "degraded", "failed", "starting", "stopping"]
    checks: dict[str, Check]


class GrantReady(TypedDict):
    """A live token is there."""

    status: Literal["ok"]
    generation: Generation
    expires_at: At


class GrantNotReady(Error):
    """No live token is there."""

    status: Literal["failed"]
