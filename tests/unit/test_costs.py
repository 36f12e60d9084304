"""Costs, counted on the rows that an engine reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import SearchConfig
from orchestrator.costs import EXTRA_TOKENS, LayoutCosts, open_costs
from trainable.data import ExampleStream
from trainable.errors import TaskError
from trainable.trial import TrialConfig

TASK = {
    "kind": "generation",
    "train_lengths": [1, 2],
    "val_ood_lengths": [3],
    "test_ood_lengths": [4],
    "train_rows": 8,
    "val_rows": 4,
    "test_rows": 2,
}


def search(**changed: Any) -> SearchConfig:
    return SearchConfig.model_validate(
        {"name": "costly", "task": TASK, "space": "positions", "budget": {"trials": 2}, **changed}
    )


def costs_of(home: Path, **changed: Any) -> LayoutCosts:
    costs = open_costs(search(**changed), home)
    assert costs is not None
    return costs


def trial(**trigger: Any) -> TrialConfig:
    return TrialConfig.from_dict(
        {"strategy": {"triggers": {"t": trigger}}, "optim": {"batch_rows": 3}}
    )


def test_a_search_without_limits_counts_nothing(tmp_path: Path) -> None:
    assert open_costs(search(), tmp_path) is None


def test_extra_tokens_are_those_of_every_row_of_validation(tmp_path: Path) -> None:
    costs = costs_of(tmp_path, limits={EXTRA_TOKENS: 10})
    rows = costs._data.rows("val_id")
    tokens = sum(len(row.ids) for row in rows)
    found, excess = costs.against_limits(trial(kind="start", m=2))
    assert found == {EXTRA_TOKENS: pytest.approx(100 * 2 * len(rows) / tokens)}
    assert excess[EXTRA_TOKENS] == found[EXTRA_TOKENS] - 10
    assert costs.extra_tokens_pct(TrialConfig().strategy) == 0.0


def test_tokens_of_training_follow_the_stream(tmp_path: Path) -> None:
    costs = costs_of(tmp_path, budget={"trials": 2, "tokens": 10_000})
    one = trial(kind="end", m=2)
    lengths = [len(row.ids) + 2 for row in costs._data.rows("train")]
    stream = ExampleStream(len(lengths), costs._config.data.seed)
    order = [row for step in range(4) for row in stream.rows(step, 3)]
    assert costs.tokens(one, 0, 4) == sum(lengths[row] for row in order)
    assert costs.tokens(one, 0, 1) + costs.tokens(one, 1, 4) == costs.tokens(one, 0, 4)
    assert costs.tokens(TrialConfig(), 0, 4) == 0, "there is nothing to train"
    assert costs.against_limits(one) == ({}, {})


def test_a_limit_that_no_strategy_keeps_is_refused_with_the_cheapest(tmp_path: Path) -> None:
    start = {"start": {"kind": "start", "m": {"choice": [2, 1]}}}
    space = {"axes": {"strategy": {"triggers": start}}}
    with pytest.raises(TaskError, match=r"extra_tokens_pct=0.5: no strategy .* is start1 with "):
        open_costs(search(limits={EXTRA_TOKENS: 0.5}, space=space), tmp_path)
