"""Run a target: draw inputs, check each, count them, and keep what failed. Knows no target."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy

ROUND = 100
"""Inputs of one seed."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed: where inputs come from, and what must hold for each."""

    name: str
    inputs: SearchStrategy[Any]
    check: Callable[[Any], object]
    """Raises for an input that was read as it must not be."""
    in_suite: int = 300
    """Inputs that the suite draws."""


@dataclass(slots=True)
class Crash:
    """A failure: by which seed it is found again, and the smallest input that causes it."""

    seed: int
    shown: str
    error: str
    times: int = 1


@dataclass(slots=True)
class Result:
    """What became of a target."""

    name: str
    inputs: int = 0
    seconds: float = 0.0
    next_seed: int = 0
    crashes: dict[str, Crash] = field(default_factory=dict)
    """By the place where each was raised."""


def fuzz(target: Target, result: Result, *, seed: int, inputs: int | None = None, until: float | None = None) -> None:
    """Fuzz a target until *inputs* were drawn, or until *until* (monotonic seconds); add to *result* as it goes.

    A place that fails is noted once; the rounds go on behind it.
    """
    began = time.monotonic()
    first = result.inputs
    result.next_seed = seed
    try:
        while (inputs is None or result.inputs - first < inputs) and (until is None or time.monotonic() < until):
            _round(target, result, result.next_seed, ROUND if inputs is None else min(ROUND, inputs))
            result.next_seed += 1
    finally:
        result.seconds += time.monotonic() - began


def _round(target: Target, result: Result, seed: int, inputs: int) -> None:
    found: dict[str, Crash] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @hypothesis.given(target.inputs)
    def once(value: Any) -> None:
        result.inputs += 1
        try:
            target.check(value)
        except Exception as error:
            _note(found, seed, value, error)
            raise

    try:
        once()
    except Exception as error:  # noqa: BLE001 - whatever it is, a crash of the target's is in `found`
        if not found:
            _note(found, seed, "no input", error)
    for place, crash in found.items():
        if place in result.crashes:
            result.crashes[place].times += 1
        else:
            result.crashes[place] = crash


def _note(found: dict[str, Crash], seed: int, value: object, error: Exception) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    place = f"{type(error).__name__} at {last.filename}:{last.lineno}"
    shown = repr(value)
    if place not in found or len(shown) < len(found[place].shown):
        text = "".join(traceback.format_exception(error, limit=-6))
        found[place] = Crash(seed, shown, text)
