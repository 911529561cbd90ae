"""Where the broker is, and the key that it is called with: from arguments, or from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from broker.client.errors import InvalidConfiguration
from broker.client.token import HeaderValue

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

URL, KEY, KEY_FILE = "TOKEN_BROKER_URL", "TOKEN_BROKER_KEY", "TOKEN_BROKER_KEY_FILE"
_FORMS = "http://HOST:PORT, https://HOST or unix:/PATH"
_MAKE_ONE = "`token-broker caller new NAME` makes one"


class Key:
    """A caller's key. Only `reveal()` returns it; a key file is read again when the broker does not know the key."""

    __slots__ = ("_text", "_where", "file")

    def __init__(self, text: str | None, file: Path | None, where: str) -> None:
        """Hold *text*, or else what *file* holds; *where* names it in errors.

        Raises:
            InvalidConfiguration: there is no key.
        """
        self.file = file
        self._where = where
        self._text = self._checked(text) if text is not None else self._read()

    def reveal(self) -> str:
        """Return the key itself: only for the broker."""
        return HeaderValue(self._text)

    def reread(self) -> bool:
        """Read the file again. Blocks.

        Returns:
            Whether it holds another key now.

        Raises:
            InvalidConfiguration: it holds no key, or cannot be read.
        """
        if self.file is None:
            return False
        before, self._text = self._text, self._read()
        return self._text != before

    def _read(self) -> str:
        if self.file is None:
            raise InvalidConfiguration(f"{self._where}: neither a key nor a file")
        try:
            return self._checked(self.file.read_text("utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise InvalidConfiguration(f"{self._where}: {self.file} cannot be read ({why})") from None

    def _checked(self, text: str) -> str:
        key = text.strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise InvalidConfiguration(f"{self._where} holds no key: a key is one word; {_MAKE_ONE}")
        return key

    def __repr__(self) -> str:
        return f"Key({self._where})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a key is not pickled: give the other process its own")


class Place:
    """A broker's address and the key that it is called with."""

    __slots__ = ("base", "key", "name", "socket")

    def __init__(self, url: str, key: Key, *, where: str = "url") -> None:
        """Parse *url*: `http://`, `https://` or `unix:/PATH`; *where* names it in errors.

        Raises:
            InvalidConfiguration: it is none of them.
        """
        self.key = key
        self.name = url
        """The address as it was given: for messages."""
        self.socket: str | None = None
        if url.startswith("unix:"):
            self.socket = url.removeprefix("unix:").removeprefix("//")
            self.base = "http://localhost"
            if not self.socket.startswith("/"):
                raise InvalidConfiguration(f"{where} is {url!r}: a socket needs its absolute path, unix:/PATH")
            return
        wrong = InvalidConfiguration(f"{where} must be {_FORMS}")
        try:
            parts = urlsplit(url)
            good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:
            raise wrong from None
        if not good or parts.query or parts.fragment:
            raise wrong
        if parts.username is not None or parts.password is not None:
            raise InvalidConfiguration(f"{where} holds a name or a password: put the key into {KEY} or {KEY_FILE}")
        self.base = url.rstrip("/")

    @property
    def web(self) -> str | None:
        """The address for a browser, if there is one."""
        return None if self.socket else self.base

    def __repr__(self) -> str:
        return f"Place({self.name!r})"


def place(url: str, key: str | None = None, key_file: str | os.PathLike[str] | None = None) -> Place:
    """Return the broker at *url*, called with *key* or with what *key_file* holds.

    Raises:
        InvalidConfiguration: an argument is missing or malformed.
    """
    if (key is None) == (key_file is None):
        raise InvalidConfiguration("give either the key or its file: key=… or key_file=…")
    where = "key" if key_file is None else "key_file"
    return Place(url, Key(key, None if key_file is None else Path(key_file), where))


def place_from(environment: Mapping[str, str]) -> Place:
    """Return the broker that the *environment* names.

    Raises:
        InvalidConfiguration: a variable is missing or malformed; the message names it.
    """
    url, key, file = (environment.get(name, "").strip() for name in (URL, KEY, KEY_FILE))
    if not url:
        raise InvalidConfiguration(f"{URL} is not set: where the broker is, {_FORMS}")
    if not key and not file:
        raise InvalidConfiguration(f"neither {KEY_FILE} nor {KEY} is set: the caller's key; {_MAKE_ONE}")
    held = Key(None, Path(file), KEY_FILE) if file else Key(key, None, KEY)
    return Place(url, held, where=URL)
