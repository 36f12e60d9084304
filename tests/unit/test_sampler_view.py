"""What samplers see: with baselines on, they model the axes that all trials of the space have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import SamplerConfig
from orchestrator.ledger import Ledger, LedgerTrial
from tests.unit.ledgers import OBJECTIVE, RUNGS, open_ledger

EVERY = {"kind": "every", "k": {"int": {"low": 2, "high": 30}}, "m": 1}
START = {"kind": "start", "m": {"int": {"low": 1, "high": 30}}}
BRANCHES: dict[str, Any] = {
    "start": {"triggers": {"start": START}},
    "every": {"triggers": {"every": EVERY}},
}
AXES: dict[str, Any] = {
    "strategy": {"name": "strategy.position", "one_of": BRANCHES},
    "optim": {"lr": {"float": {"low": 0.005, "high": 0.05}}},
}
OF_ALL = ["optim.lr", "strategy.position"]
RELATIVE = "tpe:relative_params:0"  # the attribute in which Optuna keeps what TPE has modelled


def told(ledger: Ledger, score: float | None = None) -> LedgerTrial:
    """One more trial, to its end; the rate is its score where none is given."""
    trial = ledger.ask()
    assert trial is not None
    value = trial.config.optim.lr if score is None else score
    ledger.report(trial.number, RUNGS[-1], {OBJECTIVE: value})
    return trial


def searching(folder: Path, trials: int, baselines: int = 2, **sampler: Any) -> Ledger:
    """A search of `AXES` with baselines and this sampler."""
    return open_ledger(
        folder, axes=AXES, baselines=baselines, trials=trials, sampler=SamplerConfig(**sampler)
    )


def drawn_rates(ledger: Ledger, trials: int) -> list[float]:
    """The rates of so many trials, the two baselines before them left out."""
    return [told(ledger).config.optim.lr for _ in range(2 + trials)][2:]


def modelled(ledger: Ledger) -> list[str]:
    """The axes that the last draw's sampler models together."""
    study = ledger.study
    return list(study.sampler.infer_relative_search_space(study, study.trials[-1]))


@pytest.mark.parametrize("baselines", [0, 2])
@pytest.mark.parametrize("kind", ["gp", "nsga2"])
def test_the_axes_of_every_trial_are_modelled_and_no_conditional_ones(
    tmp_path: Path, kind: Any, baselines: int
) -> None:
    ledger = searching(tmp_path, 8, baselines, kind=kind, startup_trials=20, population=20)
    drawn = [told(ledger) for _ in range(8 + baselines)][baselines:]
    assert {one.params["strategy.position"] for one in drawn} == set(BRANCHES)
    assert modelled(ledger) == OF_ALL


def test_evolution_crosses_what_it_has_seen_with_baselines_too(tmp_path: Path) -> None:
    rates = drawn_rates(searching(tmp_path, 16, kind="nsga2", population=4), 16)
    assert len(set(rates[:4])) == 4
    assert set(rates[4:]) & set(rates[:4]), "no child has a parent's rate"


@pytest.mark.slow
def test_a_gaussian_process_goes_where_it_is_better_with_baselines_too(tmp_path: Path) -> None:
    rates = drawn_rates(searching(tmp_path, 12, kind="gp", startup_trials=4), 12)
    assert min(rates[-4:]) > 0.04


def test_baselines_are_no_start_up_of_tpe(tmp_path: Path) -> None:
    ledger = searching(tmp_path, 5, kind="tpe", startup_trials=3)
    numbers = [told(ledger).number for _ in range(7)]
    trials = ledger.study.get_trials(deepcopy=False)
    assert [n for n in numbers if RELATIVE in trials[n].system_attrs] == [5, 6]


def test_tpe_learns_from_what_ended_since_its_last_draw(tmp_path: Path) -> None:
    rates = drawn_rates(searching(tmp_path, 30, kind="tpe", startup_trials=5), 30)
    assert sum(rates[-10:]) / 10 > 0.04, "a random draw is at 0.0275 on average"


@pytest.mark.parametrize("kind", ["tpe", "nsga2"])
def test_draws_that_were_learned_do_not_depend_on_restarts(tmp_path: Path, kind: Any) -> None:
    sampler = SamplerConfig(kind=kind, startup_trials=3, population=3)
    found = []
    for reopens in (False, True):
        folder = tmp_path / str(reopens)
        options: dict[str, Any] = {"axes": AXES, "baselines": 2, "trials": 10, "sampler": sampler}
        ledger = open_ledger(folder, **options)
        params = []
        for _ in range(12):
            params.append(dict(told(ledger).params))
            if reopens:
                ledger.close()
                ledger = open_ledger(folder, **options)
        found.append(params)
    assert found[0] == found[1]
