"""The reference tables by the names of their markers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.reference.settings import kinds, settings

TABLES: Mapping[str, Callable[[], str]] = {
    "settings": settings,
    "kinds": kinds,
}
