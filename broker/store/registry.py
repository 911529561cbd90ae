"""Taking grants in and letting them go: register and forget, and telling a store again what it may have lost."""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from broker.errors import StoreUnavailable
from broker.model import slotted
from broker.secret import CannotOpen
from broker.store import scripts
from broker.store.attempts import entry, replica_name
from broker.store.grants import TOKEN_FIELDS
from broker.store.schedule import PreparedCommit, commit_fields
from broker.token_answer import json_text, message_text
from broker.token_answer import message as notice

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.model import Commit, Token
    from broker.secret import Secret
    from broker.store.clock import Clock
    from broker.store.grants import Grants
    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary
    from broker.token_answer import Message

_TRIES = 8


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


@slotted
class PreparedLogin:
    """What a login brought, as it will be stored: prepared once (`Registry.prepare_login`), as an answer is."""

    token: Token
    fingerprint: str
    """Of the refresh token."""
    fields: list[Argument]
    record: str


Restored = Literal["restored", "known", "replaced", "forgotten", "forgot", "another store"]


class Registry:
    """Which grants there are. Every method raises `StoreUnavailable` when Redis cannot say."""

    def __init__(self, primary: Primary, keys: scripts.Keys, grants: Grants, clock: Clock) -> None:
        self._primary = primary
        self._keys = keys
        self._grants = grants
        self._clock = clock

    def _text(self, message: Message) -> str:
        return message_text(message, self._primary.store_id)

    def _sets(self, provider: str) -> list[str]:
        return [self._keys.ids(state, provider) for state in ("due", "leased", "parked")]

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
            fields += self._grants.sealed_refresh_token(grant_id, refresh_token)
            registered = await self._register(
                grant_id,
                provider,
                generation,
                fields,
                fingerprint=refresh_token.fingerprint(),
                seen=seen,
                script=scripts.IMPORT,
                mode="import",
                due_at=due_at,
                keeps_token=held is not None and held.provider == provider and held.token is not None,
            )
            if registered is not None:
                return registered
        raise StoreUnavailable(f"grant {grant_id} keeps changing: try again")

    async def log_in(self, login: PreparedLogin, *, seen: Held | None, message: Message) -> Registered | None:
        """Store what a login brought.

        Returns:
            None when the grant changed since *seen*: prepare it again, with a newer generation.
        """
        token = login.token
        return await self._register(
            token.grant_id,
            token.provider,
            token.generation,
            login.fields,
            fingerprint=login.fingerprint,
            seen=(seen.provider, seen.generation) if seen else None,
            script=scripts.REGISTER,
            mode="login",
            due_at=token.refresh_at,
            message=self._text(message),
        )

    async def _register(
        self,
        grant_id: str,
        provider: str,
        generation: int,
        fields: list[Argument],
        *,
        fingerprint: str,
        seen: tuple[str, int] | None,
        script: scripts.Script,
        mode: str,
        due_at: int,
        message: str = "",
        keeps_token: bool = False,
    ) -> Registered | None:
        was_provider, was_generation = seen or ("", "")
        sets = self._sets(was_provider or provider)
        keys = [self._keys.grant(grant_id), self._keys.ids("due", provider), *sets, self._keys.held, self._keys.meta]
        # An import at the same provider keeps the access token: it lives, and a reader may go on with it.
        drop: Iterable[str] = () if keeps_token else (*TOKEN_FIELDS, "reauthorize_by")
        args: list[Argument] = [
            grant_id, mode, was_provider, was_generation, due_at, fingerprint,
            self._keys.channel(grant_id), message, " ".join(drop), provider,
            "refresh_at", due_at, *fields,
        ]  # fmt: skip
        status, detail = await self._primary.run(script, keys, args)
        if status == b"moved":
            return None
        return Registered(status.decode(), generation, detail.decode() or None)

    async def forget(
        self, grant_id: str, message: Message, *, up_to: int | None = None, forgotten_at: int | None = None
    ) -> bool:
        """Remove a grant (unless it is newer than generation *up_to*); False when nothing was removed.

        *forgotten_at* (epoch ms): it is said again, by a journal; whatever came since stays.
        """
        for _ in range(_TRIES):
            raw = await self._primary.call("HGET", self._keys.grant(grant_id), "provider")
            provider = raw.decode() if raw else ""
            keys = [
                self._keys.grant(grant_id), *self._sets(provider), self._keys.held, self._keys.forgotten,
                self._keys.attempts_of(grant_id),
            ]  # fmt: skip
            args: list[Argument] = [
                grant_id, provider, self._keys.channel(grant_id), self._text(message), "" if up_to is None else up_to,
                "" if forgotten_at is None else forgotten_at,
            ]  # fmt: skip
            reply = await self._primary.run(scripts.FORGET, keys, args)
            if reply != b"moved":
                return bool(reply == b"forgotten")
        raise StoreUnavailable(f"grant {grant_id} keeps moving between providers: try again")

    def prepare(self, commit: Commit) -> PreparedCommit:
        """Prepare an answer for the journal and for `Schedule.commit`: seal its tokens, once for both."""
        claim, fields = commit.claim, commit_fields(self._grants, commit)
        recorded = fields
        if commit.refresh_token is None:  # Redis has it; a record must do without
            recorded = fields + self._grants.sealed_refresh_token(claim.grant_id, claim.refresh_token)
        record = {
            "store": self._primary.store_id,
            "grant_id": claim.grant_id,
            "provider": claim.provider,
            "followed": claim.generation,
            "generation": commit.token.generation if commit.token else claim.generation,
            "granted_at": claim.granted_at,
            "answered_at": commit.answered_at,
            "refresh_at": commit.refresh_at,
            "attempt": claim.attempt,
            "fields": recorded,
        }
        return PreparedCommit(commit, fields, json_text(record, _cell))

    def prepare_login(
        self, token: Token, refresh_token: Secret, *, reauthorize_by: int | None, followed: int
    ) -> PreparedLogin:
        """Prepare what a login brought, likewise; its record replaces whatever there is up to *followed*."""
        fields = [
            *self._grants.sealed_refresh_token(token.grant_id, refresh_token),
            *_login_fields(self._grants, token, reauthorize_by),
        ]
        record = {
            "store": self._primary.store_id,
            "grant_id": token.grant_id,
            "provider": token.provider,
            "followed": followed,
            "generation": token.generation,
            "granted_at": token.issued_at,
            "answered_at": token.issued_at,
            "refresh_at": token.refresh_at,
            "attempt": "login",
            "fields": fields,
        }
        return PreparedLogin(token, refresh_token.fingerprint(), fields, json_text(record, _cell))

    def forget_record(self, grant_id: str, generation: int) -> str:
        """Return a record of a grant that was forgotten just now, at *generation*."""
        return json.dumps(
            {
                "store": self._primary.store_id,
                "forget": grant_id,
                "generation": generation,
                "forgotten_at": self._clock(),
            }
        )

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
        if told["store"] != self._primary.store_id:
            return "another store"
        if "forget" in told:
            gone = notice("revoked", told["forget"], "", told["generation"])
            at = told.get("forgotten_at", told["generation"])
            forgot = await self.forget(told["forget"], gone, up_to=told["generation"], forgotten_at=at)
            return "forgot" if forgot else "known"
        return await self._restore(told)

    async def _restore(self, told: dict[str, Any]) -> Restored:
        grant_id, provider, generation = told["grant_id"], told["provider"], told["generation"]
        fields = [base64.b64decode(cell["b"]) if isinstance(cell, dict) else cell for cell in told["fields"]]
        changed = self._text(notice("refreshed", grant_id, provider, generation))
        for _ in range(_TRIES):
            raw = await self._primary.call("HGET", self._keys.grant(grant_id), "provider")
            was_provider = raw.decode() if raw else ""
            keys = [
                self._keys.grant(grant_id), self._keys.ids("due", provider), *self._sets(was_provider or provider),
                self._keys.forgotten, self._keys.attempts_of(grant_id),
            ]  # fmt: skip
            args: list[Argument] = [
                grant_id, was_provider, generation, told["answered_at"], told["refresh_at"], told["attempt"],
                self._keys.channel(grant_id), changed, told["followed"], told["granted_at"],
                entry(_came_of(told), told["answered_at"], told["refresh_at"], replica_name()),
                "provider", provider, "generation", generation, *fields,
            ]  # fmt: skip
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


def _cell(sealed: bytes) -> dict[str, str]:
    """A sealed field, as a record has it."""
    return {"b": base64.b64encode(sealed).decode()}
