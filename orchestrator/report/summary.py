"""The report in Markdown: short as the note of a search's run, longer as a file beside the page."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from orchestrator.ledger import Role, TrialStatus
from orchestrator.report.confirmed import Confirmed, ConfirmedArm
from orchestrator.report.effects import EVALUATOR, LEAST_TRIALS, Effects
from orchestrator.report.material import Material
from orchestrator.results import (
    EXTRA_TOKENS,
    IN_DISTRIBUTION,
    OUT_OF_DISTRIBUTION,
    SearchResult,
    TrialRecord,
)
from trainable.metrics import direction

TOP = 5
CHAMPION = "is the champion: confirmed on data that the search never saw."
UNCONFIRMED = (
    "Not confirmed: this score was picked as the best of many on validation data, so it is "
    "optimistic. `latentune confirm` trains the best again and judges them on data that the "
    "search never saw."
)


def note(result: SearchResult, confirmed: Confirmed | None) -> str:
    """How a search ended, for the description of its run in MLflow."""
    champion = None if confirmed is None else confirmed.champion
    lines = [] if champion is None else [f"**{code(champion.strategy)}** {CHAMPION}", ""]
    lines += _winner(result, champion)
    return "\n".join([*lines, *_verdict(confirmed), *_tables(result), *_choosing(result)])


def summary(material: Material, effects: Sequence[Effects]) -> str:
    """The note, and which axes mattered."""
    result = material.result
    lines = [f"# {code(result.name)}", "", note(result, material.confirmed)]
    if material.confirmed is not None:
        lines += ["", "## Confirmed scores", "", *_confirmed_table(material.confirmed)]
    lines += ["", "## Which axes mattered", ""]
    for found in effects:
        lines += [_importance(found)]
    lines += ["", f"{cut_early(result)} The page `report.html` beside this file has the figures."]
    return "\n".join(lines) + "\n"


def columns(result: SearchResult) -> list[str]:
    """The metrics of a table of trials: the objective first, then what everybody asks for."""
    measured = {name for trial in result.trials for name in trial.metrics}
    wanted = (result.objective, OUT_OF_DISTRIBUTION, IN_DISTRIBUTION, EXTRA_TOKENS)
    return [name for name in dict.fromkeys(wanted) if name in measured]


def number(trial: TrialRecord, metric: str) -> str:
    """A score as text."""
    value = trial.metrics.get(metric)
    if value is None:
        return "-"
    return f"{value:.1f}" if metric == EXTRA_TOKENS else f"{value:.3f}"


def importance_words(found: Effects) -> str:
    """Why a way of looking has no importance, or whose it is."""
    if found.importance:
        return f"{found.title}: {found.metric}, {found.trials} trials, {EVALUATOR}"
    if found.trials < LEAST_TRIALS:
        return (
            f"{found.title}: {found.trials} trials are too few for an importance (at least "
            f"{LEAST_TRIALS})"
        )
    return f"{found.title}: all {found.trials} trials score the same, so no axis can matter"


def cut_early(result: SearchResult) -> str:
    """How many trials early stopping cut."""
    cut = [trial for trial in result.trials if trial.status is TrialStatus.PRUNED]
    if not cut:
        return "No trial was cut early."
    steps = sum(trial.step for trial in cut)
    return f"{len(cut)} of {len(result.trials)} trials were cut early, after {steps} steps in all."


def code(text: str) -> str:
    """A name as Markdown code, in which nothing is a link, a tag or a column."""
    plain = "".join(c if unicodedata.category(c)[0] != "C" else "?" for c in text)
    return "`" + plain.replace("`", "'").replace("|", "\\|") + "`"


def _no_tags(text: str) -> str:
    return text.replace("<", "&lt;")


def _winner(result: SearchResult, champion: ConfirmedArm | None) -> list[str]:
    if result.best is None:
        return ["No trial has run to the full budget yet, so nothing can be chosen."]
    best = next(trial for trial in result.trials if trial.uid == result.best)
    less = " (less is better)" if direction(result.objective) == "minimize" else ""
    return [
        f"{_name(best, champion)} {standing(champion)} of {len(result.trials)} trials: "
        f"{result.objective}{less} {number(best, result.objective)} "
        f"({code(best.uid)}). {_no_tags(result.summary or '')}"
    ]


def standing(champion: ConfirmedArm | None) -> str:
    """What the search's best trial is called: beside a champion its score was a promise."""
    return "is the best" if champion is None else "was the search's own choice, the best"


def _name(best: TrialRecord, champion: ConfirmedArm | None) -> str:
    return f"**{code(best.strategy)}**" if champion is None else code(best.strategy)


def _verdict(confirmed: Confirmed | None) -> list[str]:
    if confirmed is None:
        return ["", UNCONFIRMED]
    words = [_no_tags(line) for line in confirmed.verdict]
    return ["", "**Confirmed on data that the search never saw:**", "", *(f"- {w}" for w in words)]


def _tables(result: SearchResult) -> list[str]:
    metrics = columns(result)
    lines = ["", "| trial | strategy | " + " | ".join(metrics) + " | state |"]
    lines.append("|---" * (len(metrics) + 3) + "|")
    shown = [(trial, "") for trial in result.top(TOP)]
    shown += [(t, " (baseline)") for t in result.top(len(result.trials), Role.BASELINE)]
    for trial, role in shown:
        scores = " | ".join(number(trial, metric) for metric in metrics)
        state = str(trial.status)
        lines.append(f"| {trial.number} | {code(trial.strategy)}{role} | {scores} | {state} |")
    return lines


def _choosing(result: SearchResult) -> list[str]:
    return [
        "",
        f"Choose: sort the runs by a column, then `latentune pull {result.name}@trial-N --to DIR`, "
        "or move the alias `champion` of the registered model to a version.",
    ]


def _confirmed_table(confirmed: Confirmed) -> list[str]:
    metrics = confirmed.metrics
    heads = "| strategy | latents per row | in the search | "
    lines = [heads + " | ".join(map(code, metrics)) + " |"]
    lines.append("|---" * (len(metrics) + 3) + "|")
    for arm in confirmed.arms:
        control = f" (control: {code(arm.control)})" if arm.control else ""
        scores = " | ".join(interval(arm, metric) for metric in metrics)
        searched = "-" if arm.search_score is None else f"{arm.search_score:.3f}"
        inserted = f"{arm.latents_per_row:.1f}"
        lines.append(f"| {code(arm.strategy)}{control} | {inserted} | {searched} | {scores} |")
    return lines


def interval(arm: ConfirmedArm, metric: str) -> str:
    """A confirmed score with its interval."""
    found = arm.scores.get(metric)
    return "-" if found is None else f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _importance(found: Effects) -> str:
    listed = [f"{code(name)} {100 * share:.0f} %" for name, share in found.importance.items()]
    return f"- {importance_words(found)}{': ' + ', '.join(listed) if listed else ''}"
