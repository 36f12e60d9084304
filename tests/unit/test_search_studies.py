"""The replays behind `docs/search_studies.md`, and that the page is that of the stored numbers."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import optuna
import pytest

from benchmarks import curves, samplers
from benchmarks.curve_replay import replay
from benchmarks.machine import RESULTS
from benchmarks.stopping import SETTINGS, curve_of, interval, item_scores
from benchmarks.studies_page import DEMO, PAGE, demo_words, page, sampler_verdict, verdict
from orchestrator.config import SamplerConfig, load_search
from orchestrator.sampling import sampler_of
from search_spaces import PRESETS
from tests.unit.test_sampler_view import RELATIVE

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


def rows_of(*gains: tuple[float, float]) -> dict[str, Any]:
    return {
        "rows": [
            {"trials": 12 * 2**place, "gain": {"mean": (low + high) / 2, "low": low, "high": high}}
            for place, (low, high) in enumerate(gains)
        ]
    }


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ([(-1, 1), (-1, 1)], r"does not help\*\* measurably here: no interval excludes 0\. "),
        ([(0.1, 1), (-1, 1)], "is better after 12 trials, where .* elsewhere nothing is shown"),
        (
            [(0.1, 1), (0.1, 1)],
            r"is better after 12 and 24 trials, where the interval excludes 0\. ",
        ),
        ([(-1, 1), (-1, -0.1)], "is worse.* after 24 trials"),
        ([(0.1, 1), (-1, -0.1)], "is better after 12 .*is worse.* after 24 "),
    ],
)
def test_the_samplers_verdict(gains: list[tuple[float, float]], words: str) -> None:
    assert re.search(words, sampler_verdict(rows_of(*gains)))


def test_the_samplers_verdict_has_every_interval() -> None:
    said = sampler_verdict(rows_of((0, 0.02), (-0.01, 0.03), (-0.02, 0.02)))
    for gain in ("+0.010 (+0.000 to +0.020) after 12", "(-0.010 to +0.030) after 24",
                 "(-0.020 to +0.020) after 48"):  # fmt: skip
        assert gain in said
    assert "3 intervals of 95 % each, none corrected for the others" in said


def test_the_benchmark_draws_as_a_search_does() -> None:
    theirs = sampler_of(SamplerConfig(kind="tpe", seed=3))
    found = []
    for make in (theirs, samplers.sampler("tpe", 3)):
        study = optuna.create_study()
        for number in range(12):
            study.sampler = make(number)
            trial = study.ask()
            PRESETS["quick"]().sample(trial)
            study.tell(trial, number)
        found.append([trial.params for trial in study.trials])
        assert RELATIVE in study.trials[-1].system_attrs
    assert found[0] == found[1]


def test_the_page_tells_the_demos_rule_from_the_replayed_one() -> None:
    demo = load_search(DEMO)
    recorded = json.loads(curves.FILE.read_text())
    rungs = SETTINGS[0][1]
    said = demo_words(recorded, rungs)
    assert "from 60 of 540 steps by 3" in said
    assert "8 rows a step where these have 4, and chains of 3 to 10" in said
    steps, first, factor = demo.budget.steps, demo.stopping.min_steps, demo.stopping.factor
    assert [first / steps, first * factor / steps] == [rung / rungs[-1] for rung in rungs[:-1]]
    assert "The demo's rule (" not in PAGE.read_text()
