"""The reference tables by the names of their markers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from broker.process.log_events import EVENTS
from broker.settings.weakening import WORDS
from tests.reference.alerts import alerts
from tests.reference.catalogue import catalogue
from tests.reference.commands import commands
from tests.reference.metrics import metrics
from tests.reference.pages import code, table
from tests.reference.routes import routes
from tests.reference.settings import kinds, settings


def weakening() -> str:
    """Return the table of the settings that weaken."""
    rows = ((f"`{word.setting} = {word.value}`", word.costs, word.instead) for word in WORDS)
    return table(("setting", "what it costs", "instead"), rows)


def events() -> str:
    """Return the table of log events."""
    rows = ((code(name), ", ".join(event.levels), event.means, event.do) for name, event in sorted(EVENTS.items()))
    return table(("event", "level", "what it means", "what to do"), rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "alerts": alerts,
    "catalogue": catalogue,
    "commands": commands,
    "events": events,
    "settings": settings,
    "kinds": kinds,
    "metrics": metrics,
    "routes": routes,
    "weakening": weakening,
}
