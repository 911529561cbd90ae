"""Taking grants in and letting them go: register and forget, and telling a store again what it may have lost."""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from broker.errors import StoreUnavailable
from broker.secret import CannotOpen
from broker.store import scripts
from broker.store.attempts import entry, replica_name
from broker.store.grants import TOKEN_FIELDS
from broker.store.schedule import commit_fields
from broker.wire import json_text
from broker.wire import message as notice

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.model import Commit, State, Token
    from broker.secret import Secret
    from broker.store.clock import Clock
    from broker.store.connections import Argument
    from broker.store.grants import Grants
    from broker.store.primary import Primary

_TRIES = 8
_STATES: tuple[State, ...] = ("due", "leased", "parked")


@dataclass(frozen=True, slots=True)
class Registered:
    """What came of a register; `holder` is the grant that holds the same refresh token (held).

    *outdated*: this refresh token was imported for this grant before, and another since.
    """

    status: Literal["created", "replaced", "unchanged", "outdated", "leased", "held"]
    generation: int
    holder: str | None = None


class Held(NamedTuple):
    """What stands under a grant's id. *granted_at* is epoch ms."""

    provider: str
    generation: int
    granted_at: int


Restored = Literal["restored", "known", "replaced", "forgotten", "forgot", "another store"]


class Registry:
    """Which grants there are. Every method raises `StoreUnavailable` when Redis cannot say."""

    def __init__(self, primary: Primary, keys: scripts.Keys, grants: Grants, clock: Clock) -> None:
        self._primary = primary
        self._keys = keys
        self._grants = grants
        self._clock = clock
        self.store_id = ""
        """The id of the store, from `Store.identify` on: it stands in every record and message."""

    def _sets(self, provider: str, *, prefix: str = "") -> dict[str, str]:
        return {f"{prefix}{state}": self._keys.ids(state, provider) for state in _STATES}

    async def generation(self, grant_id: str) -> Held | None:
        """Provider and generation a grant has right now, and when a person granted it."""
        provider, *times = await self._primary.call(
            "HMGET", self._keys.grant(grant_id), "provider", "generation", "granted_at"
        )
        return None if provider is None else Held(provider.decode(), *(int(at or 0) for at in times))

    async def import_(
        self, grant_id: str, provider: str, refresh_token: Secret, scope: str | None, *, due_at: int
    ) -> Registered:
        """Take in a refresh token that somebody already holds: a new generation without a token, due at *due_at*."""
        for _ in range(_TRIES):
            held = await self._grants.get(grant_id)
            seen = (held.provider, held.generation) if held else None
            generation = max(self._clock(), (seen[1] if seen else 0) + 1)
            fields: list[Argument] = ["generation", generation, "granted_at", self._clock()]
            if scope is not None:
                fields += ["scope", scope]
            registered = await self._register(
                grant_id, provider, generation, refresh_token, fields,
                seen=seen, script=scripts.IMPORT, mode="import", due_at=due_at, message="",
                keeps_token=held is not None and held.provider == provider and held.token is not None,
            )  # fmt: skip
            if registered is not None:
                return registered
        raise StoreUnavailable(f"grant {grant_id} keeps changing: try again")

    async def log_in(
        self, token: Token, refresh_token: Secret,
        *, reauthorize_by: int | None, seen: Held | None, message: str,
    ) -> Registered | None:  # fmt: skip
        """Take in what a login brought; None when the grant changed since *seen*: come with a newer generation."""
        fields = _login_fields(self._grants, token, reauthorize_by)
        return await self._register(
            token.grant_id, token.provider, token.generation, refresh_token, fields,
            seen=(seen.provider, seen.generation) if seen else None, script=scripts.REGISTER, mode="login",
            due_at=token.refresh_at, message=message,
        )  # fmt: skip

    async def _register(
        self, grant_id: str, provider: str, generation: int, refresh_token: Secret, fields: list[Argument],
        *, seen: tuple[str, int] | None, script: scripts.Script, mode: str, due_at: int, message: str,
        keeps_token: bool = False,
    ) -> Registered | None:  # fmt: skip
        was_provider, was_generation = seen or ("", "")
        keys = script.keys(
            grant=self._keys.grant(grant_id),
            due=self._keys.ids("due", provider),
            **self._sets(was_provider or provider, prefix="was_"),
            held_by=self._keys.held,
            meta=self._keys.meta,
        )
        # An import at the same provider keeps the access token: it lives, and a reader may go on with it.
        drop: Iterable[str] = () if keeps_token else (*TOKEN_FIELDS, "reauthorize_by")
        args = script.args(
            ["refresh_at", due_at, *self._grants.sealed_refresh_token(grant_id, refresh_token), *fields],
            grant_id=grant_id,
            mode=mode,
            was_provider=was_provider,
            was_generation=was_generation,
            due_at=due_at,
            fingerprint=refresh_token.fingerprint(),
            channel=self._keys.channel(grant_id),
            message=message,
            dropped_fields=" ".join(drop),
            provider=provider,
        )
        status, detail = await self._primary.run(script, keys, args)
        if status == b"moved":
            return None
        return Registered(status.decode(), generation, detail.decode() or None)

    async def forget(
        self, grant_id: str, message: str, *, up_to: int | None = None, forgotten_at: int | None = None
    ) -> bool:
        """Remove a grant (unless it is newer than generation *up_to*); False when nothing was removed.

        *forgotten_at* (epoch ms): it is said again, by a journal; whatever came since stays.
        """
        for _ in range(_TRIES):
            raw = await self._primary.call("HGET", self._keys.grant(grant_id), "provider")
            provider = raw.decode() if raw else ""
            keys = scripts.FORGET.keys(
                grant=self._keys.grant(grant_id),
                **self._sets(provider),
                held_by=self._keys.held,
                forgotten=self._keys.forgotten,
                attempts=self._keys.attempts_of(grant_id),
            )
            args = scripts.FORGET.args(
                grant_id=grant_id,
                provider=provider,
                channel=self._keys.channel(grant_id),
                message=message,
                up_to="" if up_to is None else up_to,
                forgotten_at="" if forgotten_at is None else forgotten_at,
            )
            reply = await self._primary.run(scripts.FORGET, keys, args)
            if reply != b"moved":
                return bool(reply == b"forgotten")
        raise StoreUnavailable(f"grant {grant_id} keeps moving between providers: try again")

    def commit_record(self, commit: Commit, sealed: Sequence[Argument] = ()) -> str:
        """A record of an answer, for the journal: everything `restore` needs to write its grant anew.

        *sealed*: its fields, where `commit_fields` made them already.
        """
        claim = commit.claim
        fields: list[Argument] = [*(sealed or commit_fields(self._grants, commit))]
        if commit.refresh_token is None:
            fields += self._grants.sealed_refresh_token(claim.grant_id, claim.refresh_token)
        generation = commit.token.generation if commit.token else claim.generation
        return _record(
            self.store_id, claim.grant_id, claim.provider, claim.generation, generation, claim.granted_at,
            commit.answered_at, commit.refresh_at, claim.attempt, fields,
        )  # fmt: skip

    def login_record(self, token: Token, refresh_token: Secret, *, reauthorize_by: int | None, followed: int) -> str:
        """A record of what a login brought, likewise; it follows whatever there is up to generation *followed*."""
        fields = [
            *self._grants.sealed_refresh_token(token.grant_id, refresh_token),
            *_login_fields(self._grants, token, reauthorize_by),
        ]
        return _record(
            self.store_id, token.grant_id, token.provider, followed, token.generation, token.issued_at,
            token.issued_at, token.refresh_at, "login", fields,
        )  # fmt: skip

    def forget_record(self, grant_id: str, generation: int) -> str:
        """A record of a grant that was forgotten just now, at *generation*."""
        return json.dumps({
            "store": self.store_id, "forget": grant_id, "generation": generation, "forgotten_at": self._clock()
        })  # fmt: skip

    def reseal_record(self, record: str) -> str:
        """A record with what is sealed in it sealed with the first key; what no key of ours opens stays as it is."""
        told: dict[str, Any] = json.loads(record)
        names = told.get("fields", [])[::2]
        for name, cell in zip(names, told.get("fields", [])[1::2], strict=True):
            if isinstance(cell, dict):
                with contextlib.suppress(CannotOpen):
                    sealed = self._grants.resealed(told["grant_id"], name, base64.b64decode(cell["b"]))
                    cell["b"] = base64.b64encode(sealed).decode()
        return json.dumps(told)

    async def restore(self, record: str) -> Restored:
        """Tell the store what a record says; it takes only what is newer than what it knows."""
        told: dict[str, Any] = json.loads(record)
        if told["store"] != self.store_id:
            return "another store"
        if "forget" in told:
            gone = notice("revoked", self.store_id, told["forget"], "", told["generation"])
            at = told.get("forgotten_at", told["generation"])
            forgot = await self.forget(told["forget"], gone, up_to=told["generation"], forgotten_at=at)
            return "forgot" if forgot else "known"
        return await self._restore(told)

    async def _restore(self, told: dict[str, Any]) -> Restored:
        grant_id, provider, generation = told["grant_id"], told["provider"], told["generation"]
        fields = [base64.b64decode(cell["b"]) if isinstance(cell, dict) else cell for cell in told["fields"]]
        changed = notice("refreshed", self.store_id, grant_id, provider, generation)
        for _ in range(_TRIES):
            raw = await self._primary.call("HGET", self._keys.grant(grant_id), "provider")
            was_provider = raw.decode() if raw else ""
            keys = scripts.RESTORE.keys(
                grant=self._keys.grant(grant_id),
                due=self._keys.ids("due", provider),
                **self._sets(was_provider or provider, prefix="was_"),
                forgotten=self._keys.forgotten,
                attempts=self._keys.attempts_of(grant_id),
            )
            args = scripts.RESTORE.args(
                ["provider", provider, "generation", generation, *fields],
                grant_id=grant_id,
                was_provider=was_provider,
                generation=generation,
                answered_at=told["answered_at"],
                refresh_at=told["refresh_at"],
                attempt=told["attempt"],
                channel=self._keys.channel(grant_id),
                message=changed,
                followed=told["followed"],
                granted_at=told["granted_at"],
                record=entry(_came_of(told), told["answered_at"], told["refresh_at"], replica_name()),
            )
            reply = (await self._primary.run(scripts.RESTORE, keys, args)).decode()
            if reply != "moved":
                return reply  # type: ignore[no-any-return]
        raise StoreUnavailable(f"grant {grant_id} keeps moving between providers: try again")


def _came_of(told: dict[str, Any]) -> str:
    """The outcome a record is about; a login is none of a token request."""
    fields = told["fields"]
    return str(dict(zip(fields[::2], fields[1::2], strict=True)).get("last_outcome", "logged_in"))


def _login_fields(grants: Grants, token: Token, reauthorize_by: int | None) -> list[Argument]:
    fields = [*grants.token_fields(token), "granted_at", token.issued_at, "answered_at", token.issued_at]
    return fields if reauthorize_by is None else [*fields, "reauthorize_by", reauthorize_by]


def _record(
    store_id: str, grant_id: str, provider: str, followed: int, generation: int, granted_at: int,
    answered_at: int, refresh_at: int, attempt: str, fields: Sequence[Argument],
) -> str:  # fmt: skip
    return json_text({
        "store": store_id, "grant_id": grant_id, "provider": provider, "followed": followed, "generation": generation,
        "granted_at": granted_at, "answered_at": answered_at, "refresh_at": refresh_at, "attempt": attempt,
        "fields": fields,
    }, _cell)  # fmt: skip


def _cell(sealed: bytes) -> dict[str, str]:
    """A sealed field, as a record has it."""
    return {"b": base64.b64encode(sealed).decode()}
