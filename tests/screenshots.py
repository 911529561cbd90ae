"""Pictures of every state of the status page, at every width: `python -m tests.screenshots [FOLDER]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.page.measure import WIDTHS


def main() -> int:
    """Run the tests that make the states, and keep what they show."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "screenshots").resolve()
    os.environ["TOKEN_BROKER_SCREENSHOTS"] = str(folder)
    code = pytest.main(["-q", "-n", "0", "-p", "no:randomly", str(Path(__file__).parent / "page" / "test_states.py")])
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}, at {', '.join(map(str, WIDTHS))} px")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
