"""A ledger with several objectives, limits, start points and other stopping rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from orchestrator.config import SamplerConfig
from orchestrator.ledger import Ledger, LedgerTrial, Role, TrialStatus
from orchestrator.sampling import draw_seed, sampler_of
from tests.unit.ledgers import OBJECTIVE, RUNGS, open_ledger
from trainable.errors import TrialError
from trainable.trial import TrialConfig

COST = "cost/extra_tokens_pct"
M_AXES = {
    "strategy": {"triggers": {"start": {"kind": "start", "m": {"int": {"low": 1, "high": 9}}}}}
}
FULL = RUNGS[-1]


def ask(ledger: Ledger) -> LedgerTrial:
    trial = ledger.ask()
    assert trial is not None
    return trial


def report(ledger: Ledger, number: int, step: int, score: float, cost: float = 1.0) -> TrialStatus:
    return ledger.report(number, step, {OBJECTIVE: score, COST: cost})


def at_most_five(config: TrialConfig) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Ten percent a latent, and a limit of fifty."""
    cost = 10.0 * config.strategy.latent_count
    return {COST: cost}, {COST: cost - 50.0}


# --- several objectives


def test_a_complete_trial_is_told_all_its_objectives(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, tradeoffs=[COST])
    assert report(ledger, ask(ledger).number, FULL, 0.5, 12.0) is TrialStatus.COMPLETE
    (frozen,) = ledger.study.get_trials(deepcopy=False)
    assert frozen.values == [0.5, 12.0]
    assert [one.name for one in ledger.study.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_a_missing_second_objective_fails_the_trial(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, tradeoffs=[COST])
    number = ask(ledger).number
    assert ledger.report(number, RUNGS[0], {OBJECTIVE: 0.5}) is TrialStatus.FAILED
    assert ledger.trial(number).reason == f"the metric {COST} is missing or not finite at step 2"


@pytest.mark.parametrize("rule", ["asha", "hyperband", "median"])
def test_several_objectives_are_stopped_as_one_by_the_first(tmp_path: Path, rule: str) -> None:
    """Whatever the second objective says: the first one ranks."""
    found = []
    for tradeoffs in ([], [COST]):
        ledger = open_ledger(
            tmp_path / str(len(tradeoffs)), trials=16, stopping=rule, tradeoffs=tradeoffs
        )
        found.append(_work_off(ledger, 16))
    assert found[0] == found[1]
    assert {status for _, status in found[0]} == {TrialStatus.COMPLETE, TrialStatus.PRUNED}


def _work_off(ledger: Ledger, trials: int) -> list[tuple[int, TrialStatus]]:
    for place in range(trials):
        number = ask(ledger).number
        for step in RUNGS:
            score = ((place * 5) % trials) / 10 + step / 100
            if report(ledger, number, step, score, cost=place) is not TrialStatus.RUNNING:
                break
    return [(trial.step, trial.status) for trial in ledger.all()]


def test_a_pruned_trial_of_several_objectives_keeps_its_reports(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, tradeoffs=[COST])
    first, second = ask(ledger).number, ask(ledger).number
    report(ledger, first, RUNGS[0], 0.9)
    assert report(ledger, second, RUNGS[0], 0.1) is TrialStatus.PRUNED
    again = open_ledger(tmp_path, tradeoffs=[COST])
    assert again.trial(second).reports == {RUNGS[0]: 0.1}
    assert again.study.get_trials(deepcopy=False)[second].state is TrialState.PRUNED


@pytest.mark.parametrize("kind", ["tpe", "nsga2"])
def test_samplers_of_several_objectives_go_on_after_pruned_and_infeasible_trials(
    tmp_path: Path, kind: Any
) -> None:
    ledger = open_ledger(
        tmp_path,
        axes=M_AXES,
        trials=10,
        tradeoffs=[COST],
        costs=at_most_five,
        sampler=SamplerConfig(kind=kind, startup_trials=3, population=3),
    )
    statuses = [status for _, status in _work_off(ledger, 10)]
    assert statuses.count(TrialStatus.INFEASIBLE) == len(statuses) - 10
    assert {TrialStatus.PRUNED, TrialStatus.COMPLETE} <= set(statuses)


# --- the same stops after a restart


@pytest.mark.parametrize("rule", ["asha", "hyperband", "median"])
@pytest.mark.parametrize("tradeoffs", [[], [COST]])
def test_a_ledger_opened_again_and_again_stops_the_same_trials(
    tmp_path: Path, rule: str, tradeoffs: list[str]
) -> None:
    options: dict[str, Any] = {"trials": 16, "stopping": rule, "tradeoffs": tradeoffs}
    interleaved = [(n, step) for step in RUNGS for n in (9, 4, 14, 2, 7, 11, 5, 3, 15, 8, 10)]
    order = [(n, step) for n in (0, 1) for step in RUNGS] + interleaved
    decided = []
    for reopens in (False, True):
        folder = tmp_path / str(reopens)
        ledger = open_ledger(folder, **options)
        for _ in range(16):
            ask(ledger)
        decisions = []
        for place, (number, step) in enumerate(order):
            if ledger.trial(number).status is not TrialStatus.RUNNING:
                continue
            score = (number * 5 % 16) / 10 + step / 100
            decisions.append((number, step, report(ledger, number, step, score)))
            if reopens and place % 3 == 0:  # a trial that goes on reports where it stood again
                ledger = open_ledger(folder, **options)
                assert report(ledger, number, step, score) is decisions[-1][2]
        decided.append(decisions)
    assert decided[0] == decided[1]
    assert TrialStatus.PRUNED in {status for *_, status in decided[0]}


# --- limits


def test_what_breaks_a_limit_is_told_and_replaced_and_never_trained(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, axes=M_AXES, trials=5, costs=at_most_five)
    asked = [ask(ledger) for _ in range(5)]
    assert ledger.ask() is None
    assert all(trial.config.strategy.latent_count <= 5 for trial in asked)
    infeasible = [t for t in ledger.all() if t.status is TrialStatus.INFEASIBLE]
    assert infeasible, "the seed drew nothing above the limit: nothing was tested"
    assert all(trial.attempts == 0 and trial.step == 0 for trial in infeasible)
    assert infeasible[0].reason == f"{COST}={infeasible[0].metrics[COST]:g} is above 50"
    for trial in ledger.all():
        (excess,) = ledger.study.get_trials(deepcopy=False)[trial.number].constraints.values()
        assert excess == 10 * trial.config.strategy.latent_count - 50


def test_baselines_keep_the_limits_too(tmp_path: Path) -> None:
    def nothing(config: TrialConfig) -> tuple[Mapping[str, float], Mapping[str, float]]:
        count = float(config.strategy.latent_count)
        return {COST: count}, {COST: count - 1}

    ledger = open_ledger(tmp_path, axes=M_AXES, baselines=2, trials=1, costs=nothing)
    assert ask(ledger).role is Role.BASELINE  # none
    assert ask(ledger).role is Role.SEARCH
    assert ledger.trial(1).status is TrialStatus.INFEASIBLE  # start2
    assert ledger.ask() is None


def test_a_limit_that_nothing_keeps_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.ledger.MAX_ILLEGAL_DRAWS", 3)
    ledger = open_ledger(tmp_path, costs=lambda _: ({COST: 9.0}, {COST: 8.0}))
    with pytest.raises(TrialError, match="3 configurations in a row broke one"):
        ledger.ask()


def test_a_grid_ends_where_its_last_point_is_beyond_the_limit(tmp_path: Path) -> None:
    grid = [{"strategy.triggers.start.m": m} for m in (5, 6, 2, 9)]
    ledger = open_ledger(tmp_path, axes=M_AXES, trials=4, grid=grid, costs=at_most_five)
    assert [ask(ledger).config.strategy.latent_count for _ in range(2)] == [5, 2]
    assert ledger.ask() is None
    assert not ledger.has_work()


# --- what is tried first


def test_start_points_are_tried_first_and_the_rest_of_them_drawn(tmp_path: Path) -> None:
    axes = {**M_AXES, "optim": {"lr": {"float": {"low": 0.005, "high": 0.05}}}}
    start = [{"strategy.triggers.start.m": 7}, {"strategy.triggers.start.m": 3, "optim.lr": 0.02}]
    ledger = open_ledger(tmp_path, axes=axes, trials=3, start=start)
    first, second, third = (ask(ledger) for _ in range(3))
    assert [t.config.strategy.latent_count for t in (first, second)] == [7, 3]
    assert 0.005 <= first.config.optim.lr <= 0.05
    assert second.config.optim.lr == 0.02
    assert third.role is Role.SEARCH
    assert ledger.ask() is None


def test_draws_do_not_depend_on_restarts(tmp_path: Path) -> None:
    whole = open_ledger(tmp_path / "whole")
    params = [dict(ask(whole).params) for _ in range(4)]
    parts = []
    for _ in range(4):
        ledger = open_ledger(tmp_path / "parts")
        while (trial := ask(ledger)).attempts > 1:
            pass
        parts.append(dict(trial.params))
    assert parts == params
    assert len({str(one) for one in params}) == 4


@pytest.mark.parametrize(
    "kind", ["tpe", pytest.param("gp", marks=pytest.mark.slow), "nsga2", "random"]
)
def test_every_sampler_draws(kind: Any) -> None:
    space: dict[str, Any] = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    make = sampler_of(SamplerConfig(kind=kind, startup_trials=2))
    study = optuna.create_study()
    for number in range(3):
        study.sampler = make(number)
        study.tell(study.ask(space), number)
    assert len({trial.params["x"] for trial in study.trials}) == 3


def test_neighbouring_draws_have_unrelated_seeds() -> None:
    seeds = [draw_seed(0, number) for number in range(100)]
    assert len(set(seeds)) == 100
    assert draw_seed(1, 0) not in seeds
