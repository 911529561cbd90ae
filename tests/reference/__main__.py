"""`python -m tests.reference`: write every generated table; `--check` only says which pages differ."""

from __future__ import annotations

import argparse
import sys

from tests.reference.pages import ROOT, differing, pages
from tests.reference.tables import TABLES


def main() -> int:
    """Write the tables, or check them.

    Returns:
        The exit code: 1 where a page differs from the code and `--check` was given.
    """
    parser = argparse.ArgumentParser("python -m tests.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="Write nothing; exit 1 if a page differs.")
    check = parser.parse_args().check
    changed = differing(pages(), TABLES)
    for path, text in changed.items():
        if check:
            print(f"{path.relative_to(ROOT)} differs from the code: python -m tests.reference")
        else:
            path.write_text(text, "utf-8")
            print(f"{path.relative_to(ROOT)} written")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
