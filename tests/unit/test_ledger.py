"""The ledger: what is asked, what a report decides, and what a new driver finds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from orchestrator.config import SamplerConfig
from orchestrator.ledger import Ledger, LedgerTrial, Role, TrialStatus
from search_spaces import Space, legal_points
from tests.unit.ledgers import OBJECTIVE, RUNGS, open_ledger
from trainable.errors import TrialError

FULL = RUNGS[-1]


def ask(ledger: Ledger) -> LedgerTrial:
    trial = ledger.ask()
    assert trial is not None
    return trial


def report(ledger: Ledger, number: int, step: int, score: float) -> TrialStatus:
    return ledger.report(number, step, {OBJECTIVE: score, "train/loss": 1.0})


def optuna_state(ledger: Ledger, number: int) -> TrialState:
    return ledger.study.get_trials(deepcopy=False)[number].state


# --- what is asked


def test_baselines_come_first_then_draws_then_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, baselines=2, trials=2)
    asked = [ask(ledger) for _ in range(4)]
    assert [trial.number for trial in asked] == [0, 1, 2, 3]
    assert [trial.role for trial in asked] == [Role.BASELINE] * 2 + [Role.SEARCH] * 2
    assert [t.config.strategy.short_name for t in asked] == ["none", "start2", "start2", "start2"]
    assert [len(trial.params) for trial in asked] == [0, 0, 1, 1]
    assert all(trial.attempts == 1 and trial.step == 0 for trial in asked)
    assert asked[2].config.optim.lr == asked[2].params["optim.lr"] != asked[3].config.optim.lr
    assert not ledger.has_work()
    assert ledger.ask() is None


def test_a_budget_that_grew_asks_for_the_rest(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, trials=1)
    report(ledger, ask(ledger).number, FULL, 0.5)
    ledger = open_ledger(tmp_path, trials=2)
    assert ledger.has_work()
    assert ask(ledger).number == 1
    assert ledger.ask() is None


def test_failed_trials_count_as_trials(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, trials=2)
    ledger.fail(ask(ledger).number, "its engine burned")
    ask(ledger)
    assert ledger.ask() is None


def test_illegal_draws_are_told_failed_and_not_counted(tmp_path: Path) -> None:
    # `shared` refuses a pair of unequal m: half of the four combinations are illegal.
    triggers = {
        "start": {"kind": "start", "m": {"choice": [1, 2]}},
        "end": {"kind": "end", "m": {"choice": [1, 2]}},
    }
    ledger = open_ledger(tmp_path, axes={"strategy": {"triggers": triggers}}, trials=6)
    asked = [ask(ledger) for _ in range(6)]
    assert ledger.ask() is None
    assert {t.config.strategy.short_name for t in asked} == {"start1+end1", "start2+end2"}
    illegal = ledger.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    assert illegal, "the seed drew no illegal pair: nothing was tested"
    assert all("specialization" in trial.user_attrs["reason"] for trial in illegal)
    assert [trial.number for trial in ledger.all()] == [trial.number for trial in asked]


def test_a_space_without_a_legal_draw_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.ledger.MAX_ILLEGAL_DRAWS", 3)
    ledger = open_ledger(tmp_path, axes={"optim": {"lr": {"choice": [-1.0]}}})
    with pytest.raises(TrialError, match="no legal configuration in 3 draws"):
        ledger.ask()
    assert ledger.all() == []


GRID_AXES = {"strategy": {"triggers": {"start": {"kind": "start", "m": {"choice": [4, 1, 2]}}}}}


def grid_ledger(folder: Path, trials: int = 3) -> Ledger:
    points = legal_points(Space(GRID_AXES))
    return open_ledger(folder, axes=GRID_AXES, trials=trials, grid=points)


def test_a_grid_is_tried_in_its_order_and_once(tmp_path: Path) -> None:
    ledger = grid_ledger(tmp_path)
    assert [ask(ledger).config.strategy.short_name for _ in range(3)] == (
        ["start4", "start1", "start2"]
    )
    assert ledger.ask() is None


@pytest.mark.parametrize("died", ["before it asked", "before it entered"])
def test_a_grid_goes_on_where_its_driver_died(tmp_path: Path, died: str) -> None:
    ledger = grid_ledger(tmp_path)
    names = [ask(ledger).config.strategy.short_name]
    ledger.study.enqueue_trial({"strategy.triggers.start.m": 1})
    if died == "before it entered":
        ledger.study.ask()
    again = grid_ledger(tmp_path)
    assert ask(again).config.strategy.short_name == names[0]  # the one that was left running
    names += [ask(again).config.strategy.short_name for _ in range(2)]
    assert names == ["start4", "start1", "start2"]
    assert again.ask() is None


# --- what a report decides


def test_a_trial_runs_from_rung_to_rung_to_its_end(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    number = ask(ledger).number
    assert [report(ledger, number, step, step / 10) for step in RUNGS] == [
        TrialStatus.RUNNING,
        TrialStatus.RUNNING,
        TrialStatus.COMPLETE,
    ]
    trial = ledger.trial(number)
    assert trial.status is TrialStatus.COMPLETE
    assert (trial.step, trial.metrics) == (FULL, {OBJECTIVE: FULL / 10, "train/loss": 1.0})
    assert trial.reports == {step: step / 10 for step in RUNGS}
    assert optuna_state(ledger, number) is TrialState.COMPLETE
    assert ledger.study.best_value == FULL / 10


NLL = "val_id/nll"


def test_an_objective_may_be_better_below(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, objective=NLL)
    assert ledger.study.direction is StudyDirection.MINIMIZE
    for score, expected in ((0.5, TrialStatus.RUNNING), (0.9, TrialStatus.PRUNED)):
        assert ledger.report(ask(ledger).number, RUNGS[0], {NLL: score}) is expected
    assert ledger.report(0, FULL, {NLL: 0.4}) is TrialStatus.COMPLETE
    number = ask(ledger).number
    for step in RUNGS:
        ledger.report(number, step, {NLL: 0.3})
    assert ledger.study.best_trial.number == number
    assert ledger.trial(0).reports == {RUNGS[0]: 0.5, FULL: 0.4}


@pytest.mark.parametrize(
    ("objective", "metric", "good", "bad"),
    [(OBJECTIVE, NLL, 0.1, 0.9), (NLL, OBJECTIVE, 0.9, 0.1)],
)
def test_early_stopping_may_rank_the_other_way_round(
    tmp_path: Path, objective: str, metric: str, good: float, bad: float
) -> None:
    """The objective alone would decide otherwise: it is the same number for good and bad."""
    ledger = open_ledger(tmp_path, objective=objective, stopping_metric=metric)
    for rank, expected in ((good, TrialStatus.RUNNING), (bad, TrialStatus.PRUNED)):
        metrics = {objective: 0.5, metric: rank}
        assert ledger.report(ask(ledger).number, RUNGS[0], metrics) is expected
    assert ledger.trial(0).metrics[metric] == good  # as it was measured


def test_early_stopping_may_rank_by_another_metric(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, stopping_metric="val_id/exact_match")
    for score, rank, expected in (
        (0.0, 0.9, TrialStatus.RUNNING),
        (1.0, 0.1, TrialStatus.PRUNED),
    ):
        number = ask(ledger).number
        metrics = {OBJECTIVE: score, "val_id/exact_match": rank}
        assert ledger.report(number, RUNGS[0], metrics) is expected
    assert ledger.report(0, FULL, {OBJECTIVE: 0.3, "val_id/exact_match": 0.8}) == "complete"
    assert ledger.study.best_value == 0.3


def test_a_report_may_be_repeated(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    first, second = ask(ledger).number, ask(ledger).number
    for number, score in ((first, 0.9), (second, 0.1)):
        before = report(ledger, number, RUNGS[0], score)
        known = ledger.trial(number)
        assert report(ledger, number, RUNGS[0], 1 - score) is before
        assert ledger.trial(number) == known
    assert ledger.trial(second).status is TrialStatus.PRUNED
    assert report(ledger, first, FULL, 0.5) is TrialStatus.COMPLETE
    assert report(ledger, first, FULL, 0.6) is TrialStatus.COMPLETE
    assert ledger.fail(first, "late") is ledger.stop(first, "late") is TrialStatus.COMPLETE
    assert (ledger.trial(first).metrics[OBJECTIVE], ledger.trial(first).reason) == (0.5, None)


def test_a_late_report_of_an_earlier_step_takes_nothing_back(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    number = ask(ledger).number
    for step in (RUNGS[0], RUNGS[1], RUNGS[0]):
        assert report(ledger, number, step, step / 10) is TrialStatus.RUNNING
    assert (ledger.trial(number).step, ledger.trial(number).metrics[OBJECTIVE]) == (4, 0.4)


def test_each_end_has_its_state_and_reason(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, trials=3)
    for _ in range(3):
        ask(ledger)
    report(ledger, 0, RUNGS[0], 0.9)
    report(ledger, 1, RUNGS[0], 0.1)
    ledger.stop(0, "by hand")
    ledger.fail(2, "the engine burned")
    assert [(t.status, t.reason) for t in ledger.all()] == [
        (TrialStatus.STOPPED, "by hand"),
        (TrialStatus.PRUNED, None),
        (TrialStatus.FAILED, "the engine burned"),
    ]
    assert [optuna_state(ledger, n) for n in range(3)] == [
        TrialState.PRUNED,
        TrialState.PRUNED,
        TrialState.FAIL,
    ]


def test_a_trial_stopped_before_its_first_report_is_stopped(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, baselines=1, trials=1)
    for number in (ask(ledger).number, ask(ledger).number):
        assert ledger.stop(number, "by hand") is TrialStatus.STOPPED
        assert ledger.trial(number).status is TrialStatus.STOPPED
        assert optuna_state(ledger, number).is_finished()
    assert [trial.status for trial in open_ledger(tmp_path).all()] == [TrialStatus.STOPPED] * 2


def test_baselines_are_never_cut_and_cut_nobody(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, baselines=2, trials=2)
    for _ in range(4):
        ask(ledger)
    assert report(ledger, 2, RUNGS[0], 0.2) is TrialStatus.RUNNING
    assert report(ledger, 0, RUNGS[0], 0.0) is TrialStatus.RUNNING  # the worst of all
    assert report(ledger, 1, RUNGS[0], 0.9) is TrialStatus.RUNNING
    # The better of two search trials; against the baseline it would have been cut.
    assert report(ledger, 3, RUNGS[0], 0.3) is TrialStatus.RUNNING
    assert report(ledger, 0, FULL, 0.0) is TrialStatus.COMPLETE


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("baselines", [0, 1])
def test_a_metric_that_is_missing_or_not_finite_fails_the_trial(
    tmp_path: Path, value: float | None, baselines: int
) -> None:
    ledger = open_ledger(tmp_path, baselines=baselines)
    number = ask(ledger).number
    metrics = {"train/loss": 1.0} | ({} if value is None else {OBJECTIVE: value})
    assert ledger.report(number, RUNGS[0], metrics) is TrialStatus.FAILED
    trial = ledger.trial(number)
    assert trial.status is TrialStatus.FAILED
    assert trial.reason == f"the metric {OBJECTIVE} is missing or not finite at step 2"
    assert optuna_state(ledger, number) is TrialState.FAIL


@pytest.mark.parametrize("value", ["0.5", [0.5], True, math.nan])
def test_a_metric_that_is_no_number_fails_as_numeric(tmp_path: Path, value: object) -> None:
    ledger = open_ledger(tmp_path)
    number = ask(ledger).number
    status = ledger.report(number, RUNGS[0], {OBJECTIVE: value})  # type: ignore[dict-item]
    assert (status, ledger.trial(number).failure) == (TrialStatus.FAILED, "numeric")
    assert ledger.trial(number).reports == {}


def test_without_stopping_nobody_is_cut(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, stopping="none")
    for score in (0.9, 0.1, 0.0):
        assert report(ledger, ask(ledger).number, RUNGS[0], score) is TrialStatus.RUNNING


# --- what a new driver finds


def test_running_trials_come_back_first_from_their_last_step(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, baselines=1, trials=4)
    for _ in range(4):
        ask(ledger)
    report(ledger, 1, RUNGS[0], 0.9)
    report(ledger, 2, RUNGS[0], 0.95)
    ledger.pause(2, 3)
    report(ledger, 0, FULL, 0.1)
    again = open_ledger(tmp_path, baselines=1, trials=4)
    asked = [ask(again) for _ in range(4)]
    assert [(t.number, t.step, t.attempts) for t in asked] == [
        (1, 2, 2),
        (2, 3, 2),
        (3, 0, 2),
        (4, 0, 1),
    ]
    assert [t.config for t in asked[:3]] == [ledger.trial(n).config for n in (1, 2, 3)]
    assert asked[0].metrics == {OBJECTIVE: 0.9, "train/loss": 1.0}
    assert again.ask() is None


def test_a_pause_of_a_finished_trial_changes_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    report(ledger, ask(ledger).number, FULL, 0.5)
    ledger.pause(0, 3)
    assert ledger.trial(0).step == FULL


def test_a_trial_asked_but_not_entered_is_closed(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, trials=2)
    ask(ledger)
    ledger.study.ask()  # and then its driver died
    again = open_ledger(tmp_path, trials=2)
    assert optuna_state(again, 1) is TrialState.FAIL
    assert [ask(again).number for _ in range(2)] == [0, 2]
    assert again.ask() is None
    assert [trial.number for trial in again.all()] == [0, 2]


def scores(seed: int) -> dict[tuple[int, int], float]:
    """What trial n scores at step s: better with training, trials far apart."""
    order = [3, 0, 5, 2, 4, 1, 7, 6]
    return {
        (n, s): order[(n + seed) % 8] / 10 + s / 1000 for n in range(20) for s in RUNGS
    }  # fmt: skip


def statuses(ledger: Ledger) -> list[tuple[int, TrialStatus, int]]:
    return [(trial.number, trial.status, trial.step) for trial in ledger.all()]


def test_decisions_after_reopening_are_those_of_an_uninterrupted_ledger(tmp_path: Path) -> None:
    trials = 6
    order = [(n, s) for s in RUNGS for n in (4, 0, 2, 1, 5, 3)]
    decisions = []
    for reopen_after in (None, 1, 4, 7, 9):
        folder = tmp_path / str(reopen_after)
        ledger = open_ledger(folder, trials=trials)
        for _ in range(trials):
            ask(ledger)
        decided = []
        for place, (number, step) in enumerate(order):
            if place == reopen_after:
                ledger = open_ledger(folder, trials=trials, seed=9)
            if ledger.trial(number).status is TrialStatus.RUNNING:
                decided.append(report(ledger, number, step, scores(0)[number, step]))
        decisions.append((decided, statuses(ledger)))
    assert {TrialStatus.PRUNED, TrialStatus.COMPLETE} < set(decisions[0][0])
    assert all(decision == decisions[0] for decision in decisions[1:])


class Killed(BaseException):
    """A driver's end at a given point."""


class Driver:
    """Works a search off, two trials at a time, and dies after `fuel` calls of the ledger."""

    def __init__(self, ledger: Ledger, fuel: int) -> None:
        self._ledger = ledger
        self._fuel = fuel

    def run(self) -> None:
        running: dict[int, int] = {}
        while True:
            while len(running) < 2:
                self._burn()
                trial = self._ledger.ask()
                if trial is None:
                    break
                assert trial.number not in running
                running[trial.number] = trial.step
            if not running:
                return
            for number, step in list(running.items()):
                self._burn()
                rung = next(rung for rung in RUNGS if rung > step)
                score = scores(1)[number, rung]
                running[number] = rung
                if report(self._ledger, number, rung, score) is not TrialStatus.RUNNING:
                    del running[number]

    def _burn(self) -> None:
        self._fuel -= 1
        if self._fuel < 0:
            raise Killed


@pytest.mark.parametrize("fuel", [1, 2, 3, 5, 7])
def test_however_often_it_is_killed_a_search_has_exactly_its_trials(
    tmp_path: Path, fuel: int
) -> None:
    attempts = itertools.count()
    while True:
        assert next(attempts) < 60, "the search never ends"
        ledger = open_ledger(tmp_path, baselines=1, trials=3, seed=fuel)
        try:
            # A driver that never gets beyond asking would ask for ever.
            Driver(ledger, fuel + next(attempts)).run()
        except Killed:
            continue
        break
    roles = [trial.role for trial in ledger.all()]
    assert (roles.count(Role.BASELINE), roles.count(Role.SEARCH)) == (1, 3)
    assert all(trial.status is not TrialStatus.RUNNING for trial in ledger.all())
    for trial in ledger.all():
        assert set(trial.reports) <= set(RUNGS)
        assert trial.reports == {s: scores(1)[trial.number, s] for s in trial.reports}
    assert not open_ledger(tmp_path, baselines=1, trials=3).has_work()


def test_a_report_that_was_cut_short_never_was(tmp_path: Path) -> None:
    """A report is several writes and one transaction: nothing of it, or the end as well."""
    ledger = open_ledger(tmp_path, trials=1)
    number = ask(ledger).number
    ledger._store.tell = _die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        report(ledger, number, FULL, 0.5)
    again = open_ledger(tmp_path, trials=1)
    asked = ask(again)
    assert (asked.number, asked.step, asked.metrics, asked.reports) == (number, 0, {}, {})
    assert report(again, number, FULL, 0.5) is TrialStatus.COMPLETE
    assert again.trial(number).metrics[OBJECTIVE] == 0.5


def _die(*_: object, **__: object) -> None:
    raise Killed


def test_a_random_draw_follows_from_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    """Drivers that die while they ask, and scores that differ, change no configuration."""
    whole = open_ledger(tmp_path / "whole", trials=5)
    expected = [ask(whole).params for _ in range(5)]
    assert len({str(params) for params in expected}) == 5
    drawn = []
    for place in range(5):
        dying = open_ledger(tmp_path / "killed", trials=5)
        dying._store.set = _die  # type: ignore[method-assign]
        with pytest.raises(Killed):
            dying._next_draw()
        ledger = open_ledger(tmp_path / "killed", trials=5)
        drawn.append(ask(ledger).params)
        report(ledger, place, FULL, place / 10)
    assert drawn == expected
    assert [trial.number for trial in ledger.all()] == list(range(5))


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("start", [(), [{"optim.lr": 0.01}]])
def test_a_trial_is_known_as_it_is_stored(
    tmp_path: Path, sampler: Any, start: Sequence[dict[str, Any]]
) -> None:
    """The driver reads no trial back that it has just written."""
    ledger = open_ledger(tmp_path, sampler=SamplerConfig(kind=sampler), start=start)
    for step in (0, RUNGS[0], FULL):
        if step == 0:
            ask(ledger)
        else:
            report(ledger, 0, step, 0.5)
        known, stored = ledger._store.trial(0), ledger._store._read(0)
        assert known is not stored
        for field in ("params", "distributions", "user_attrs", "intermediate_values", "values",
                      "state", "datetime_start"):  # fmt: skip
            assert getattr(known, field) == getattr(stored, field), field


def test_spent_time_adds_up_over_runs(tmp_path: Path) -> None:
    assert open_ledger(tmp_path).spent_s == 0.0
    open_ledger(tmp_path).add_spent(2.5)
    open_ledger(tmp_path).add_spent(1.25)
    assert open_ledger(tmp_path).spent_s == 3.75
