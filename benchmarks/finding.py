"""What a benchmark hands over: cases, each with its number, its target and its verdict.

Every row of `results/*.json` has these keys, and more of its own:

    case      what was measured, in words
    ratio     the number; low and high are the least and the greatest of its repeats
    target    the number to reach, or null; bound says whether it is `at least` or `at most` that
    met       whether it was reached, or null where there is no target
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

Bound = Literal["at least", "at most"]


def finding(
    case: str,
    ratios: Sequence[float],
    target: float | None = None,
    bound: Bound = "at least",
    **more: Any,
) -> dict[str, Any]:
    """One row: the median of the ratios, their range, and whether the target is met.

    Args:
        case: what was measured.
        ratios: one per repeat.
        target: None where nothing is promised.
        more: further facts of the case, as JSON can hold them.
    """
    ratio = statistics.median(ratios)
    met = None
    if target is not None:
        met = ratio >= target if bound == "at least" else ratio <= target
    return {
        "case": case,
        "ratio": ratio,
        "low": min(ratios),
        "high": max(ratios),
        "repeats": len(ratios),
        "target": target,
        "bound": bound,
        "met": met,
        **more,
    }


def lines_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as text, one line each."""
    width = max(len(row["case"]) for row in rows)
    return [f"{row['case']:<{width}}  {number_of(row):<28}  {verdict_of(row)}" for row in rows]


def number_of(row: dict[str, Any]) -> str:
    """`2.62 (2.20 to 2.70)`; without the range where it was measured once."""
    number = short(row["ratio"])
    if row["repeats"] == 1:
        return number
    return f"{number} ({short(row['low'])} to {short(row['high'])})"


def verdict_of(row: dict[str, Any]) -> str:
    """`at least 1.5: met`, or nothing where there is no target."""
    if row["target"] is None:
        return ""
    return f"{row['bound']} {short(row['target'])}: {'met' if row['met'] else 'NOT met'}"


def short(value: float) -> str:
    """Three digits that count."""
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.{2 if abs(value) < 10 else 1}f}"
    return f"{value:.3g}"
