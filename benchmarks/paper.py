"""The paper's comparison as a page, from the searches of `examples/paper/`.

    latentune status paper-TASK --json | python -m benchmarks.paper keep TASK
    python -m benchmarks.paper

The first keeps what the page needs of a search in `benchmarks/results/`, the second writes
`docs/results.md`. `make results` does it all. Nothing is timed here.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from benchmarks.machine import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
BASELINE = re.compile(r"none|(start|end)\d+")  # what a user has without this project
LEVEL = 0.95


@dataclass(frozen=True)
class Task:
    """What the paper says of a task (arXiv 2505.12629, as `docs/results.md` quotes it).

    Args:
        unit: of the distance.
        best: the strategy that did best in the paper.
        gain_pct: over its best baseline at the farthest distance.
        piece: what a response consists of; each is scored by itself as well.
    """

    name: str
    unit: str
    best: str
    gain_pct: int
    piece: str


TASKS = (
    Task("generation", "equations", "comma2", 23, "equation"),
    Task("summation", "variables", "every8x2", 127, "value"),
    Task("repetition", "copies", "start1+comma1~by_trigger", 220, "copy"),
)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with the half width of its interval."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.half:.2f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's t interval at 95 %, by seed."""
    if len(values) < 2:
        return Estimate(statistics.fmean(values), float("nan"))
    spread = statistics.stdev(values) / len(values) ** 0.5
    return Estimate(
        statistics.fmean(values), float(student.ppf((1 + LEVEL) / 2, len(values) - 1)) * spread
    )


def arms_of(search: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Each arm's complete trials, one per seed, in the order of the search file.

    Raises:
        ValueError: if a trial did not run to its end: a table with holes would mislead.
    """
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for trial in search["trials"]:
        if trial["status"] != "complete":
            raise ValueError(f"{trial['uid']} is {trial['status']}: run the search to its end")
        arms.setdefault(trial["params"]["strategy.arm"], []).append(trial)
    return arms


def metric(trials: Sequence[Mapping[str, Any]], name: str) -> Estimate:
    """A metric over an arm's seeds."""
    return estimate([trial["metrics"][name] for trial in trials])


def distances(trials: Sequence[Mapping[str, Any]], split: str) -> list[int]:
    """The distances of a split, ascending."""
    pattern = re.compile(rf"{split}/exact_match/(\d+)")
    found = (pattern.fullmatch(name) for name in trials[0]["metrics"])
    return sorted(int(match[1]) for match in found if match)


def section(task: Task, search: Mapping[str, Any]) -> list[str]:
    """One task: the table and what the paper's finding looks like here."""
    arms = arms_of(search)
    trials = next(iter(arms.values()))
    inside, outside = distances(trials, "val_id"), distances(trials, "val_ood")
    seeds = {len(found) for found in arms.values()}
    steps = max(trial["step"] for found in arms.values() for trial in found)
    head = ["strategy", "extra tokens", f"in ({inside[0]} to {inside[-1]})"]
    head += [str(distance) for distance in outside]
    head.append(f"out: {task.piece} accuracy")
    lines = [
        f"## {task.name.capitalize()}",
        "",
        f"Exact match, mean ± half width of the 95 % interval over {min(seeds)} seeds, after "
        f"{steps} steps; so few seeds that all scored alike give ± 0.00 and no certainty. Columns "
        f"with a number are out of distribution, in {task.unit}; the last is the share of single "
        "right pieces there.",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for arm, found in arms.items():
        cells = [f"`{arm}`", f"{metric(found, 'cost/extra_tokens_pct').mean:.0f} %"]
        cells.append(str(metric(found, "val_id/exact_match")))
        cells += [str(metric(found, f"val_ood/exact_match/{d}")) for d in outside]
        cells.append(str(metric(found, f"val_ood/{task.piece}_accuracy")))
        lines.append("| " + " | ".join(cells) + " |")
    note = [search["note"], ""] if "note" in search else []
    return [*lines, "", *note, *finding(task, arms, outside), ""]


def finding(
    task: Task, arms: Mapping[str, Sequence[Mapping[str, Any]]], outside: Sequence[int]
) -> list[str]:
    """Whether the paper's gain at the farthest distance appears, in words made of the numbers."""
    lines = []
    for distance in outside:
        name = f"val_ood/exact_match/{distance}"
        scores = {arm: metric(found, name) for arm, found in arms.items()}
        base = max((a for a in scores if BASELINE.fullmatch(a)), key=lambda a: scores[a].mean)
        best = max((a for a in scores if not BASELINE.fullmatch(a)), key=lambda a: scores[a].mean)
        papers = _papers_arm(task, scores)
        lines.append(
            f"- At {distance} {task.unit}: the best baseline is `{base}` ({scores[base]}), the "
            f"paper's `{papers}` has {scores[papers]} ({_gain(scores[papers], scores[base])}), "
            + _best_said(best, scores[best], scores[base])
        )
    farthest = f"val_ood/exact_match/{outside[-1]}"
    papers = _papers_arm(task, arms)
    bases = [metric(found, farthest) for arm, found in arms.items() if BASELINE.fullmatch(arm)]
    verdict = _verdict(metric(arms[papers], farthest), max(bases, key=lambda e: e.mean))
    return [
        *lines,
        "",
        f"The paper reports +{task.gain_pct} % for this strategy over the best baseline at its "
        f"farthest distance, on Llama-3.2-1B. Here: {verdict}",
    ]


def _best_said(best: str, score: Estimate, base: Estimate) -> str:
    if score.mean <= base.mean:
        return "and no other strategy has more than the baseline."
    return f"the best of the others is `{best}` with {score} ({_gain(score, base)})."


def _papers_arm(task: Task, arms: Mapping[str, Any]) -> str:
    return task.best if task.best in arms else task.best.replace("comma", "newline")


def _gain(score: Estimate, base: Estimate) -> str:
    if base.mean == 0:
        return "no ratio: the baseline has 0" if score.mean > 0 else "both 0"
    return f"{100 * (score.mean / base.mean - 1):+.0f} %"


def _verdict(score: Estimate, base: Estimate) -> str:
    if score.mean - score.half > base.mean + base.half:
        return "**the finding appears**: the intervals do not overlap."
    if score.mean > base.mean:
        return "the mean is higher, but the intervals overlap: **undecided** on these seeds."
    if score.mean == base.mean == 0:
        return "**the finding does not appear**: neither gets a single row right."
    return "**the finding does not appear**: the baseline is at least as good."


def page(searches: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page."""
    lines = [
        "# Results: the paper's three tasks on the bundled model",
        "",
        "Written by `python -m benchmarks.paper` from the runs in `benchmarks/results/`; "
        "`make results` repeats them. Do not edit.",
        "",
        "Every strategy is trained with the same learning rate, steps and examples, and nothing is "
        "selected, so the scores are not flattered by a search. The base model is the bundled one: "
        "1.1 M parameters over characters, which has read the tasks' ingredients but not the tasks "
        "([base_model.md](base_model.md)). The paper's is Llama-3.2-1B; its exact templates, sizes "
        "and hyper-parameters are not public, so what follows tests its claims on other ground and "
        "reproduces none of its numbers. `start` and `end` stand with as many parameters and with "
        "as many inserted tokens as the strategy of the paper; `random2` has as many sites in no "
        "place of their own.",
        "",
    ]
    for task in TASKS:
        lines += section(task, searches[task.name])
    return "\n".join(lines)


def keep(task: str, status: Mapping[str, Any]) -> Path:
    """Store a search's trials, without what belongs to the machine that ran them."""
    kept = ("uid", "strategy", "status", "step", "params", "metrics")
    trials = [{name: trial[name] for name in kept} for trial in status["trials"]]
    path = RESULTS / f"paper-{task}.json"
    path.write_text(json.dumps({"trials": trials}, indent=1) + "\n")
    return path


def main() -> None:
    """Keep one search's trials, or write the page."""
    if sys.argv[1:2] == ["keep"]:
        keep(sys.argv[2], json.load(sys.stdin))
        return
    searches = {
        task.name: json.loads((RESULTS / f"paper-{task.name}.json").read_text()) for task in TASKS
    }
    PAGE.write_text(page(searches))
    sys.stdout.write(f"written to {PAGE.relative_to(PAGE.parent.parent)}\n")


if __name__ == "__main__":
    main()
