"""The replays behind `docs/search_studies.md`, and that the page is that of the stored numbers."""

from __future__ import annotations

import json

import numpy as np
import optuna
import pytest

from benchmarks import curves
from benchmarks.curve_replay import replay
from benchmarks.machine import RESULTS
from benchmarks.stopping import curve_of, interval, item_scores
from benchmarks.studies_page import PAGE, page, sampler_verdict, verdict

RUNGS = (1, 3, 9)


def test_a_replay_cuts_the_weak() -> None:
    scores = [0.1 * place for place in range(9)]
    found = replay([dict.fromkeys(RUNGS, s) for s in scores], range(8, -1, -1), RUNGS, 3)
    assert found.winner(scores) == 8
    assert found.reached[8] == 9
    assert found.reached[0] == 1
    assert found.steps == sum(found.reached)
    assert found.steps < 9 * 9


def test_the_rule_is_optunas() -> None:
    random = np.random.default_rng(0)
    for _ in range(6):
        scores = random.integers(6, size=14) / 6  # with ties
        study = optuna.create_study(
            direction="maximize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        )
        theirs = []
        for score in scores:
            trial = study.ask()
            reached = next((r for r in RUNGS[:-1] if _is_cut(trial, float(score), r)), RUNGS[-1])
            theirs.append(reached)
        curves_ = [dict.fromkeys(RUNGS, float(score)) for score in scores]
        assert list(replay(curves_, range(14), RUNGS, 3, at_once=1).reached) == theirs


def _is_cut(trial: optuna.Trial, score: float, rung: int) -> bool:
    trial.report(score, rung)
    return trial.should_prune()


def test_the_winner_is_of_those_that_ran_to_the_end() -> None:
    # The first to come are the weak ones, and one of them is best in the end.
    early, finals = [0.9, 0.1], [0.2, 0.8]
    curve = [dict.fromkeys(RUNGS, score) for score in early]
    assert replay(curve, [0, 1], RUNGS, 3).winner(finals) == 0


def test_the_stored_page_is_the_one_of_the_stored_numbers() -> None:
    assert PAGE.read_text() == page()


def test_the_stored_curves_are_whole() -> None:
    stored = json.loads(curves.FILE.read_text())
    assert len(stored["trials"]) >= 32
    for trial in stored["trials"]:
        assert sorted(curve_of(trial, "val_ood/exact_match")) == stored["setup"]["rungs"]
    assert item_scores(stored, "exact_match").shape[1] >= 500
    found = json.loads((RESULTS / "stopping.json").read_text())
    assert found["orders"] >= 200
    assert found["rows"][0]["trials"] == len(stored["trials"])


def test_items_are_read_as_they_were_kept() -> None:
    task = {"test_ood_lengths": [2, 3], "test_rows": 2}
    stored = {"setup": {"task": task}, "trials": [{"test_ood": "2013"}]}
    assert item_scores(stored, "exact_match").tolist() == [[True, False, False, True]]
    assert item_scores(stored, "equation_accuracy")[0] == pytest.approx([1, 0, 1 / 3, 1])
    assert interval(list(np.linspace(0, 1, 101)))["low"] == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-0.1, 0.1, "costs nothing"), (0.1, 0.3, "costs 0.200"), (-0.3, -0.1, "does better")],
)
def test_the_verdict_follows_the_interval(low: float, high: float, words: str) -> None:
    regret = {"mean": (low + high) / 2, "low": low, "high": high}
    row = {
        "setting": "s",
        "saved": {"mean": 0.6, "low": 0.4},
        "objectives": {"val_ood/exact_match": {"regret": regret}},
    }
    assert words in verdict(row)
    assert "on average" in verdict(row)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-1, 1, "does not help"), (0.1, 1, "helps after 12"), (-1, -0.1, "is worse")],
)
def test_the_samplers_verdict(low: float, high: float, words: str) -> None:
    gain = {"mean": (low + high) / 2, "low": low, "high": high}
    assert words in sampler_verdict({"rows": [{"trials": 12, "gain": gain}]})
