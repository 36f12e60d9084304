"""The page of reliability, from the faults that were tried: `python -m benchmarks.reliability`.

It writes `docs/reliability.md` from `results/faults.json`, which `make faults` writes, and
`results/faults-glued.json`, which `python -m benchmarks.glued_faults` writes. It tries nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.fault_names import Fault, GluedFault
from benchmarks.machine import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
NOT_YET = "0 | | its run is written, and was not made yet"
OURS, GLUED = "faults", "faults-glued"

Found = Mapping[str, Any]

INTRODUCTION = """\
# Reliability

Written by `python -m benchmarks.reliability` from the runs in `benchmarks/results/`; `make faults`
repeats ours and `python -m benchmarks.glued_faults` the others. Do not edit.

## What is promised

Whatever is killed, frozen, filled or cut: run the same command again, and the search ends with
exactly the trials that were asked for. Nothing is told twice and nothing is spent twice; MLflow has
one run per trial and every point once. What is lost is at most the steps since a trial's last
report, and those are trained again.
"""

PARTS = {
    "driver": "the study in its database is the one ledger; each decision is written before the "
    "next is made, and the next driver reads it. A lock lets one driver at a time in",
    "trials": "thin processes without a state of their own: what they have is in a checkpoint per "
    "report",
    "engine": "a trial that it has forgotten joins again from its checkpoint",
    "tracking": "events go to a log on the driver's disk; a process of its own sends them, and "
    "repeats what was not acknowledged, which changes nothing in MLflow",
    "files": "whole or not there: a temporary name, fsync, rename",
}

TRIED = """\
## What was tried

The searches are tiny (four trials of three reports, the bundled model) and everything
around them is real: a Ray cluster (`ray.cluster_utils.Cluster`), an MLflow server, processes that
are killed by signal. After each fault the search is run again to its end, and all of the following
is held against what it left: the number of trials, none running, one end each; no optimiser step
missing from a curve; one MLflow run per trial, none running, each point exactly once; every draw,
decision and tell as it follows from what the ledger recorded, in its order (`study/audit.py`); and,
where nothing is stopped early, the configurations and to rounding (1e-4) the scores of a run
without faults. `survived` counts the tries in which all of that held.
"""

MEANING = """\
*Steps reported twice* are those of a report that the driver wrote to the event log and died before
the ledger had it; the next driver trains that interval again, and MLflow keeps one point of each.
"""

GLUED_INTRODUCTION = """\
## The same, glued by hand

Ray Tune with `OptunaSearch` over a SQLite study, `MLflowLoggerCallback`, checkpoints at each
report, `max_failures=3`, and `Tuner.restore` after a crash: the parts as their documentations put
them together (`benchmarks/glued_fault_search.py`), on the same kind of cluster and server. Its
trials sleep in place of training.
"""

NOT_RUN = """\
Not run on the glued search: full disks, broken checkpoints and removed nodes (they would say more
about the shared storage that one chooses), frozen processes, and an engine's death: it has none.
"""


def page(ours: Found | None, glued: Found | None) -> str:
    """The whole page."""
    parts = ["| part | how |", "|---|---|", *(f"| {part} | {how} |" for part, how in PARTS.items())]
    lines = [INTRODUCTION, *parts, "", TRIED, *_table(ours), "", MEANING, *_blocked(ours)]
    return "\n".join([*lines, GLUED_INTRODUCTION, *_glued_table(glued), "", NOT_RUN])


def _machine(found: Found) -> str:
    machine = found["machine"]
    return f"On {machine['processor']}, {machine['cores']} cores."


def _table(found: Found | None) -> list[str]:
    if found is None:
        return ["Not run yet."]
    lines = [_machine(found), "", "| fault | tried | survived | lost |", "|---|---|---|---|"]
    rows = {row["fault"]: row for row in found["rows"]}
    for fault in Fault:
        row = rows.get(fault)
        told = NOT_YET if row is None else f"{row['tried']} | {_survived(row)} | {_lost(row)}"
        lines.append(f"| {fault} | {told} |")
    seconds = sum(row["seconds"] for row in found["rows"])
    return [*lines, "", f"Together {seconds:.0f} s, start-up of the cluster and server left out."]


def _survived(row: Mapping[str, Any]) -> str:
    whole = row["survived"] == row["tried"]
    return str(row["survived"]) if whole else f"**{row['survived']}**"


def _lost(row: Mapping[str, Any]) -> str:
    if row["failures"]:
        return "; ".join(dict.fromkeys(_plain(text) for text in row["failures"]))
    again = row["steps_again"]
    return f"nothing; {again} steps reported twice" if again else "nothing"


def _plain(text: str) -> str:
    """Text in a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _blocked(found: Found | None) -> list[str]:
    """How much of the driver's time tracking takes."""
    rows = [] if found is None else found["rows"]
    lines = []
    for row in rows:
        if "blocked_share" in row["numbers"]:
            numbers = row["numbers"]
            lines += [
                "**What tracking costs the driver.** Its process never calls MLflow. While trials "
                f"ran for {numbers['driver_s']:.0f} s, with MLflow killed for 60 of them, it "
                f"spent {numbers['blocked_s'] * 1000:.0f} ms on writing events and on starting the "
                f"process that sends them: {numbers['blocked_share']:.3%} of its time, at most "
                "0.1 % allowed.",
                "",
            ]
    return lines


def _glued_table(found: Found | None) -> list[str]:
    if found is None:
        return ["Not run yet."]
    lines = [
        _machine(found),
        "",
        "| fault | tried | survived | what was seen |",
        "|---|---|---|---|",
    ]
    rows = {row["fault"]: row for row in found["rows"]}
    for fault in GluedFault:
        row = rows.get(fault)
        told = NOT_YET if row is None else f"{row['tried']} | {_survived(row)} | {_seen(row)}"
        lines.append(f"| {fault} | {told} |")
    return lines


def _seen(row: Mapping[str, Any]) -> str:
    """All counts that are not zero, and the errors that stand behind them."""
    counts = [f"{what}: {count}" for what, count in row["numbers"].items() if count]
    kinds = list(dict.fromkeys(failure.partition(":")[0] for failure in row["failures"]))
    return "; ".join(_plain(text) for text in (counts or kinds or ["nothing"]))


def stored(name: str) -> Found | None:
    """What was tried; None where nothing was yet."""
    path = RESULTS / f"{name}.json"
    found: Found | None = json.loads(path.read_text()) if path.exists() else None
    return found


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(stored(OURS), stored(GLUED)))
    sys.stdout.write(f"written to {PAGE.relative_to(PAGE.parent.parent)}\n")


if __name__ == "__main__":
    main()
