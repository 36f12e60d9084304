"""What a search is said to cost: which configurations count, how they add up, what is warned of."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from orchestrator.config import SearchConfig
from orchestrator.confirmation_estimate import most_members
from orchestrator.estimate import (
    SAMPLES,
    START_S,
    TRIAL_S,
    Costs,
    Work,
    budget_warnings,
    estimate,
    estimate_lines,
    sample_trials,
)
from orchestrator.progress import SearchProgress
from orchestrator.results import Estimate
from tests.unit.ledgers import BASELINES, search_config

MEASURED = {
    "train_s_per_token": 0.001,
    "score_s_per_token": 0.0001,
    "memory_bytes": 2**30,
    "device": "cpu",
    "took_s": 2.0,
}
ARMS: dict[str, Any] = {
    "strategy": {
        "name": "strategy.arm",
        "one_of": {
            "none": {"triggers": {}},
            "start": {"triggers": {"s": {"kind": "start", "m": 2}}},
        },
    }
}


def config(**changed: Any) -> SearchConfig:
    return search_config(**changed)


def estimated(
    searched: SearchConfig, *, work: Work, tokens: Sequence[float], measured: bool = True
) -> tuple[Estimate, Costs]:
    """The estimate of one baseline without latents and trials that cost `tokens` per step."""
    scores = [100.0] * (1 + len(tokens))
    costs = Costs([0.0, *tokens], scores, 1, MEASURED if measured else None)
    return estimate(searched, costs, work), costs


def test_a_grid_is_its_configurations() -> None:
    space = {"axes": ARMS, "baselines": False}
    grid = config(space=space, sampler={"kind": "grid"}, budget={"trials": 2, "steps": 8})
    sample = sample_trials(grid, [])
    assert sample.exact
    assert [one.strategy.short_name for one in sample.all] == ["none", "start2"]


def test_a_space_is_sampled() -> None:
    sample = sample_trials(config(), BASELINES)
    assert (sample.exact, len(sample.trials), sample.all[:2]) == (False, SAMPLES, BASELINES)


def test_without_stopping_all_steps_count() -> None:
    searched = config(stopping={"kind": "none"})
    found, _ = estimated(searched, work=Work(baselines=1, trials=4), tokens=[10, 30])
    assert found.steps == 4 * 8  # the baseline has nothing to train
    assert found.most_steps == 5 * 8
    assert found.train_tokens == 4 * 8 * 20
    assert found.score_tokens == 5 * 100
    assert found.seconds == pytest.approx(0.64 + 0.05 + START_S + 5 * TRIAL_S)


def test_stopping_leaves_less() -> None:
    found, _ = estimated(config(), work=Work(baselines=0, trials=4), tokens=[10])
    # Of 4, 1 + 1/2 + 1/3 + 2/4 pass the rung at 2; some of those the one at 4.
    assert 4 * 2 + 2.33 * 2 < found.steps < 4 * 2 + 2.34 * (2 + 4)
    assert found.train_tokens == pytest.approx(10 * found.steps)


def test_nothing_measured_is_no_time() -> None:
    found, _ = estimated(config(), work=Work(0, 4), tokens=[10], measured=False)
    assert (found.seconds, found.gpu_hours, found.memory_bytes) == (None, None, None)
    search, confirmation = estimate_lines(found)
    assert "estimated" not in search + confirmation


def warned(**budget: Any) -> list[str]:
    searched = config(budget={"trials": 4, "steps": 8} | budget)
    found, costs = estimated(searched, work=Work(0, 4), tokens=[10])
    return budget_warnings(searched, costs, found)


def test_budgets_that_are_too_small() -> None:
    rung_s = START_S + 10 * 2 * 8 * 0.001  # one rung of all that train at once
    assert warned(time_s=1.0) == [
        f"budget.time_s=1 is too small for one rung of 2 steps (about {rung_s:.3g})"
    ]
    [line] = warned(time_s=START_S + 1)
    assert "ends the search early" in line
    assert warned(time_s=1000.0) == []


def test_a_person_is_asked_about_a_new_search_alone() -> None:
    asked: list[str] = []
    found, _ = estimated(config(), work=Work(0, 4), tokens=[10])
    out = io.StringIO()
    progress = SearchProgress(Console(file=out, width=120), 4, "x", lambda: asked.append("y"))
    with progress:
        progress.planned(found, ["look out"], going_on=True)
        assert asked == []
        progress.planned(found, [], going_on=False)
    assert asked == ["y"]
    assert "warning: look out" in out.getvalue()
    assert "estimated: 16 s on cpu" in out.getvalue()


def test_what_breaks_a_limit_is_left_out_of_the_sample() -> None:
    space = {"axes": ARMS, "baselines": True}
    grid = config(space=space, sampler={"kind": "grid"}, budget={"trials": 2, "steps": 8})
    sample = sample_trials(grid, BASELINES, lambda trial: trial.strategy.latent_count == 0)
    assert [one.strategy.short_name for one in sample.all] == ["none", "none"]
    assert Work.whole(grid, sample) == Work(baselines=1, trials=1)
    drawn = sample_trials(config(), [], lambda trial: trial.optim.lr > 0.02)
    assert Work.whole(config(), drawn) == Work(baselines=0, trials=4)
    assert min(trial.optim.lr for trial in drawn.trials) > 0.02


CONFIRM = {"top": 2, "seeds": 3, "control_lr_factors": [1.0, 2.0]}


def test_the_confirmation_is_estimated_beside_the_search() -> None:
    budget = {"trials": 4, "steps": 8, "price_per_hour": 3600.0}
    searched = config(confirm=CONFIRM, budget=budget)
    costs = Costs([0.0, 10.0, 30.0], [100.0] * 3, 1, MEASURED, test_tokens=[7.0, 40.0, 60.0])
    found = estimate(searched, costs, Work(1, 4))
    own = found.confirmation
    assert own is not None
    arms = 2 + 2 * 5  # candidates, and the controls of each
    members = arms * 3 + 2 * 5 * 2  # with seeds; and the controls' learning rates
    assert (own.members, own.steps) == (members, members * 8)
    assert own.train_tokens == members * 8 * 20.0
    assert own.score_tokens == (members + 1) * 100.0 + (arms * 3 + 1) * 50.0
    assert own.seconds == pytest.approx(own.train_tokens * 0.001 + own.score_tokens * 0.0001)
    assert own.money == pytest.approx(own.seconds)
    assert "then its confirmation, at most: 56 members, 448 optimiser" in estimate_lines(found)[-1]
    assert "without an engine's start" in estimate_lines(found)[-1]


def test_a_confirmation_of_less_has_fewer_members() -> None:
    one = config(confirm=CONFIRM | {"control_lr_factors": [1.0]}, budget={"trials": 1, "steps": 8})
    assert most_members(one) == ((1 + 5) * 3, 0)
    off = config(confirm={"enabled": False})
    assert estimated(off, work=Work(0, 4), tokens=[10])[0].confirmation is None


def test_a_budget_that_covers_the_search_alone_is_warned_of() -> None:
    found, _ = estimated(config(), work=Work(0, 4), tokens=[10])
    assert found.seconds is not None
    money = found.seconds / 3600 + 1e-6
    [line] = warned(money=money, price_per_hour=1.0)
    assert "covers the search, but may not cover its confirmation" in line
