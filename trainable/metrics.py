"""The metrics that all tasks share, and which way each metric is better.

    exact_match      1 where every response token is right, else 0
    token_accuracy   the share of response tokens that are right, each after the reference's own
    nll              nats per response token: less is better

A metric's full name has its split in front and perhaps a distance behind:
`val_ood/exact_match/12`. Costs have `cost` in front: `cost/extra_tokens_pct`; less is better.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import numpy.typing as npt

EXACT_MATCH = "exact_match"
NLL = "nll"  # the only one of them without a bound
DECODING_TIME = "cost/ms_per_token"  # milliseconds per generated verbal token
COMMON_METRICS = (EXACT_MATCH, "token_accuracy", NLL)
METRIC_NAME = re.compile(r"[A-Za-z0-9_]+")
_MINIMISED = frozenset({NLL, "extra_tokens_pct", "dropped_rows_pct", "ms_per_token"})

Direction = Literal["minimize", "maximize"]  # Optuna's words


def common_metrics(
    right_N: npt.NDArray[np.bool_], nll_N: npt.NDArray[np.floating] | None = None
) -> dict[str, float]:
    """Score one response.

    Args:
        right_N: whether the model's token is the reference's, at each response token.
        nll_N: its negative log-likelihood in nats; None where only text was generated, and
            `nll` is then left out.
    """
    right = np.asarray(right_N, dtype=bool)
    metrics = {EXACT_MATCH: float(right.all()), "token_accuracy": float(right.mean())}
    return metrics if nll_N is None else metrics | {NLL: float(np.mean(nll_N))}


def direction(metric: str) -> Direction:
    """Which way a metric is better, by its full or its bare name."""
    parts = metric.split("/")
    name = parts[1] if len(parts) > 1 else parts[0]
    return "minimize" if name in _MINIMISED else "maximize"


def goodness(metric: str, value: float) -> float:
    """The value, turned such that more is better."""
    return -value if direction(metric) == "minimize" else value
