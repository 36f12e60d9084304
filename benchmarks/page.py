"""The page of performance, from the runs that are stored: `python -m benchmarks.page`.

It writes `docs/performance.md` from `benchmarks/results/`; nothing is timed here. What has not
been run yet is listed as such.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.finding import number_of, short
from benchmarks.machine import RESULTS
from benchmarks.page_rows import GPU, ROWS, SIDE_ROWS, Row

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
STOPPING = "stopping"  # the replays of early stopping, which no machine has timed

_LADDER = (
    "A ratio below 1 costs time. Products in bfloat16 are for machines that multiply them much "
    "faster than this one casts; checkpointing buys memory with time: both are off by default."
)

Result = Mapping[str, Any]
Results = Mapping[str, Result]


def page(results: Results) -> str:
    """The whole page."""
    lines = [
        "# Performance",
        "",
        "Written by `python -m benchmarks.page` from the runs in `benchmarks/results/`; `make "
        "bench` repeats those that have a target on a CPU, `make bench-glue` row B2, and `make "
        "bench-settings` S1 to S3. Do not edit.",
        "",
        *_machines(results),
        "",
        "Each number is a ratio whose sides ran in one command, in turn, on one machine: the "
        "median, with the range of its repeats. No two ratios of this page may be multiplied: "
        "each was measured by itself, and what one lever saves another cannot save again.",
        "",
        "## Against the targets",
        "",
        "| | case | measured | target | met |",
        "|---|---|---|---|---|",
        *(line for row in ROWS for line in _targets(row, results)),
        "",
        "## The ladder: what each lever gives by itself",
        "",
        "| lever | its own ratio | case |",
        "|---|---|---|",
        *_ladder(results),
        "",
        _LADDER,
        "",
        "## Row by row",
        "",
    ]
    for row in (*ROWS, *SIDE_ROWS):
        lines += _section(row, results)
    return "\n".join([*lines, *_early_stopping(results.get(STOPPING))])


def _early_stopping(found: Result | None) -> list[str]:
    """What the first rule of the replays saved, and what its winner cost."""
    lines = ["## Early stopping: steps saved, and the winner's regret", ""]
    if found is None:
        return [*lines, "Not measured yet.", ""]
    row = found["rows"][0]
    mean, low, high = (f"{100 * row['saved'][key]:.0f}" for key in ("mean", "low", "high"))
    regrets = [
        "{mean:.3f} ({low:.3f} to {high:.3f})".format_map(one["regret"]) + f" of `{metric}`"
        for metric, one in row["objectives"].items()
    ]
    items = next(iter(row["objectives"].values()))["items"]
    return [
        *lines,
        f"{row['trials']} recorded trials, replayed in {found['orders']} random orders "
        f"({row['setting']} of {row['rungs'][-1]} steps): **{mean} % of the steps are saved** "
        f"({low} to {high} in 95 of 100 orders), and **the winner's regret is "
        f"{' and '.join(regrets)}** (95 % interval, {items} rows that decided nothing). Other "
        "rules, the figure and the sampler are in [search_studies.md](search_studies.md).",
        "",
    ]


def _machines(results: Results) -> list[str]:
    """Which machines spoke, and that no GPU did."""
    seen = dict[str, None]()
    for result in (found for name, found in results.items() if name != STOPPING):
        machine = result["machine"]
        where = f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}"
        if machine.get("device") == "cuda":
            where = f"{machine['accelerator']}, torch {machine['torch']}"
        seen[where] = None
    lines = [f"Measured on: {'; '.join(seen) or 'no machine yet'}."]
    if not any(name.endswith(GPU) for name in results):
        lines += [
            "",
            "**No GPU figure exists yet.** The GPU's rows are written (`python -m benchmarks.gpu "
            "ROW`) and known to work at a tiny size on a CPU; their targets are neither met nor "
            "missed.",
        ]
    return lines


def _targets(row: Row, results: Results) -> list[str]:
    """The lines of the first table that belong to a row."""
    lines = []
    for file, device in row.files:
        for found in _findings(results, file):
            if found["met"] is None:
                continue
            met = "yes" if found["met"] else "**no**"
            cells = (row.code, device + found["case"], number_of(found), _target(found), met)
            lines.append(f"| {' | '.join(cells)} |")
    return lines or [f"| {row.code} | {row.ratio} | not measured yet | | |"]


def _target(found: Mapping[str, Any]) -> str:
    return f"{found['bound']} {short(found['target'])}" if found["target"] is not None else ""


def _ladder(results: Results) -> list[str]:
    """Each lever's own ratio: those of the ladder's own run, and those that are rows above."""
    lines = [
        f"| {found['lever']} | {number_of(found)} | {found['case']} |"
        for found in _findings(results, "ladder")
    ]
    for lever, file in (("fusion", "fusion"), ("prefix sharing", "prefix")):
        lines += [
            f"| {lever} | {number_of(found)} | {found['case']} |"
            for found in _findings(results, file)
        ]
    lines += [
        f"| batched evaluation | {number_of(found)} | {found['case']} |"
        for found in _findings(results, "evaluation")
    ]
    return lines or ["| | not measured yet | |"]


def _section(row: Row, results: Results) -> list[str]:
    lines = [f"### {row.code}: {row.ratio}", "", row.meaning, ""]
    for file, device in row.files:
        found = _findings(results, file)
        if found:
            lines += ["On the GPU:", ""] if device else []
            lines += ["| case | measured | target |", "|---|---|---|"]
            lines += [f"| {f['case']} | {number_of(f)} | {_target(f)} |" for f in found]
            lines += [line for missed in found for line in _explained(missed)]
            lines += [*_commit(results[file]["machine"]), ""]
    if not any(file in results for file, _ in row.files):
        lines += ["Not measured yet.", ""]
    return lines


def _commit(machine: Mapping[str, Any]) -> list[str]:
    """Which code a table is of."""
    if machine.get("commit") is None:  # a checkout without git
        return []
    changed = ", with changes that are not in it" if machine["dirty"] else ""
    return ["", f"Measured at commit {machine['commit']}{changed}."]


def _explained(found: Mapping[str, Any]) -> list[str]:
    """Of a target that was missed: where the time of the measured side went."""
    if found["met"] is not False or not found.get("profile"):
        return []
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in found["profile"].items())
    return [f"| profile, {found['case']} | {shares} | |"]


def _findings(results: Results, file: str) -> list[dict[str, Any]]:
    """A file's rows, all with the keys of `benchmarks.finding`."""
    reader = READERS.get(file.removesuffix(GPU), dict)
    return [reader(row) for row in results.get(file, {"rows": []})["rows"]]


def _prefix(row: Mapping[str, Any]) -> dict[str, Any]:
    share = row["first_site"]
    return _foreign(
        row,
        f"{row['trials']} trials, {row['batch_rows']} rows of {row['tokens']} tokens, "
        f"first site at {share:.0%}",
        0.8 / (1 - share) if share else 0.98,
    )


def _decoding(row: Mapping[str, Any]) -> dict[str, Any]:
    case = f"{row['base']}, batch {row['batch']}, {row['strategy']}, by CPU seconds"
    return _foreign(_by_cpu(row), case, row["limit"]) | {"bound": "at most"}


def _evaluation(row: Mapping[str, Any]) -> dict[str, Any]:
    case = f"{row['trials']} trials, {row['prompts']} prompts each"
    if row["device"] == "cpu":
        return _foreign(_by_cpu(row), f"{case}, by CPU seconds", row["target"])
    return _foreign(row, case, row["target"])


def _by_cpu(row: Mapping[str, Any]) -> dict[str, Any]:
    """The ratio of CPU seconds, whose range was not kept, in place of that of wall seconds."""
    ratio = row["cpu_ratio"]
    return {**row, "ratio": ratio, "ratio_low": ratio, "ratio_high": ratio, "repeats": 1}


def _foreign(row: Mapping[str, Any], case: str, target: float | None) -> dict[str, Any]:
    """A row that was written with keys of its own."""
    return {
        "case": case,
        "ratio": row["ratio"],
        "low": row.get("ratio_min", row.get("ratio_low")),
        "high": row.get("ratio_max", row.get("ratio_high")),
        "repeats": row["repeats"],
        "target": target,
        "bound": "at least",
        "met": row["within"],
        "profile": row.get("profile"),
    }


READERS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "prefix": _prefix,
    "decoding": _decoding,
    "evaluation": _evaluation,
}


def stored() -> dict[str, Result]:
    """What has been run, by file name; tries and the paper's searches left out."""
    names = [row.file for row in (*ROWS, *SIDE_ROWS)] + ["ladder", "processes"]
    names += [name + GPU for name in names] + [STOPPING]
    paths = [
        (name, RESULTS / f"{spelt}.json")
        for name in names
        for spelt in dict.fromkeys((name.replace("-", "_"), name))
    ]
    return {name: json.loads(path.read_text()) for name, path in paths if path.exists()}


def main(argv: Sequence[str] = ()) -> None:
    """Write the page."""
    PAGE.write_text(page(stored()))
    sys.stdout.write(f"written to {PAGE.relative_to(PAGE.parent.parent)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
