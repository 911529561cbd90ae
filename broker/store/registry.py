"""Store grants and forget them; write what happened as records for a journal, and restore a store from those.

Knows nothing of the schedule beyond the names of its sets, nor of how a journal keeps its records.
"""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from broker.errors import StoreUnavailable
from broker.model import slotted
from broker.model.account import NOBODY, Ownership
from broker.secret import CannotOpen
from broker.store import scripts
from broker.store.attempts import entry, replica_name
from broker.store.damaged import numbers
from broker.store.limits import ending_fields
from broker.store.placement import places, provider_of
from broker.store.prepared import PreparedCommit, commit_fields
from broker.store.register import Import, Registered, import_call, login_call
from broker.token_answer import json_text, message_text
from broker.token_answer import message as notice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.model import Commit, Ending, Grant, Token
    from broker.secret import Secret
    from broker.store.clock import Clock
    from broker.store.grants import Grants
    from broker.store.lost import Position
    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary
    from broker.token_answer import Message

_TRIES = 8


class Held(NamedTuple):
    """What the store holds under a grant's id; `granted_at` is epoch ms."""

    provider: str
    generation: int
    granted_at: int


@slotted
class PreparedLogin:
    """What a login brought, as it will be stored: prepared once (`Registry.prepare_login`)."""

    token: Token
    fingerprint: str
    """Of the refresh token."""
    fields: list[Argument]
    """Of the grant's hash, each with its value; tokens are sealed."""
    record: str
    """For the journal: all that `Registry.restore` needs."""


Restored = Literal["restored", "known", "replaced", "forgotten", "forgot", "another store"]


class Registry:
    """Which grants there are. Every method raises `StoreUnavailable` when Redis does not answer."""

    def __init__(self, primary: Primary, keys: scripts.Keys, grants: Grants, clock: Clock) -> None:
        self._primary = primary
        self._keys = keys
        self._grants = grants
        self._clock = clock

    def _text(self, message: Message) -> str:
        return message_text(message, self._primary.store_id)

    async def generation(self, grant_id: str) -> Held | None:
        """Return the provider and generation that a grant has right now, and when a person granted it."""
        fields = ("provider", "generation", "granted_at")
        (row,) = await self._primary.pipeline_each([("HMGET", self._keys.grant(grant_id), *fields)])
        if isinstance(row, Exception) or row[0] is None or not row[0].isascii():
            return None  # a damaged grant has nothing that could be seen, and a login replaces it
        return Held(row[0].decode(), *(at or 0 for at in numbers(row[1:])))

    async def import_(
        self,
        grant_id: str,
        provider: str,
        refresh_token: Secret,
        scope: str | None,
        *,
        due_at: int,
        ownership: Ownership = NOBODY,
    ) -> Registered:
        """Store a refresh token that somebody holds already: a new generation without an access token.

        Args:
            grant_id: Id of the grant, new or not.
            provider: Name of the provider that issued the token.
            refresh_token: The token.
            scope: Its scope, if that is known.
            due_at: When the grant is due, epoch ms.
            ownership: Owner and label, where they are given.
        """
        (registered,) = await self.import_many(
            [Import(grant_id, provider, refresh_token, scope, due_at=due_at, ownership=ownership)]
        )
        if isinstance(registered, StoreUnavailable):
            raise registered
        return registered

    async def import_many(self, imports: Sequence[Import]) -> list[Registered | StoreUnavailable]:
        """Store refresh tokens as `import_` does, in this order: one trip reads the grants, and one writes them.

        Args:
            imports: No two of one grant.

        Returns:
            What became of each; an error where Redis refused that one alone.
        """
        done: dict[str, Registered | StoreUnavailable] = {}
        left, offset = list(imports), self._clock.offset
        for _ in range(_TRIES):
            held, unreadable = await self._read_each([each.grant_id for each in left])
            done |= unreadable
            left = [each for each in left if each.grant_id in held]
            if offset > self._clock.offset:  # the clock was set back meanwhile
                left = [replace(each, due_at=each.due_at - offset + self._clock.offset) for each in left]
            offset = self._clock.offset
            calls = [import_call(self._keys, self._grants, each, held[each.grant_id], self._clock()) for each in left]
            replies = await self._primary.run_each(scripts.IMPORT, [(call.keys, call.args) for call in calls])
            for each, call, reply in zip(left, calls, replies, strict=True):
                registered = reply if isinstance(reply, StoreUnavailable) else call.parse(reply)
                if registered is not None:
                    done[each.grant_id] = registered
            left = [each for each in left if each.grant_id not in done]
            if not left:
                break
        for each in left:
            done[each.grant_id] = StoreUnavailable(f"grant {each.grant_id} keeps changing: try again")
        return [done[each.grant_id] for each in imports]

    async def _read_each(self, grant_ids: Sequence[str]) -> tuple[dict[str, Grant | None], dict[str, StoreUnavailable]]:
        """Return what the store holds of each grant, and an error for each that alone cannot be read."""
        held: dict[str, Grant | None] = {}
        unreadable: dict[str, StoreUnavailable] = {}
        try:
            return dict(zip(grant_ids, await self._grants.get_many(grant_ids), strict=True)), unreadable
        except StoreUnavailable:
            if len(grant_ids) == 1:
                raise
        for number, grant_id in enumerate(grant_ids):  # one damaged key must not refuse its neighbours
            try:
                held[grant_id] = await self._grants.get(grant_id)
            except StoreUnavailable as error:
                if number and not held:  # two in a row: it is the server
                    raise
                unreadable[grant_id] = error
        return held, unreadable

    async def log_in(self, login: PreparedLogin, *, seen: Held | None, message: Message) -> Registered | None:
        """Store what a login brought.

        Args:
            login: What `prepare_login` made of it.
            seen: What the store held under the grant's id.
            message: To publish on the grant's channel.

        Returns:
            None when the grant changed since *seen*: prepare the login again, with a newer generation.
        """
        token = login.token
        call = login_call(
            self._keys,
            token,
            login.fields,
            fingerprint=login.fingerprint,
            seen=(seen.provider, seen.generation) if seen else None,
            message=self._text(message),
        )
        return call.parse(await self._primary.run(scripts.REGISTER, call.keys, call.args))

    async def forget(
        self, grant_id: str, message: Message, *, up_to: int | None = None, forgotten_at: int | None = None
    ) -> bool:
        """Remove a grant.

        Args:
            grant_id: Id of the grant.
            message: To publish on the grant's channel.
            up_to: The newest generation to remove; None: any.
            forgotten_at: When it was forgotten (epoch ms), if a journal is replayed: whatever came since stays.

        Returns:
            False when nothing was removed.
        """
        for _ in range(_TRIES):
            provider, sets = await places(self._primary, self._keys, grant_id)
            keys = scripts.FORGET.keys(
                sets,
                grant=self._keys.grant(grant_id),
                held_by=self._keys.held,
                forgotten=self._keys.forgotten,
                attempts=self._keys.attempts_of(grant_id),
            )
            args = scripts.FORGET.args(
                grant_id=grant_id,
                provider=provider,
                channel=self._keys.channel(grant_id),
                message=self._text(message),
                up_to="" if up_to is None else up_to,
                forgotten_at="" if forgotten_at is None else forgotten_at,
            )
            reply = await self._primary.run(scripts.FORGET, keys, args)
            if reply != b"moved":
                return bool(reply == b"forgotten")
        raise StoreUnavailable(f"grant {grant_id} keeps moving between providers: try again")

    def prepare(self, commit: Commit) -> PreparedCommit:
        """Prepare an answer for the journal and for `Schedule.commit`: seal its tokens once for both."""
        claim, fields = commit.claim, commit_fields(self._grants, commit)
        recorded = [*fields, *claim.ownership] if claim.ownership else fields
        if commit.refresh_token is None:  # Redis has it, but the store that the record is written into may not
            scope = commit.token.scope if commit.token else claim.scope
            recorded = recorded + self._grants.sealed_refresh_token(
                claim.grant_id, claim.refresh_token, provider=claim.provider, granted_at=claim.granted_at, scope=scope
            )
        record = self._record(
            grant_id=claim.grant_id,
            provider=claim.provider,
            followed=claim.generation,
            generation=commit.token.generation if commit.token else claim.generation,
            granted_at=claim.granted_at,
            answered_at=commit.answered_at,
            refresh_at=commit.refresh_at,
            attempt=claim.attempt,
            fields=recorded,
        )
        return PreparedCommit(commit, fields, record)

    def prepare_login(
        self, token: Token, refresh_token: Secret, *, ending: Ending, followed: int, ownership: Ownership = NOBODY
    ) -> PreparedLogin:
        """Prepare what a login brought, likewise for the journal and for `log_in`.

        Args:
            token: The access token.
            refresh_token: The refresh token.
            ending: When a person must log in again.
            followed: The login follows whatever the store has up to this generation.
            ownership: Whose it is.
        """
        fields = [
            *self._grants.sealed_refresh_token(
                token.grant_id, refresh_token, provider=token.provider, granted_at=token.issued_at, scope=token.scope
            ),
            *_login_fields(self._grants, token, ending),
            *self._grants.ownership_fields(token.grant_id, token.issued_at, ownership, provider=token.provider),
        ]
        record = self._record(
            grant_id=token.grant_id,
            provider=token.provider,
            followed=followed,
            generation=token.generation,
            granted_at=token.issued_at,
            answered_at=token.issued_at,
            refresh_at=token.refresh_at,
            attempt="login",
            fields=fields,
        )
        return PreparedLogin(token, refresh_token.fingerprint(), fields, record)

    def _record(self, *, fields: Sequence[Argument], **members: str | int) -> str:
        return json_text({"store": self._primary.store_id, **members, "fields": fields}, _cell)

    def forget_record(self, grant_id: str, generation: int) -> str:
        """Return the record of a grant that was forgotten just now, at *generation*."""
        record = {
            "store": self._primary.store_id,
            "forget": grant_id,
            "generation": generation,
            "forgotten_at": self._clock(),
        }
        return json.dumps(record)

    async def annotate(self, grant_id: str, owner: str | None, label: str | None) -> bool:
        """Set the owner and label of a grant ("": remove, None: keep); return False where there is no such grant."""
        fields = self._grants.ownership_fields(grant_id, 0, Ownership(None, owner, label))
        script = scripts.ANNOTATE
        reply = await self._primary.run(script, script.keys(grant=self._keys.grant(grant_id)), script.args(fields))
        return bool(reply == b"annotated")

    def reseal_record(self, record: str) -> str:
        """Return *record* with its sealed fields sealed with the first key; what no key opens stays as it is."""
        members: dict[str, Any] = json.loads(record)
        if "fields" in members:
            members["fields"] = [_cell(cell) if isinstance(cell, bytes) else cell for cell in self._opened(members)]
        return json.dumps(members)

    def _opened(self, record: dict[str, Any]) -> list[Argument]:
        """Return the fields of a record, as the grant's hash is to have them; what no key opens stays as it is."""
        names, cells = record["fields"][::2], record["fields"][1::2]
        known = {**dict(zip(names, cells, strict=True)), **record}
        found: list[Argument] = []
        for name, cell in zip(names, cells, strict=True):
            value = base64.b64decode(cell["b"]) if isinstance(cell, dict) else cell
            if isinstance(value, bytes):
                with contextlib.suppress(CannotOpen):
                    value = self._grants.resealed(record["grant_id"], name, value, known, trusted=True)
            found += [name, value]
        return found

    async def restore(self, record: str, position: Position | None = None) -> Restored:
        """Write what a record says into the store, as far as it is newer than what the store has.

        Args:
            record: Of a journal.
            position: Where the grant stands from then on; None: due as planned.
        """
        members: dict[str, Any] = json.loads(record)
        if members["store"] != self._primary.store_id:
            return "another store"
        if "forget" in members:
            grant_id, generation = members["forget"], members["generation"]
            gone = notice("revoked", grant_id, "", generation)
            forgotten_at = members.get("forgotten_at", generation)
            forgot = await self.forget(grant_id, gone, up_to=generation, forgotten_at=forgotten_at)
            return "forgot" if forgot else "known"
        return await self._restore(members, position)

    async def _restore(self, record: dict[str, Any], position: Position | None) -> Restored:
        grant_id, provider, generation = record["grant_id"], record["provider"], record["generation"]
        fields = self._opened(record)
        if position is not None and position.unknown_at is not None:
            fields += ["unknown_at", position.unknown_at]
        changed = self._text(notice("refreshed", grant_id, provider, generation))
        for _ in range(_TRIES):
            was_provider = await provider_of(self._primary, self._keys, grant_id) or ""
            keys = scripts.RESTORE.keys(
                grant=self._keys.grant(grant_id),
                due=self._keys.ids("due", provider),
                **self._keys.index(provider),
                **self._keys.sets(was_provider or provider, prefix="was_"),
                **self._keys.index(was_provider or provider, prefix="was_"),
                forgotten=self._keys.forgotten,
                attempts=self._keys.attempts_of(grant_id),
            )
            args = scripts.RESTORE.args(
                ["provider", provider, "generation", generation, *fields],
                grant_id=grant_id,
                was_provider=was_provider,
                generation=generation,
                answered_at=record["answered_at"],
                refresh_at=record["refresh_at"],
                attempt=record["attempt"],
                channel=self._keys.channel(grant_id),
                message=changed,
                followed=record["followed"],
                granted_at=record["granted_at"],
                record=entry(_outcome(record), record["answered_at"], record["refresh_at"], replica_name()),
                due_at=record["refresh_at"] if position is None else position.at,
                reason="" if position is None else position.reason,
            )
            reply = (await self._primary.run(scripts.RESTORE, keys, args)).decode()
            if reply != "moved":
                return reply  # type: ignore[no-any-return]
        raise StoreUnavailable(f"grant {grant_id} keeps moving between providers: try again")


def _outcome(record: dict[str, Any]) -> str:
    """Return the outcome that *record* is about; a login is no outcome of a token request."""
    fields = record["fields"]
    return str(dict(zip(fields[::2], fields[1::2], strict=True)).get("last_outcome", "logged_in"))


def _login_fields(grants: Grants, token: Token, ending: Ending) -> list[Argument]:
    fields = [*grants.token_fields(token), "granted_at", token.issued_at, "answered_at", token.issued_at]
    return fields + ending_fields(ending)


def _cell(sealed: bytes) -> dict[str, str]:
    """Return a sealed field as it stands in a record."""
    return {"b": base64.b64encode(sealed).decode()}
