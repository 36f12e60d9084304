"""The metrics that all tasks share, and which way they are better."""

from __future__ import annotations

import numpy as np
import pytest

from trainable.metrics import common_metrics, direction, goodness


def test_common_metrics() -> None:
    right_N = np.array([True, True, False, True])
    nll_N = np.array([0.1, 0.2, 2.0, 0.1], dtype=np.float32)
    found = common_metrics(right_N, nll_N)
    assert found == {"exact_match": 0.0, "token_accuracy": 0.75, "nll": pytest.approx(0.6)}
    assert common_metrics(np.array([True]))["exact_match"] == 1.0
    assert "nll" not in common_metrics(right_N)  # generated text has none


@pytest.mark.parametrize("metric", ["nll", "val_id/nll", "val_ood/nll/12"])
def test_less_nll_is_better(metric: str) -> None:
    assert direction(metric) == "minimize"
    assert goodness(metric, 0.5) > goodness(metric, 0.7)


@pytest.mark.parametrize("metric", ["exact_match", "val_id/exact_match", "val_ood/f1/3", "nllx"])
def test_more_of_all_else_is_better(metric: str) -> None:
    assert direction(metric) == "maximize"
    assert goodness(metric, 0.7) > goodness(metric, 0.5)
