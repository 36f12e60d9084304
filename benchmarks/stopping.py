"""What early stopping saves, and what it costs: ASHA over recorded curves in many random orders.

    python -m benchmarks.curves      # records them; minutes
    python -m benchmarks.stopping    # replays them; seconds

The numbers go to `results/stopping.json`, the figure to `docs/images/stopping.svg`, and the page
`docs/search_studies.md` is written from them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks import curves, machine
from benchmarks.curve_replay import AT_ONCE, Replay, replay

ORDERS = 200
# Cut at a ninth and a third of the steps, as the demo does. And two that cut earlier, and later.
SETTINGS: tuple[tuple[str, tuple[int, ...], int], ...] = (
    ("asha, factor 3 from 30", (30, 90, 270), 3),
    ("asha, factor 3 from 15", (15, 45, 135, 270), 3),
    ("asha, factor 3 from 45", (45, 135, 270), 3),
)
RANKED_BY = "val_ood/exact_match"  # the objective, as in the demo
OBJECTIVES = ("val_ood/exact_match", "val_ood/equation_accuracy")
FIGURE = machine.RESULTS.parent.parent / "docs" / "images" / "stopping.svg"
LEVEL = 0.95


def main() -> None:
    """Replay, keep the numbers, draw."""
    stored = json.loads(curves.FILE.read_text())
    rows = [study(stored, *setting) for setting in SETTINGS]
    path = machine.RESULTS / "stopping.json"
    path.write_text(json.dumps({"orders": ORDERS, "rows": rows}, indent=1) + "\n")
    draw(stored, FIGURE)
    from benchmarks.studies_page import write_page

    write_page()
    sys.stdout.write(f"written to {path.name}, {FIGURE.name} and the page\n")


def study(
    stored: Mapping[str, Any], name: str, rungs: tuple[int, ...], factor: int
) -> dict[str, Any]:
    """One setting over all orders: what was saved, and how much worse its winner is."""
    trials = stored["trials"]
    ranks = [curve_of(trial, RANKED_BY) for trial in trials]
    random = np.random.default_rng(0)
    orders = [random.permutation(len(trials)).tolist() for _ in range(ORDERS)]
    full = len(trials) * rungs[-1]
    row: dict[str, Any] = {"setting": name, "rungs": list(rungs), "factor": factor}
    found = [replay(ranks, order, rungs, factor) for order in orders]
    row |= {"trials": len(trials), "at_once": AT_ONCE, "objectives": {}}
    row["saved"] = interval([1 - one.steps / full for one in found])
    row["complete"] = float(np.mean([len(one.complete) for one in found]))
    for objective in OBJECTIVES:
        finals = [curve_of(trial, objective)[rungs[-1]] for trial in trials]
        row["objectives"][objective] = regret(stored, finals, found, objective)
    return row


def regret(
    stored: Mapping[str, Any], finals: Sequence[float], found: Sequence[Replay], objective: str
) -> dict[str, Any]:
    """On the test rows: the winner without stopping, less the winner with it.

    The interval resamples orders and rows together: what another order, and other rows, might
    have shown.
    """
    scores_KI = item_scores(stored, objective.split("/")[1])
    best = int(np.argmax(finals))
    winners_O = np.array([one.winner(finals) for one in found])
    random = np.random.default_rng(1)
    draws = []
    for _ in range(1000):
        rows_I = random.integers(scores_KI.shape[1], size=scores_KI.shape[1])
        chosen_O = winners_O[random.integers(len(winners_O), size=len(winners_O))]
        means_K = scores_KI[:, rows_I].mean(1)
        draws.append(means_K[best] - means_K[chosen_O].mean())
    means_K = scores_KI.mean(1)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {
        "items": int(scores_KI.shape[1]),
        "without_stopping": float(means_K[best]),
        "with_stopping": float(means_K[winners_O].mean()),
        "regret": {
            "mean": float(means_K[best] - means_K[winners_O].mean()),
            "low": float(low),
            "high": float(high),
        },
        "same_winner": float((winners_O == best).mean()),
        "spread_of_all": float(np.std(means_K)),
        "random_pick": float(means_K[best] - means_K.mean()),
    }


def curve_of(trial: Mapping[str, Any], metric: str) -> dict[int, float]:
    """Step to a metric."""
    return {point["step"]: point["metrics"][metric] for point in trial["curve"]}


def item_scores(stored: Mapping[str, Any], metric: str) -> Any:
    """[K, I], the score of each recorded trial on each test row."""
    task = stored["setup"]["task"]
    sizes = np.repeat(task["test_ood_lengths"], task["test_rows"])
    right_KI = np.array([[int(digit, 16) for digit in t["test_ood"]] for t in stored["trials"]])
    return right_KI == sizes if metric == "exact_match" else right_KI / sizes


def interval(values: Sequence[float]) -> dict[str, float]:
    """The mean, and where 95 of 100 orders lie."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}


def draw(stored: Mapping[str, Any], path: Any) -> None:
    """The curves, and in bold where one order's search left each of them."""
    trials = stored["trials"]
    name, rungs, factor = SETTINGS[0]
    ranks = [curve_of(trial, RANKED_BY) for trial in trials]
    order = np.random.default_rng(0).permutation(len(trials)).tolist()
    reached = replay(ranks, order, rungs, factor).reached
    with mpl.rc_context({"svg.hashsalt": "stopping", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.subplots()
        for which, curve in enumerate(ranks):
            steps = sorted(curve)
            axes.plot(steps, [curve[s] for s in steps], color="0.85", lw=0.8, zorder=1)
            kept = [s for s in steps if s <= reached[which]]
            color = "C0" if reached[which] == rungs[-1] else "C1"
            axes.plot(kept, [curve[s] for s in kept], color=color, lw=1.1, zorder=2)
            axes.plot(kept[-1:], [curve[s] for s in kept[-1:]], "o", color=color, ms=2.5, zorder=3)
        for rung in rungs[:-1]:
            axes.axvline(rung, color="0.5", lw=0.7, ls=":")
        axes.set_xlabel("optimiser steps")
        axes.set_ylabel(RANKED_BY)
        axes.set_title(
            f"{len(trials)} recorded trials; one search with {name}: blue ran to the end, "
            "orange was cut, grey is what was saved",
            fontsize=8,
        )
        figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
