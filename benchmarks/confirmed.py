"""What searches of all axes found, and what was left of it: `docs/confirmed.md`.

    latentune status full-TASK --json | python -m benchmarks.confirmed keep TASK
    python -m benchmarks.confirmed

A search picks the best of many noisy scores, so its ranking flatters the first. Here each ranking
stands beside that of the confirmation, at the distances that both know: the difference is the
winner's curse, measured. `make results` does it all. Nothing is timed here.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "confirmed.md"
TASKS = ("generation", "summation", "repetition")
HEAD = """# All axes searched, and the winners confirmed

Written by `python -m benchmarks.confirmed` from the runs in `benchmarks/results/`; `make results` \
repeats them. Do not edit.

Each search tries every axis of the method and of the optimiser ([the files](../examples/full)) on \
the bundled model. Its best configurations are then trained again with fresh seeds and \
judged beside their controls on rows that the search never saw ([how](confirmation.md)). `score` \
is what they were picked by, the mean over the out-of-distribution distances; `confirmed` is the \
mean over the same distances with other rows and seeds. The last distance of each task is one that \
the search had no rows of. All candidates are compared with controls of the first one's size, \
marked `(no. 1)` (`confirm.controls: first`); what each inserts stands in the table, and beside a \
candidate of another size the verdict says both numbers. The reports, with figures: \
[results/](results).

These three searches drew at random throughout: when they ran, TPE did not see what had ended \
(mended since, see the changelog). What was confirmed does not depend on how it was found."""


@dataclass(frozen=True)
class Ranked:
    """A candidate: its place and score in the search, and when it was confirmed."""

    strategy: str
    rank: int
    searched: float
    confirmed: float


def main() -> None:
    """Keep what the page needs of one search, or write the page."""
    if sys.argv[1:2] == ["keep"]:
        keep(sys.argv[2], json.load(sys.stdin))
        return
    found = {task: json.loads(stored(task).read_text()) for task in TASKS if stored(task).exists()}
    PAGE.write_text(page(found))
    sys.stdout.write(f"written to {PAGE.relative_to(PAGE.parent.parent)}\n")


def stored(task: str) -> Path:
    """Where a search's confirmation is kept."""
    return RESULTS / f"full-{task}.json"


def keep(task: str, status: Mapping[str, Any]) -> None:
    """Store what the page shows of a search's status.

    Raises:
        ValueError: for a search that was not confirmed.
    """
    record = status["confirmation"]
    if record is None:
        raise ValueError(f"{status['name']} is not confirmed: run it to its end")
    states = [trial["status"] for trial in status["trials"]]
    kept = {
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "confirmation": {
            name: record[name] for name in ("objective", "seeds", "steps", "verdict", "notes")
        }
        | {"arms": [_kept_arm(arm) for arm in record["arms"]], "champion": record["champion"]},
        "searched_at": _distances(status),
    }
    stored(task).write_text(json.dumps(kept, indent=1) + "\n")


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page."""
    return "\n".join([HEAD, *(line for task in found for line in section(task, found[task]))])


def section(task: str, found: Mapping[str, Any]) -> list[str]:
    """One task: the verdict, the two rankings, and all that was confirmed."""
    record = found["confirmation"]
    ranked = rankings(found)
    states = ", ".join(f"{count} {state}" for state, count in found["trials"].items())
    return [
        "",
        f"## {task.capitalize()}",
        "",
        f"Trials, baselines among them: {states}. Confirmed with {record['seeds']} seeds of "
        f"{record['steps']} steps.",
        "",
        *(f"- {_one_line(words)}" for words in record["verdict"]),
        "",
        *_ranking_table(ranked),
        "",
        curse(ranked),
        "",
        *_score_table(record),
        *(f"\n{_one_line(words)}" for words in record["notes"]),
        "",
    ]


def rankings(found: Mapping[str, Any]) -> list[Ranked]:
    """The candidates in the search's order, with both scores at the search's distances."""
    metric = _test_name(found["confirmation"]["objective"])
    ranked = []
    for arm in found["confirmation"]["arms"]:
        scores = {score["metric"]: score["mean"] for score in arm["scores"]}
        names = [f"{metric}/{distance}" for distance in found["searched_at"]]
        if arm["rank"] is not None and all(name in scores for name in names):
            confirmed = statistics.fmean(scores[name] for name in names)
            ranked.append(Ranked(arm["strategy"], arm["rank"], arm["search_score"], confirmed))
    return sorted(ranked, key=lambda each: each.rank)


def curse(ranked: Sequence[Ranked]) -> str:
    """How much the search's scores promised too much."""
    lost = [each.searched - each.confirmed for each in ranked]
    best = max(ranked, key=lambda each: each.confirmed)
    stays = "is also the best one confirmed" if best is ranked[0] else "is not the best confirmed"
    return (
        f"The search's first {stays}. The search's score for it was {lost[0]:+.3f} off, those of "
        f"all {len(lost)} {statistics.fmean(lost):+.3f} on average (above 0: they flattered)."
    )


def _ranking_table(ranked: Sequence[Ranked]) -> list[str]:
    by_confirmed = sorted(ranked, key=lambda each: -each.confirmed)
    lines = ["| in the search | strategy | score | confirmed | place | difference |"]
    lines.append("|---" * 6 + "|")
    for each in ranked:
        lines.append(
            f"| no. {each.rank} | `{each.strategy}` | {each.searched:.3f} | {each.confirmed:.3f} "
            f"| no. {by_confirmed.index(each) + 1} | {each.confirmed - each.searched:+.3f} |"
        )
    return lines


def _score_table(record: Mapping[str, Any]) -> list[str]:
    metric = _test_name(record["objective"])
    names = [
        score["metric"]
        for score in next(arm["scores"] for arm in record["arms"] if arm["scores"])
        if score["metric"].startswith(f"{metric}/") or score["metric"] == "test_id/exact_match"
    ]
    heads = [f"at {name.rpartition('/')[2]}" if metric in name else "ID" for name in names]
    lines = ["| strategy | role | latents per row | " + " | ".join(heads) + " |"]
    lines.append("|---" * (len(heads) + 3) + "|")
    for arm in record["arms"]:
        scores = {score["metric"]: score for score in arm["scores"]}
        cells = [_cell(scores.get(name)) for name in names]
        row = [f"`{arm['strategy']}`", _role(arm, record["champion"])]
        lines.append("| " + " | ".join([*row, f"{arm['latents_per_row']:.1f}", *cells]) + " |")
    return lines


def _role(arm: Mapping[str, Any], champion: str | None) -> str:
    parts = [] if arm["rank"] is None else [f"no. {arm['rank']}"]
    parts += [f"control: {arm['control']}"] if arm["control"] else []
    return ", ".join([*parts, *(["**champion**"] if arm["key"] == champion else [])])


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    return f"{score['mean']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def _kept_arm(arm: Mapping[str, Any]) -> dict[str, Any]:
    names = ("key", "strategy", "rank", "search_score", "control", "latents_per_row", "scores")
    return {name: arm[name] for name in names}


def _distances(status: Mapping[str, Any]) -> list[int]:
    """At which the search scored out of distribution."""
    start = f"{status['objective']}/"
    names = {name for trial in status["trials"] for name in trial["metrics"]}
    return sorted(int(name.removeprefix(start)) for name in names if name.startswith(start))


def _test_name(objective: str) -> str:
    return objective.replace("val_", "test_", 1)


def _one_line(words: str) -> str:
    return " ".join(words.split())


if __name__ == "__main__":
    main()
