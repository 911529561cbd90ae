"""Values as the settings file spells them."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from broker.settings.values import spelled


def toml(value: Any) -> str:
    """Return a setting's value as the settings file spells it."""
    match value:
        case timedelta():
            return f'"{spelled(value)}"'
        case Path():
            return json.dumps(str(value))
        case dict():
            inner = ", ".join(f"{_key(name)} = {toml(each)}" for name, each in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case _:
            return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
