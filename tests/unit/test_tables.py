"""The end of a run and `latentune status`, as a person reads them."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from orchestrator.confirmation_record import ConfirmationCost, ConfirmationEstimate
from orchestrator.ledger import Role
from orchestrator.results import DataRecord, SearchResult, SpentRecord
from orchestrator.tables import print_result, print_status
from tests.unit.records import SPLIT, record, result

WORDS = "2 latent tokens at the start of the query."


def shown(show: Callable[[Console, SearchResult], None], what: SearchResult) -> str:
    text = io.StringIO()
    show(Console(file=text, width=110), what)
    return text.getvalue()


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows; rich draws them between bars."""
    lines = [line.replace("┃", "│") for line in text.splitlines()]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]


def costs(in_distribution: float, extra: float) -> dict[str, float]:
    return {"val_id/exact_match": in_distribution, "cost/extra_tokens_pct": extra}


TRIALS = [
    record(0, "none", 0.0, role=Role.BASELINE, metrics=costs(0.03125, 0.0)),
    record(1, "start4", 0.25, role=Role.BASELINE, metrics=costs(0.9, 12.4)),
    record(2, "start8", 0.375, metrics=costs(0.96875, 25.6)),
    record(3, "every8x2", 0.1, "pruned", step=60, metrics=costs(0.2, 30.0)),
    record(4, "comma1", 0.2, "pruned", step=180, metrics=costs(0.3, 8.0)),
    record(5, "end2", 0.05, "pruned", step=60, metrics=costs(0.1, 5.0)),
    record(6, "end4", None, "failed", step=0, reason="lower optim.lr=0.05"),
    record(7, "end8", 0.01, "stopped", step=90, metrics=costs(0.1, 20.0)),
]


def test_the_end_of_a_run() -> None:
    data = DataRecord(rows={"train": 8}, example="44@47=")
    ended = result(TRIALS, best="tiny-2", summary=WORDS, time=SPLIT, data=data)
    text = shown(print_result, ended)
    header = ["trial", "strategy", "ID", "OOD", "extra", "steps", "state"]
    assert text.startswith("tiny: exact match in distribution (ID)")
    assert rows(text) == [
        header,
        ["2", "start8", "0.969", "0.375", "26 %", "540", "complete"],
        ["4", "comma1", "0.300", "0.200", "8 %", "180", "pruned"],
        ["3", "every8x2", "0.200", "0.100", "30 %", "60", "pruned"],
        ["5", "end2", "0.100", "0.050", "5 %", "60", "pruned"],
        ["7", "end8", "0.100", "0.010", "20 %", "90", "stopped"],
        header,
        ["1", "start4", "0.900", "0.250", "12 %", "540", "complete"],
        ["0", "none", "0.031", "0.000", "0 %", "540", "complete"],
    ]
    assert f"Candidate: tiny-2. {WORDS}" in text
    assert "not confirmed on data that the search never saw" in text
    assert "Cut early: trials at step 60: 3, 5; at step 180: 4." in text
    assert "1 failed, numeric; the first one (tiny-6): lower optim.lr=0.05" in text
    assert (
        "Time: 100 s in all; the engine trained for 60 s (4321 trial-steps), evaluated for "
        "15 s and waited 1.0 s for decisions; everything else (start-up, processes, Tune, Optuna, "
        "tracking) took 24 s." in text
    )
    assert text.endswith(
        "Next:\n"
        "  latentune ui                                  # look at the runs in MLflow\n"
        "  latentune pull tiny --to ./tiny\n"
        '  latentune generate ./tiny "44@47="\n'
    )


def test_a_run_without_a_complete_trial_names_no_candidate() -> None:
    text = shown(print_result, result([record(0, "start2", None, "failed", reason="no room")]))
    assert "No trial has run to the full budget yet, so there is no candidate." in text
    assert "No trial was cut early." in text
    assert "Time:" not in text
    assert text.endswith("Next:\n  latentune status tiny\n")
    assert ["0", "start2", "-", "-", "-", "540", "failed: numeric"] in rows(text)


def test_an_objective_of_its_own_has_a_column_of_its_own() -> None:
    nll = "val_id/nll"
    trials = [record(n, "a", None, metrics={nll: v}) for n, v in enumerate((0.5, 0.25))]
    text = shown(print_result, result(trials, objective=nll))
    assert text.startswith("tiny: val_id/nll (less is better), exact match in distribution (ID)")
    found = rows(text)
    assert found[0] == ["trial", "strategy", nll, "ID", "OOD", "extra", "steps", "state"]
    assert [row[:3] for row in found[1:]] == [["1", "a", "0.250"], ["0", "a", "0.500"]]


def test_what_a_task_has_not_got_has_no_column() -> None:
    trials = [record(0, "a", None, metrics={"val_id/exact_match": 0.5})]
    text = shown(print_result, result(trials, objective="val_id/exact_match"))
    assert text.startswith("tiny: exact match in distribution (ID), extra tokens, optimiser steps")
    assert rows(text)[0] == ["trial", "strategy", "ID", "extra", "steps", "state"]


@pytest.mark.parametrize(
    ("example", "prompt"),
    [
        ("44@47=", '"44@47="'),
        ("what's up?", '"what\'s up?"'),
        ('say "hi"', "'say \"hi\"'"),
        ("costs $5", "'costs $5'"),
        ("two\nlines", '"PROMPT"'),
        ("x" * 61, '"PROMPT"'),
        (None, '"PROMPT"'),
    ],
)
def test_the_next_command_has_a_prompt_that_a_shell_takes(example: str | None, prompt: str) -> None:
    data = DataRecord(rows={}, example=example)
    text = shown(print_result, result(TRIALS, best="tiny-2", summary=WORDS, data=data))
    assert text.endswith(f"  latentune generate ./tiny {prompt}\n")


def test_status_shows_every_trial() -> None:
    text = shown(print_status, result(TRIALS, state="running", best="tiny-2", summary=WORDS))
    assert text.startswith("tiny: running; trials: 3 complete, 1 failed, 3 pruned, 1 stopped\n")
    assert [row[0] for row in rows(text)[1:]] == [str(number) for number in range(8)]
    assert f"Candidate: tiny-2. {WORDS}" in text


def test_status_of_a_search_without_trials() -> None:
    assert shown(print_status, result([])).startswith("tiny: complete; trials: none yet\n")


def test_words_are_not_taken_for_markup() -> None:
    text = shown(print_result, result([record(0, "a", None, "failed", reason="got [red], [/]")]))
    assert "got [red], [/]" in text


def test_several_objectives_end_with_their_front_and_its_knee() -> None:
    text = shown(
        print_status,
        result(
            TRIALS, tradeoffs=["cost/extra_tokens_pct"], front=["tiny-2", "tiny-0"], knee="tiny-2"
        ),
    )
    assert (
        "Pareto front (val_ood/exact_match: more, cost/extra_tokens_pct: less):\n"
        "      2  start8  0.375, 25.600  <- recommended compromise\n"
        "      0  none  0.000, 0.000\n" in text
    )


def test_what_was_spent_is_told_with_the_budgets_that_are_spent() -> None:
    spent = SpentRecord(
        trials=4,
        infeasible=2,
        steps=900,
        tokens=12345,
        time_s=360.0,
        gpu_hours=0.1,
        money=0.5,
        over=["trials", "tokens", "money"],
    )
    text = shown(print_status, result(TRIALS, spent=spent))
    assert (
        "Spent in all runs: 4 trials, 2 more beyond the limits, never trained, 900 optimiser "
        "steps, 12345 tokens, 360 s, 0.10 GPU-hours, 0.50 at the price given. Spent: "
        "budget.tokens, budget.money." in text
    )


def test_what_the_confirmation_took_stands_beside_what_was_expected() -> None:
    spent = SpentRecord(
        trials=1, infeasible=0, steps=10, tokens=None, time_s=90.0, gpu_hours=0.0, money=None,
        confirm_s=60.0, confirm_steps=80, over=[],
    )  # fmt: skip
    planned = ConfirmationEstimate(
        members=9, steps=90, train_tokens=1.0, score_tokens=1.0, gpus=0, seconds=50.0
    )
    cost = ConfirmationCost(seconds=60.0, steps=80, estimate=planned)
    text = shown(print_result, result(TRIALS, spent=spent, confirm_cost=cost))
    assert "10 optimiser steps, 90 s (60 s and 80 more steps to confirm)." in text
    assert (
        "Confirmation: 60 s and 80 trained steps it took; at most 90 steps and about 50 s of "
        "training and scoring were estimated." in text
    )
    alone = cost.model_copy(update={"estimate": None})
    assert "nothing was estimated" in shown(print_result, result(TRIALS, confirm_cost=alone))


def test_choosing_is_told_where_it_took_time() -> None:
    split = SPLIT.model_copy(update={"ask_s": 2.5})
    text = shown(print_result, result(TRIALS, time=split))
    assert "took 24 s. Choosing configurations took 2.5 s of it." in text
