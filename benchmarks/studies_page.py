"""The page `docs/search_studies.md`, from `results/stopping.json` and `results/samplers.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import curves
from benchmarks.machine import RESULTS
from orchestrator.yaml_source import read_yaml
from search_spaces import PRESETS

PAGE = RESULTS.parent.parent / "docs" / "search_studies.md"
DEMO = RESULTS.parent.parent / "examples" / "quickstart.yaml"
NAMES = {"val_ood/exact_match": "exact match", "val_ood/equation_accuracy": "equation accuracy"}


def write_page() -> None:
    """Write what both studies have found; one that has not run yet is left out."""
    PAGE.write_text(page())


def page() -> str:
    """The whole page."""
    recorded = json.loads(curves.FILE.read_text())
    stopped, sampled = _found("stopping"), _found("samplers")
    return "\n".join(
        [
            *_head(recorded),
            *(stopping(stopped, recorded) if stopped else []),
            *(samplers(sampled) if sampled else []),
        ]
    )


def _found(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _head(recorded: Mapping[str, Any]) -> list[str]:
    setup, trials = recorded["setup"], recorded["trials"]
    task = setup["task"]
    return [
        "# What early stopping and the sampler are worth",
        "",
        "Written by `python -m benchmarks.stopping` and `python -m benchmarks.samplers` from what "
        "`python -m benchmarks.curves` has recorded. Do not edit.",
        "",
        f"Recorded: {len(trials)} random configurations of the space `{setup['space']}`, each "
        f"trained for {setup['rungs'][-1]} steps of {setup['batch_rows']} rows on chains of "
        f"{task['train_lengths'][0]} to {task['train_lengths'][1]} equations, scored at steps "
        f"{', '.join(map(str, setup['rungs']))} on {2 * task['val_rows']} validation chains of "
        f"{task['val_ood_lengths'][0]} and {task['val_ood_lengths'][1]} equations, and at the end "
        f"on {2 * task['test_rows']} others. The base model is the one bundled at that time, "
        f"fingerprint `{setup['base_model'][:12]}`. Nothing here is timed.",
        "",
    ]


def stopping(found: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """What was saved, and the regret."""
    rows = found["rows"]
    lines = [
        "## Early stopping",
        "",
        f"ASHA, Optuna's and so a search's own, replayed over {found['orders']} random orders of "
        f"the {rows[0]['trials']} curves, {rows[0]['at_once']} at a time, ranked by "
        "`val_ood/exact_match`, the objective. *Saved* is the share of all optimiser steps; in "
        "brackets where 95 of 100 orders lie. *Regret* is what the winner without stopping scores "
        f"above the winner with it, on {_first(rows)['items']} rows that decided nothing; its 95 % "
        "interval resamples orders and rows.",
        "",
        "| rule | steps saved | objective | regret | same winner | a random trial's regret |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        for metric, one in row["objectives"].items():
            lines.append(
                f"| {row['setting']} | {_percent(row['saved'])} | {NAMES[metric]} | "
                f"{_signed(one['regret'])} | {100 * one['same_winner']:.0f} % | "
                f"{one['random_pick']:+.3f} |"
            )
    words = f"{verdict(rows[0])} {demo_words(recorded, rows[0]['rungs'])}"
    return [*lines, "", words, "", "![curves](images/stopping.svg)", ""]


def verdict(row: Mapping[str, Any]) -> str:
    """The first setting, in words made of its numbers."""
    saved = row["saved"]
    half = (
        "more than half of the steps in at least 97 of 100 orders"
        if saved["low"] > 0.5
        else "more than half of the steps on average"
        if saved["mean"] > 0.5
        else "**less than half** of the steps"
    )
    words = []
    for metric, one in row["objectives"].items():
        regret = one["regret"]
        what = (
            "costs nothing that these rows could show"
            if regret["low"] <= 0 <= regret["high"]
            else f"costs {regret['mean']:.3f} ({regret['low']:.3f} to {regret['high']:.3f})"
            if regret["mean"] > 0
            else "picks a trial that does better on these rows"
        )
        words.append(f"by {NAMES[metric]} it {what}")
    return f"The first rule ({row['setting']}) saves {half}; {', and '.join(words)}."


def demo_words(recorded: Mapping[str, Any], rungs: Sequence[int]) -> str:
    """How far the first rule on the recorded trials is from the demo's on its own."""
    demo, setup = read_yaml(DEMO).data, recorded["setup"]
    steps, first = demo["budget"]["steps"], demo["stopping"]["min_steps"]
    low, high = demo["task"]["train_lengths"]
    batch_rows = PRESETS[demo["space"]["preset"]]().tree["optim"]["batch_rows"]
    parts = [f"{cut} of {rungs[-1]}" for cut in rungs[:-1]]
    return (
        f"It cuts at {' and '.join(parts)} steps. The demo's own rule cuts at the same shares, "
        f"from {first} of {steps} steps by {demo['stopping']['factor']}, and its trials are "
        f"others: {batch_rows} rows a step where these have {setup['batch_rows']}, and chains of "
        f"{low} to {high} equations. It has not been replayed."
    )


def samplers(found: Mapping[str, Any]) -> list[str]:
    """TPE against random."""
    lines = [
        "## The sampler",
        "",
        "TPE as a search has it (multivariate, grouped, with constant liar, "
        f"{found['startup_trials']} random trials first) against random search, "
        f"{found['repeats']} repeats each, on a surrogate: a forest of randomised trees fitted to "
        f"the {found['recorded']} recorded trials, which explains {100 * found['explained']:.0f} % "
        "of the variance of trials that it was not fitted to. Each answer carries noise of "
        f"{found['noise']:.3f}, the surrogate's own error, so that a search picks by noisy scores "
        f"as a real one does. Judged is the true score (`{found['objective']}`) of what it picks; "
        "the gain's 95 % interval is a bootstrap over paired repeats.",
        "",
        "| trials | random | TPE | gain of TPE |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['trials']} | {row['random']:.3f} | {row['tpe']:.3f} | {_signed(row['gain'])} |"
        for row in found["rows"]
    ]
    return [*lines, "", sampler_verdict(found), ""]


def sampler_verdict(found: Mapping[str, Any]) -> str:
    """Whether TPE helps, in words made of all its numbers."""
    rows = found["rows"]
    helps = [str(row["trials"]) for row in rows if row["gain"]["low"] > 0]
    hurts = [str(row["trials"]) for row in rows if row["gain"]["high"] < 0]
    said = []
    if helps:
        said.append(f"TPE is better after {_and(helps)} trials, where the interval excludes 0")
    if hurts:
        said.append(f"TPE **is worse** after {_and(hurts)} trials, where the interval excludes 0")
    if not said:
        said.append("TPE **does not help** measurably here: no interval excludes 0")
    elif len(helps) + len(hurts) < len(rows):
        said.append("elsewhere nothing is shown")
    gains = _and([f"{_signed(row['gain'])} after {row['trials']}" for row in rows])
    return (
        f"{'; '.join(said)}. The gain is {gains} trials: {len(rows)} intervals of 95 % each, none "
        "corrected for the others. A surrogate is smoother than the real surface, so this is no "
        "proof of what TPE does there."
    )


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _first(rows: Any) -> Mapping[str, Any]:
    one: Mapping[str, Any] = next(iter(rows[0]["objectives"].values()))
    return one


def _percent(value: Mapping[str, float]) -> str:
    mean, low, high = (100 * value[key] for key in ("mean", "low", "high"))
    return f"{mean:.0f} % ({low:.0f} to {high:.0f})"


def _signed(value: Mapping[str, float]) -> str:
    return f"{value['mean']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})"
