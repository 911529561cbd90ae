"""Pictures of every state of the status page, at every width: `python -m tests.screenshots [FOLDER]`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

from tests.page.measure import WIDTHS


def main() -> int:
    """Run the tests that make the states, and keep what they show."""
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=__doc__.partition(":")[0] + ".")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("screenshots"), help="default: screenshots")
    folder = parser.parse_args().folder.resolve()
    os.environ["TOKEN_BROKER_SCREENSHOTS"] = str(folder)
    code = pytest.main(["-q", "-n", "0", "-p", "no:randomly", str(Path(__file__).parent / "page" / "test_states.py")])
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}, at {', '.join(map(str, WIDTHS))} px")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
