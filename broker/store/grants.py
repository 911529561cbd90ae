"""Grants as Redis stores them: their sealed fields; read, list and count them. `schedule`, `registry` change them."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from broker.model import Grant, State, Token, usable_until
from broker.secret import CannotOpen, Sealer, Secret, Tampered
from broker.store import ownership, scripts
from broker.store.binding import Binding
from broker.store.clock import uptime
from broker.store.damaged import NO_HASH, UNUSABLE, damaged_grant, find_damage, list_or_empty
from broker.store.fields import maybe_int, maybe_text, score_ms, texts, whole
from broker.store.limits import parse_limit
from broker.store.listing import Listing
from broker.store.ownership import OWNERSHIP_FIELDS
from broker.store.provider_state import ProviderState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from broker.model import OldToken
    from broker.model.account import Ownership
    from broker.store.binding import Facts
    from broker.store.clock import Clock
    from broker.store.listing import Row
    from broker.store.redis.connections import Argument
    from broker.store.redis.primary import Primary
    from broker.store.scripts import Keys

TOKEN_FIELDS = ("access_token", "token_type", "scope", "issued_at", "expires_at", "extra", "clock_offset")
_GRANT_FIELDS = (
    *("provider", "generation", *TOKEN_FIELDS, "refresh_at", "granted_at", "reauthorize_by"),
    *("reauthorize_limit", "failures", "reason", "last_outcome", "last_detail", "last_at"),
    *OWNERSHIP_FIELDS,
)
_SEALED = frozenset({"access_token", "extra", "account"})
_NOT_TEXT = _SEALED | {*OWNERSHIP_FIELDS}
_STATES: tuple[State, ...] = ("parked", "leased", "due")
_FACTS = ("suspended", "suspended_at", "not_before", "ailing", "detail", "answered_at", "failing_since")
"""What is known of a provider's health."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing and the cursor to the next."""

    rows: list[tuple[State, Grant]]
    next: str | None


class Grants:
    """Reads the store. Every asynchronous method raises `StoreUnavailable` when Redis does not answer."""

    def __init__(
        self, primary: Primary, keys: Keys, sealer: Sealer, old_tokens: Mapping[str, OldToken], clock: Clock
    ) -> None:
        """*old_tokens* gives, by provider, what a refresh does to the token before it; it survives where not named."""
        self._primary = primary
        self._keys = keys
        self._binding = Binding(sealer, lambda: primary.store_id)
        self._old_tokens = old_tokens
        self._clock = clock
        self._listing = Listing(primary, keys)

    def token_fields(self, token: Token) -> list[Argument]:
        """Return a token as fields of its grant's hash, each with its value."""
        texts = {
            "access_token": token.access_token.reveal(),
            "extra": json.dumps(token.extra) if token.extra else "{}",
        }
        access_token, extra = self._binding.seal_all(
            token.grant_id,
            texts,
            token.provider,
            generation=token.generation,
            issued_at=token.issued_at,
            expires_at=token.expires_at,
            token_type=token.token_type,
            scope=token.scope,
        )
        fields: list[Argument] = ["generation", token.generation, "access_token", access_token]
        fields += ["token_type", token.token_type, "issued_at", token.issued_at, "expires_at", token.expires_at]
        offset = self._clock.offset_of(token.issued_at) if token.clock_offset is None else token.clock_offset
        fields += ["extra", extra, "clock_offset", f"{offset} {token.issued_at}"]
        if token.scope is not None:
            fields += ["scope", token.scope]
        return fields

    def sealed_refresh_token(
        self, grant_id: str, refresh_token: Secret, *, provider: str, granted_at: int, scope: str | None
    ) -> list[Argument]:
        """Return a refresh token as a field of its grant's hash, with its value; *granted_at* is epoch ms."""
        facts = {"granted_at": granted_at, "scope": scope}
        return [
            "refresh_token",
            self._binding.seal(grant_id, "refresh_token", refresh_token.reveal(), provider, **facts),
        ]

    def ownership_fields(
        self, grant_id: str, granted_at: int, whose: Ownership, *, provider: str = ""
    ) -> list[Argument]:
        """Return what is known of whose a grant is, as fields of its hash; an account needs the *provider*."""
        return ownership.fields(self._binding, grant_id, granted_at, whose, provider)

    def open(self, grant_id: str, name: str, sealed: bytes, provider: str) -> tuple[Secret, Facts]:
        """Open a sealed field of a grant of *provider*, and return it with the facts that are sealed with it.

        Raises:
            CannotOpen: No key in the key file opens it.
            Tampered: It belongs to another provider or store.
        """
        return self._binding.open(grant_id, name, sealed, provider)

    def resealed(
        self, grant_id: str, name: str, sealed: bytes, known: Mapping[str, Any], *, trusted: bool = False
    ) -> bytes:
        """Return a sealed field of a grant sealed anew (see `Binding.resealed`).

        Raises:
            CannotOpen: No key in the key file opens it.
        """
        return self._binding.resealed(grant_id, name, sealed, known, trusted=trusted)

    async def get(self, grant_id: str) -> Grant | None:
        """Return a grant, or None where there is no such.

        Raises:
            WrongStore: Another store answers.
        """
        return (await self.get_many([grant_id]))[0]

    async def get_many(self, grant_ids: Sequence[str]) -> list[Grant | None]:
        """Return grants by id, in the order of *grant_ids*, in one trip; likewise.

        Raises:
            WrongStore: Another store answers.
        """
        commands = [("HMGET", self._keys.grant(gid), *_GRANT_FIELDS) for gid in grant_ids]
        asked = uptime()
        first = [("HGET", self._keys.meta, "store"), ("TIME",)]
        store, time, *rows = await self._primary.pipeline_each([*first, *commands])
        self._primary.recognise(store)
        # What another broker wrote after a step of the clock must not be taken for what was written before it.
        self._clock.observe_time(time, asked)
        return [self._grant(gid, row) for gid, row in zip(grant_ids, rows, strict=True)]

    def _grant(
        self, grant_id: str, row: Sequence[bytes | None] | BaseException, provider: str | None = None
    ) -> Grant | None:
        """Return a grant of the fields that Redis sent; *provider* says whose it is where its key is no hash."""
        if isinstance(row, BaseException):
            return damaged_grant(grant_id, provider, NO_HASH, self._clock())
        raw = dict(zip(_GRANT_FIELDS, row, strict=True))
        if raw["provider"] is None:
            return None
        try:
            return self._parse(grant_id, raw)
        except UNUSABLE:
            return damaged_grant(grant_id, raw["provider"], find_damage(raw, _SEALED), self._clock(), raw["generation"])

    def _parse(self, grant_id: str, raw: Mapping[str, bytes | None]) -> Grant:
        text = {name: value.decode() for name, value in raw.items() if value and name not in _NOT_TEXT}
        token, unreadable, tampered, ahead = None, False, None, (0, 0)
        if "issued_at" in text:
            ahead = self._clock.ms_ahead(whole(text["issued_at"]), text.get("clock_offset"))
        if raw["access_token"] is not None and raw["extra"] is not None:
            try:
                token = self._token(grant_id, text, raw["access_token"], raw["extra"], ahead=ahead)
            except Tampered as error:
                unreadable, tampered = True, str(error)
            except CannotOpen:  # one grant nobody can open must not hide the others
                unreadable = True
        by = whole(text["reauthorize_by"]) if "reauthorize_by" in text else None
        return Grant(
            grant_id=grant_id,
            provider=text["provider"],
            generation=whole(text["generation"]),
            token=token,
            granted_at=whole(text["granted_at"]),
            reauthorize_by=by,
            reauthorize_limit=parse_limit(text.get("reauthorize_limit"), by),
            refresh_at=whole(text["refresh_at"]) - ahead[0],
            failures=whole(text.get("failures", "0")),
            reason=text.get("reason"),
            last_outcome=text.get("last_outcome"),
            last_detail=text.get("last_detail"),
            last_at=whole(text["last_at"]) if "last_at" in text else None,
            unreadable=unreadable,
            tampered=tampered,
            ownership=ownership.read(self._binding, grant_id, int(text["granted_at"]), raw),
        )

    def _token(
        self, grant_id: str, text: Mapping[str, str], sealed: bytes, sealed_extra: bytes, *, ahead: tuple[int, int]
    ) -> Token:
        """Return the access token of a grant. What is sealed with it counts, and the earlier end.

        Args:
            grant_id: Of the grant.
            text: Fields of its hash.
            sealed: The token.
            sealed_extra: The extra members of its response.
            ahead: By how much its times are too late, and by which offset they count then (see `Clock.ms_ahead`).

        Raises:
            CannotOpen: No key in the key file opens it.
            Tampered: It belongs to another provider, store or generation.
        """
        provider, generation = text["provider"], int(text["generation"])
        access_token, facts = self.open(grant_id, "access_token", sealed, provider)
        extra, facts_of_extra = self.open(grant_id, "extra", sealed_extra, provider)
        if facts != facts_of_extra or generation < facts.get("generation", 0):
            raise Tampered("its access token is of another generation than what stands beside it")
        # After its clock was set back Redis has an earlier end than the sealed one (see rewind.lua).
        expires_at, refresh_at = whole(text["expires_at"]), whole(text["refresh_at"])
        back, offset = ahead
        expires_at, refresh_at = min(expires_at, facts.get("expires_at") or expires_at) - back, refresh_at - back
        return Token(
            grant_id=grant_id,
            provider=provider,
            generation=generation,
            access_token=access_token,
            token_type=facts.get("token_type") or text.get("token_type", "Bearer"),
            scope=facts["scope"] if facts else text.get("scope"),
            issued_at=int(text["issued_at"]) - back,
            expires_at=expires_at,
            refresh_at=refresh_at,
            usable_until=usable_until(expires_at, refresh_at, self._old_tokens.get(provider, "survives")),
            extra=json.loads(extra.reveal()),
            clock_offset=offset,
        )

    async def refresh_token(self, grant_id: str) -> tuple[str, Secret] | None:
        """Return provider and refresh token of a grant, for a revocation; None where there is none that opens."""
        provider, sealed = await self._primary.call("HMGET", self._keys.grant(grant_id), "provider", "refresh_token")
        if provider is None or sealed is None:
            return None
        with suppress(CannotOpen, UnicodeDecodeError):
            return provider.decode(), self.open(grant_id, "refresh_token", sealed, provider.decode())[0]
        return None

    async def placed(self, grant: Grant) -> tuple[State, Grant]:
        """Return the state of a grant (due while it moves between the three sets), and the grant as it is now.

        The grant is read again, after the sets, so that it says why it is in its set.
        """
        return (await self.placed_each([(grant.provider, grant.grant_id)]))[0] or ("due", grant)

    async def placed_each(self, places: Sequence[tuple[str, str]]) -> list[tuple[State, Grant] | None]:
        """Return state and grant for each provider and grant id, in one trip; None where there is no such grant."""
        keys = self._keys
        sets: tuple[State, ...] = ("leased", "parked", "due")
        commands: list[tuple[Argument, ...]] = []
        for provider, grant_id in places:
            commands += [("ZSCORE", keys.ids(state, provider), grant_id) for state in sets]
            commands.append(("HMGET", keys.grant(grant_id), *_GRANT_FIELDS))
        replies = iter(await self._primary.pipeline_each(commands))
        placed: list[tuple[State, Grant] | None] = []
        for provider, grant_id in places:
            *scores, row = (next(replies) for _ in range(len(sets) + 1))
            grant = self._grant(grant_id, row, provider)
            if grant is None:
                placed.append(None)
                continue
            found = next((each for each in zip(sets, scores, strict=True) if isinstance(each[1], bytes)), None)
            placed.append(("due", grant) if found is None else (found[0], _due(grant, *found)))
        return placed

    async def page(
        self,
        providers: Sequence[str],
        states: Sequence[State],
        cursor: str | None,
        limit: int,
        permitted: Callable[[str], bool] = lambda _: True,
    ) -> Page:
        """List grants, parked ones first, soonest first within a state and provider.

        The three sorted sets are the index; a grant that moves between two calls may be seen twice or not at all.

        Args:
            providers: Whose grants.
            states: Which of the three sets.
            cursor: Where to go on: `next` of the page before; None: at the beginning.
            limit: How many grants. Where very many ids are not permitted, a page may be shorter.
            permitted: Whether the caller may see a grant of this id.

        Raises:
            InvalidRequest: The cursor is of no page.
        """
        rows, following = await self._listing.rows(providers, states, cursor, limit, permitted)
        return Page(await self._described(rows), following)

    async def needing_attention(
        self, providers: Sequence[str], cursor: str | None, limit: int, *, failures: int, ends_by: int
    ) -> tuple[list[Grant], str | None]:
        """Return, of a page of *limit* grants, those that a notice may be about, and the cursor to the next page.

        The others are not read in full: whoever walks through a million grants would be busy with them.

        Args:
            providers: Whose grants.
            cursor: Where to go on; None: at the beginning.
            limit: How many grants to examine.
            failures: A grant that failed so often in a row is one of them, as every parked grant is.
            ends_by: A grant that must be reauthorized by then (epoch ms) is one of them.
        """
        rows, following = await self._listing.rows(providers, _STATES, cursor, limit, lambda _: True)
        script = scripts.NEEDING_ATTENTION
        keys = script.keys(grant_prefix=self._keys.grants)
        args = script.args([name for _, name, _, _ in rows], failures=failures, ends_by=ends_by)
        grants = await self.get_many(texts(await self._primary.run(script, keys, args) if rows else []))
        return [grant for grant in grants if grant is not None], following

    async def _described(self, rows: Sequence[Row]) -> list[tuple[State, Grant]]:
        grants = await self.get_many([name for _, name, _, _ in rows])
        return [
            (state, _due(grant if grant.provider else replace(grant, provider=provider), state, at))
            for (state, _, at, provider), grant in zip(rows, grants, strict=True)
            if grant is not None
        ]

    async def providers(self, names: Iterable[str]) -> list[ProviderState]:
        """Return health and counts of providers, in one trip: counts are the sets' sizes.

        Raises:
            WrongStore: Another store answers.
        """
        names, keys = list(names), self._keys
        if not names:
            self._primary.recognise(await self._primary.call("HGET", keys.meta, "store"))
            return []
        read = [key for name in names for key in (keys.provider(name), *(keys.ids(state, name) for state in _STATES))]
        script = scripts.PROVIDER_STATES
        replies = await self._primary.run(script, script.keys(read), script.args(_FACTS))
        states, width = [], len(_FACTS) + len(_STATES)
        for i, name in enumerate(names):
            row = replies[i * width : (i + 1) * width]
            suspended, suspended_at, not_before, ailing, detail, answered_at, failing_since, *sizes = row
            states.append(
                ProviderState(
                    name=name,
                    suspended=maybe_text(suspended),
                    suspended_at=maybe_int(suspended_at),
                    not_before=maybe_int(not_before),
                    ailing=maybe_int(ailing) or 0,
                    detail=maybe_text(detail),
                    counts=dict(zip(_STATES, sizes, strict=True)),
                    answered_at=maybe_int(answered_at),
                    failing_since=maybe_int(failing_since),
                )
            )
        return states

    async def suspended(self, names: Iterable[str]) -> list[str]:
        """Return those of these providers that are suspended."""
        if not (names := list(names)):
            return []
        script = scripts.FIND_SUSPENDED
        places = await self._primary.run(script, script.keys([self._keys.provider(n) for n in names]), script.args())
        return [names[place - 1] for place in places]

    async def known_providers(self) -> set[str]:
        """Return the names of all providers that ever had a grant here, in the settings or not."""
        fields = await self._primary.call("HKEYS", self._keys.meta)
        return {field.partition(":")[2] for field in texts(fields) if field.startswith("provider:")}

    async def ids(self, provider: str) -> list[str]:
        """Return the ids of all grants of a provider, to load the `warm` ones at start."""
        replies = await self._primary.pipeline_each([("ZRANGE", self._keys.ids(s, provider), 0, -1) for s in _STATES])
        return [name for reply in replies for name in texts(list_or_empty(reply))]


def _due(grant: Grant, state: State, score: str | bytes) -> Grant:
    """Return a grant that is due with the time at which it is due by now: one that failed was postponed."""
    return replace(grant, refresh_at=score_ms(score)) if state == "due" else grant


__all__ = ["TOKEN_FIELDS", "CannotOpen", "Grants", "Page", "ProviderState"]
