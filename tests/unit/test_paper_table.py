"""The page of results: its numbers, its words, and that it is the one of the stored runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import RESULTS
from benchmarks.paper import PAGE, TASKS, Estimate, arms_of, estimate, finding, keep, page

TASK = TASKS[0]


def search(**arms: Sequence[float]) -> dict[str, Any]:
    """A search with one trial per score, the score being that of the only distance, 20."""
    trials = [
        {
            "uid": f"s-{arm}-{seed}",
            "status": "complete",
            "step": 9,
            "params": {"strategy.arm": arm, "seed": seed},
            "metrics": {
                "val_id/exact_match": score,
                "val_id/exact_match/3": score,
                "val_ood/exact_match/20": score,
                "val_ood/equation_accuracy": score,
                "cost/extra_tokens_pct": 10.0,
            },
        }
        for arm, scores in arms.items()
        for seed, score in enumerate(scores)
    ]
    return {"trials": trials}


def words(**arms: Sequence[float]) -> str:
    return "\n".join(finding(TASK, arms_of(search(**arms)), [20]))


def test_an_interval_is_students() -> None:
    found = estimate([0.1, 0.2, 0.3])
    assert found.mean == pytest.approx(0.2)
    assert found.half == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert str(Estimate(0.2, 0.248)) == "0.20 ± 0.25"
    assert math.isnan(estimate([0.5]).half)


def test_a_gain_that_is_there() -> None:
    text = words(none=[0, 0], start2=[0.1, 0.12], end2=[0.2, 0.2], comma2=[0.5, 0.52])
    assert "the best baseline is `end2`" in text
    assert "+155 %" in text
    assert "**the finding appears**" in text


@pytest.mark.parametrize(
    ("start2", "comma2", "verdict"),
    [
        ([0.1, 0.6], [0.4, 0.8], "undecided"),
        ([0.5, 0.5], [0.4, 0.4], "**the finding does not appear**: the baseline"),
        ([0.0, 0.0], [0.0, 0.0], "neither gets a single row right"),
    ],
)
def test_a_gain_that_is_not(start2: list[float], comma2: list[float], verdict: str) -> None:
    assert verdict in words(start2=start2, comma2=comma2)


def test_random_sites_are_no_baseline() -> None:
    assert "best baseline is `start2`" in words(
        start2=[0.1, 0.1], random2=[0.9, 0.9], comma2=[0, 0]
    )


def test_a_table_with_holes_is_refused() -> None:
    holed = search(start2=[0.1, 0.2])
    holed["trials"][0]["status"] = "running"
    with pytest.raises(ValueError, match="s-start2-0 is running"):
        arms_of(holed)


def test_the_page_is_that_of_the_stored_runs() -> None:
    searches = {
        task.name: json.loads((RESULTS / f"paper-{task.name}.json").read_text()) for task in TASKS
    }
    assert PAGE.read_text() == page(searches)


def test_nothing_of_the_machine_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.paper.RESULTS", tmp_path)
    status = search(start2=[0.5])
    status |= {"tracking_uri": "sqlite:////home/me/mlflow.db", "artifact": "/home/me/artifact"}
    for trial in status["trials"]:
        trial |= {"strategy": "start2", "role": "search", "attempts": 1, "reason": None}
    kept = keep("generation", status)
    assert "/home" not in kept.read_text()
    assert arms_of(json.loads(kept.read_text())).keys() == {"start2"}
