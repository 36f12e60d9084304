"""Tables and words for people; no decisions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from orchestrator.confirmation_record import ConfirmationCost
from orchestrator.confirmation_tables import print_confirmation
from orchestrator.console import print_line
from orchestrator.failures import failure_lines
from orchestrator.ledger import Role, TrialStatus
from orchestrator.results import (
    EXTRA_TOKENS,
    IN_DISTRIBUTION,
    OUT_OF_DISTRIBUTION,
    SearchResult,
    SpentRecord,
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
    for line in _front_lines(result):
        _say(console, line)
    _say(console, _cut_early(result))
    for line in failure_lines(result.trials):
        _say(console, line)
    if result.time is not None:
        _say(console, _time_split(result))
        _say(console, _against_estimate(result))
    if result.spent is not None:
        _say(console, spent_line(result.spent))
    if result.confirm_cost is not None:
        _say(console, confirm_cost_line(result.confirm_cost))
    if result.confirmation is not None:
        print_confirmation(console, result.confirmation)
    _say(console, _next_commands(result))


def print_status(console: Console, result: SearchResult) -> None:
    """How a search stands: its state, and every trial."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(result.counts.items()))
    _say(console, f"{result.name}: {result.state}; trials: {counts or 'none yet'}")
    for line in engine_lines(result):
        _say(console, line)
    console.print(_trials_table("trials", result, result.trials))
    for line in failure_lines(result.trials):
        _say(console, line)
    _say(console, _winner(result))
    for line in _front_lines(result):
        _say(console, line)
    if result.spent is not None:
        _say(console, spent_line(result.spent))
    if result.confirmation is not None:
        print_confirmation(console, result.confirmation)


def engine_lines(result: SearchResult) -> Iterator[str]:
    """The engines that train its trials, and why others wait."""
    for engine in result.engines:
        gpus = f", {engine.gpus} GPUs" if engine.gpus else ""
        speed = f", {engine.slots_per_s:,.0f} tokens/s" if engine.slots_per_s else ""
        share = f"{engine.trials} of {engine.room} trials"
        yield f"engine on {engine.node}: {engine.state}, {share}{gpus}{speed}"
    if result.waiting is not None:
        yield f"waiting: {result.waiting.detail}"


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
            _state(trial),
        )
    return table


def _state(trial: TrialRecord) -> str:
    return str(trial.status) if trial.failure is None else f"{trial.status}: {trial.failure}"


def _metric_columns(result: SearchResult) -> dict[str, str]:
    """Heading to metric: the objective where it is another one, and exact match where measured."""
    columns = {"ID": IN_DISTRIBUTION}
    measured = {name for trial in result.trials for name in trial.metrics}
    if OUT_OF_DISTRIBUTION in measured or IN_DISTRIBUTION not in measured:
        columns["OOD"] = OUT_OF_DISTRIBUTION
    shown = (IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, EXTRA_TOKENS)
    others = [name for name in (result.objective, *result.tradeoffs) if name not in shown]
    return {**{name: name for name in others}, **columns}


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
        "ran to the full budget; "
        + (
            "not confirmed on data that the search never saw."
            if result.confirmation is None
            else "what of that holds on data that the search never saw stands below."
        )
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
    chosen = f" Choosing configurations took {split.ask_s:.1f} s of it." if split.ask_s else ""
    return (
        f"Time: {split.total_s:.0f} s in all; the engine trained for {split.train_s:.0f} s "
        f"({split.trial_steps} trial-steps), evaluated for {split.evaluate_s:.0f} s and waited "
        f"{split.idle_s:.1f} s for decisions; everything else (start-up, processes, Tune, Optuna, "
        f"tracking) took {split.outside_s:.0f} s."
        f"{chosen}"
    )


def spent_line(spent: SpentRecord) -> str:
    """What a search has spent in all its runs, and which budgets are spent."""
    parts = [f"{spent.trials} trials"]
    parts += [f"{spent.infeasible} more beyond the limits, never trained"] * bool(spent.infeasible)
    parts += [f"{spent.steps} optimiser steps"]
    parts += [] if spent.tokens is None else [f"{spent.tokens} tokens"]
    own = f" ({spent.confirm_s:.0f} s and {spent.confirm_steps} more steps to confirm)"
    parts += [f"{spent.time_s:.0f} s" + (own if spent.confirm_s else "")]
    parts += [f"{spent.gpu_hours:.2f} GPU-hours"] * bool(spent.gpu_hours)
    parts += [] if spent.money is None else [f"{spent.money:.2f} at the price given"]
    over = [f"budget.{name}" for name in spent.over if name != "trials"]
    end = f" Spent: {', '.join(over)}." if over else ""
    return f"Spent in all runs: {', '.join(parts)}.{end}"


def confirm_cost_line(cost: ConfirmationCost) -> str:
    """What the confirmation took, beside what was expected; that is an upper bound in steps."""
    took = f"Confirmation: {cost.seconds:.0f} s and {cost.steps} trained steps it took"
    found = cost.estimate
    if found is None or found.seconds is None:
        return f"{took}; nothing was estimated."
    return (
        f"{took}; at most {found.steps} steps and about {found.seconds:.0f} s of training and "
        "scoring were estimated."
    )


def _front_lines(result: SearchResult) -> list[str]:
    """With several objectives: the Pareto front, the best in the first one first, and its knee."""
    if not result.front:
        return []
    objectives = (result.objective, *result.tradeoffs)
    by_uid = {trial.uid: trial for trial in result.trials}
    lines = [f"Pareto front ({', '.join(f'{o}: {_wish(o)}' for o in objectives)}):"]
    for trial in (by_uid[uid] for uid in result.front):
        scores = ", ".join(f"{trial.metrics[objective]:.3f}" for objective in objectives)
        mark = "  <- recommended compromise" if trial.uid == result.knee else ""
        lines.append(f"  {trial.number:>5}  {trial.strategy}  {scores}{mark}")
    return lines


def _wish(metric: str) -> str:
    return "less" if direction(metric) == "minimize" else "more"


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
    print_line(console, text)
