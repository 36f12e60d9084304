"""Several objectives: which trials no other one beats, and which of these to recommend.

score │ ·  a
│       knee
│   ·        b          a, knee, b are the front; the dots are beaten
└──────────────── less cost
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainable.metrics import goodness


def pareto_front(scores: Mapping[int, Sequence[float]]) -> list[int]:
    """The trials that no other is at least as good as everywhere and better than somewhere.

    Args:
        scores: a trial's number to its goodness in each objective: more is better.

    Returns:
        Numbers, the best in the first objective first; of equal trials the earliest alone.
    """
    front: list[int] = []
    # In this order nothing can beat what has gone before it.
    for number in sorted(scores, key=lambda n: ([-value for value in scores[n]], n)):
        mine = scores[number]
        beaten = any(all(a >= b for a, b in zip(scores[o], mine, strict=True)) for o in front)
        if not beaten:
            front.append(number)
    return front


def knee(scores: Mapping[int, Sequence[float]], front: Sequence[int]) -> int | None:
    """The front's best compromise: the farthest out from the plane through its extremes.

    Each objective is scaled to 0 to 1 over the front; the sum is that distance, but for a
    factor. Of equal ones the best in the first objective wins.
    """
    if not front:
        return None
    columns = list(zip(*(scores[number] for number in front), strict=True))
    lows, spans = [min(c) for c in columns], [max(c) - min(c) for c in columns]

    def scaled_sum(number: int) -> float:
        parts = zip(scores[number], lows, spans, strict=True)
        return float(round(sum((v - low) / span for v, low, span in parts if span > 0), 9))

    return max(front, key=scaled_sum)  # of equal ones the first


def goodnesses(metrics: Mapping[str, float], objectives: Sequence[str]) -> list[float] | None:
    """A trial's scores, turned such that more is better; None where one is missing."""
    if any(name not in metrics for name in objectives):
        return None
    return [goodness(name, metrics[name]) for name in objectives]
