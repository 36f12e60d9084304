"""Time several sides in turn, so that a drifting machine moves all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch

Seconds = dict[str, list[float]]
_LONG_S = 60.0  # a side that takes longer is repeated three times only
_LEAST_REPEATS = 3


def seconds_of(side: Callable[[], object]) -> float:
    """Wall seconds of one call, the accelerator's work included."""
    _wait()
    begin = time.perf_counter()
    side()
    _wait()
    return time.perf_counter() - begin


def in_turn(sides: Mapping[str, Callable[[], object]], repeats: int) -> Seconds:
    """Time each side `repeats` times, A B B A A B ..., after one untimed call each.

    Returns:
        Each side's seconds, in the order of repeats, so that pairs belong together.
    """
    warm_up = [seconds_of(side) for side in sides.values()]
    if max(warm_up) > _LONG_S:
        repeats = min(repeats, _LEAST_REPEATS)
    spent: Seconds = {name: [] for name in sides}
    for repeat in range(repeats):
        order = list(sides) if repeat % 2 == 0 else list(sides)[::-1]
        for name in order:
            spent[name].append(seconds_of(sides[name]))
    return spent


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Pair by pair."""
    return [a / b for a, b in zip(over, under, strict=True)]


def calls_within(side: Callable[[], object], target_s: float, most: int = 50) -> int:
    """How many calls of a side fill the time, at least one; calls it twice."""
    side()
    return max(1, min(most, round(target_s / max(seconds_of(side), 1e-6))))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
