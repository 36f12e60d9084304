"""Tables and words for people; no decisions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from orchestrator.ledger import Role, TrialStatus
from orchestrator.results import (
    EXTRA_TOKENS,
    IN_DISTRIBUTION,
    OUT_OF_DISTRIBUTION,
    SearchResult,
    TrialRecord,
)
from trainable.metrics import direction

TOP = 5
PROMPT_CHARACTERS = 60
_IN_DOUBLE_QUOTES = re.compile(r"[\w\s@%+=:,./?<>;()|&*~#^\[\]{}'-]*")


def print_result(console: Console, result: SearchResult) -> None:
    """The end of a run: the best, the baselines, who was cut, where the time went, what next."""
    _say(console, f"{result.name}: {_columns_in_words(result)}")
    console.print(_trials_table(f"the {TOP} best", result, result.top(TOP)))
    baselines = result.top(len(result.trials), Role.BASELINE)
    if baselines:
        console.print(_trials_table("baselines", result, baselines))
    _say(console, _winner(result))
    _say(console, _cut_early(result))
    failed = [trial for trial in result.trials if trial.status is TrialStatus.FAILED]
    if failed:
        _say(console, f"{len(failed)} failed, the first one ({failed[0].uid}): {failed[0].reason}")
    if result.time is not None:
        _say(console, _time_split(result))
        _say(console, _against_estimate(result))
    _say(console, _next_commands(result))


def print_status(console: Console, result: SearchResult) -> None:
    """How a search stands: its state, and every trial."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(result.counts.items()))
    _say(console, f"{result.name}: {result.state}; trials: {counts or 'none yet'}")
    console.print(_trials_table("trials", result, result.trials))
    _say(console, _winner(result))


def _trials_table(title: str, result: SearchResult, trials: Sequence[TrialRecord]) -> Table:
    metrics = _metric_columns(result)
    table = Table(title=title, title_justify="left")
    table.add_column("trial", justify="right", min_width=5)
    table.add_column("strategy", overflow="fold")
    for name in (*metrics, "extra", "steps"):
        table.add_column(name, justify="right", min_width=5, overflow="fold")
    table.add_column("state", min_width=8)
    for trial in trials:
        table.add_row(
            str(trial.number),
            trial.strategy,
            *(_score(trial, metric) for metric in metrics.values()),
            _score(trial, EXTRA_TOKENS, "{:.0f} %"),
            str(trial.step),
            str(trial.status),
        )
    return table


def _metric_columns(result: SearchResult) -> dict[str, str]:
    """Heading to metric: the objective where it is another one, and exact match where measured."""
    columns = {"ID": IN_DISTRIBUTION}
    measured = {name for trial in result.trials for name in trial.metrics}
    if OUT_OF_DISTRIBUTION in measured or IN_DISTRIBUTION not in measured:
        columns["OOD"] = OUT_OF_DISTRIBUTION
    if result.objective in (IN_DISTRIBUTION, OUT_OF_DISTRIBUTION):
        return columns
    return {result.objective: result.objective, **columns}


def _columns_in_words(result: SearchResult) -> str:
    columns = _metric_columns(result)
    words = "exact match in distribution (ID)"
    words += " and out of it (OOD)" if "OOD" in columns else ""
    if result.objective in columns:
        less = "less" if direction(result.objective) == "minimize" else "more"
        words = f"{result.objective} ({less} is better), {words}"
    return f"{words}, extra tokens, optimiser steps"


def _score(trial: TrialRecord, metric: str, form: str = "{:.3f}") -> str:
    return form.format(trial.metrics[metric]) if metric in trial.metrics else "-"


def _winner(result: SearchResult) -> str:
    if result.best is None:
        return "No trial has run to the full budget yet, so there is no candidate."
    return (
        f"Candidate: {result.best}. {result.summary} Best {result.objective} of the trials that "
        "ran to the full budget; not confirmed on data that the search never saw."
    )


def _cut_early(result: SearchResult) -> str:
    by_step: dict[int, list[str]] = {}
    for trial in result.trials:
        if trial.status is TrialStatus.PRUNED:
            by_step.setdefault(trial.step, []).append(str(trial.number))
    if not by_step:
        return "No trial was cut early."
    cut = "; ".join(f"at step {step}: {', '.join(who)}" for step, who in sorted(by_step.items()))
    return f"Cut early: trials {cut}."


def _time_split(result: SearchResult) -> str:
    split = result.time
    assert split is not None
    return (
        f"Time: {split.total_s:.0f} s in all; the engine trained for {split.train_s:.0f} s "
        f"({split.trial_steps} trial-steps) and evaluated for {split.evaluate_s:.0f} s; everything "
        f"else (start-up, processes, Tune, Optuna, tracking) took {split.outside_s:.0f} s."
    )


def _against_estimate(result: SearchResult) -> str:
    """The plan beside the truth; only of a run that went to its end."""
    split, found = result.time, result.estimate
    assert split is not None
    if found is None or found.seconds is None or result.state != "complete":
        return "Plan: this run has no estimate to be held against."
    off = 100 * (found.seconds / split.total_s - 1)
    return (
        f"Plan: {found.seconds:.0f} s and {found.steps:.0f} steps were estimated, "
        f"{split.total_s:.0f} s and {split.trial_steps} trained steps it took: the estimate was "
        f"{abs(off):.0f} % too {'long' if off > 0 else 'short'}."
    )


def _next_commands(result: SearchResult) -> str:
    if result.best is None:
        return f"Next:\n  latentune status {result.name}"
    folder = f"./{result.name}"
    return (
        "Next:\n"
        f"  latentune ui                                  # look at the runs in MLflow\n"
        f"  latentune pull {result.name} --to {folder}\n"
        f"  latentune generate {folder} {_prompt(result)}"
    )


def _prompt(result: SearchResult) -> str:
    """A prompt of the search's own, as a shell takes it; a word for one that is no short line."""
    example = None if result.data is None else result.data.example
    if example is None or len(example) > PROMPT_CHARACTERS or not example.isprintable():
        return '"PROMPT"'
    return f'"{example}"' if _IN_DOUBLE_QUOTES.fullmatch(example) else shlex.quote(example)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
