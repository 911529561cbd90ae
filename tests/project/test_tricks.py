"""The tricks of the data paths: the benchmark can still take each away."""

from __future__ import annotations

import pytest

from tests.benchmarks.without import TRICKS
from tests.paths import ROOT


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_still_stands_where_the_benchmark_looks(name: str) -> None:
    """Each text that the benchmark replaces stands exactly once in its module."""
    for module, changes in TRICKS[name].without.items():
        path = ROOT / module.replace(".", "/")
        source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")
        for old, new in changes:
            assert source.count(old) == 1, (module, old)
            compile(source.replace(old, new), module, "exec")
