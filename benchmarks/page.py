"""The page of performance, from the runs that are stored: `python -m benchmarks.page`.

It writes `docs/performance.md` from `benchmarks/results/`; nothing is timed here. What has not
been run yet is listed as such.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.finding import number_of, short
from benchmarks.machine import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
GPU = "-1b-cuda"  # what the results of a GPU are called after their row
STOPPING = "stopping"  # the replays of early stopping, which no machine has timed

Result = Mapping[str, Any]
Results = Mapping[str, Result]


@dataclass(frozen=True)
class Row:
    """One benchmark.

    Args:
        code: as the project's plan calls it.
        file: of its results.
        ratio: what is measured.
        meaning: in plain words, for the reader of the page.
        on_gpu: the file's name before `-1b-cuda`, where it is another script's.
    """

    code: str
    file: str
    ratio: str
    meaning: str
    on_gpu: str | None = None

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Its results' files, each with the device that it says."""
        return (self.file, ""), ((self.on_gpu or self.file) + GPU, "GPU: ")


ROWS = (
    Row(
        "G0",
        "fidelity",
        "fused against alone",
        "Nothing below would matter if training together changed a result. The difference of loss "
        "curves is measured against that of two alone runs whose micro-batches were cut "
        "differently, so 1 means: rounding, and nothing else. (Up to 1.1 counts as met, as two "
        "estimates of one noise agree no better.) The last line replaces the latents of a trial's "
        "neighbours and looks for any change of its own gradient.",
    ),
    Row(
        "B1",
        "fusion",
        "trial-tokens per second, T trials fused over one at a time",
        "Fusing buys back idle hardware and nothing more. A CPU is idle where steps are small, in "
        "the overhead of each call; with 16 rows per trial one trial keeps it busy, and there is "
        "little to win. The targets are for 64 trials.",
    ),
    Row(
        "B2",
        "glue",
        "makespan, Ray Tune + PEFT glued by hand over `latentune run`",
        "The same 32 configurations, steps and early stopping. By hand: Ray Tune with "
        "`reuse_actors`, ASHA, a process per trial, PEFT's `prompt_tuning` for latents at the "
        "start and `trainable_tokens`, placed by a collator, for the others; the better of one "
        "and two at a time. Whole commands, start-up included; tracking is part of ours alone. "
        "On two cores ours is slower: two processes of one thread each never wait for each "
        "other, where the two threads of an engine meet after every operation, and waiting "
        "passively costs them a fifth (S1); and driver, thin trials, ledger and tracking take "
        "their part of the same two cores. What fusion saves is for machines with more of them, "
        "for a GPU, and for bases that take long to load. "
        "On a GPU, without Ray and PEFT, a process per trial runs this project's own engine, so "
        "that it lacks nothing but the sharing.",
        on_gpu="processes",
    ),
    Row(
        "B3",
        "prefix",
        "step time without over with a shared prefix",
        "What stands before a row's first site is the same for all trials of a search. The gain "
        "is that of the rows' layout: nothing where latents stand at the start. A prefix still "
        "costs its one forward, and every tail attends to it, so 1 / (1 - p) is out of reach: at "
        "75% of rows of 64 tokens the slots alone, latents counted, allow 3.38 with 16 trials.",
    ),
    Row(
        "B4",
        "memory",
        "memory of a trial more",
        "A trial that waits holds its latents and two moments. Memory at work is bounded by "
        "tokens in flight, not by trials.",
    ),
    Row(
        "B5",
        "occupancy",
        "useful slots; refill over continuous batching",
        "A search of 64 trials that early stopping thins out, with recorded decisions. The "
        "makespan in slots counts held places times steps, the time of an engine whose step costs "
        "the same however full it is. On this machine a step with fewer rows is shorter, so the "
        "makespan in seconds gains less.",
    ),
    Row(
        "B6",
        "evaluation",
        "generated tokens per second, all trials together over a loop of `generate()`",
        "A loop of 8 or 16 prompts already fills a CPU's matrix products in part; what remains is "
        "attention over the cache, which reads the same keys and values per token on either side: "
        "the more prompts a trial has, the less there is to win on a CPU.",
    ),
    Row(
        "B7",
        "limit",
        "FLOP/s of the fused step over the machine's matmul rate at its shapes",
        "FLOPs are 4 per parameter and token, as a frozen model needs no weight gradients; "
        "attention is not counted, though it takes time. The model's pass alone shows what an "
        "engine could reach at best; the profile says where a step's time goes.",
    ),
    Row(
        "B8",
        "scale-out",
        "makespan efficiency on many engines, **simulated**",
        "A discrete-event simulation, fed with recorded losses and with step times measured on "
        "this machine, and checked against real Ray actors that sleep as long as a step takes. No "
        "cluster was measured. What keeps many engines from being full is the end of a search: few "
        "trials are left, each engine has one or two, and a trial-step alone costs what the second "
        "line below says of one among 16.",
    ),
)
SIDE_ROWS = (
    Row(
        "S1",
        "threads",
        "step time of one way to use the cores over another",
        "Lanes, a micro-batch on each core, are what engines do. The others cut each operation; "
        "threads that wait for their part of one spin or sleep.",
    ),
    Row(
        "S2",
        "micro-batches",
        "step time at other sizes of a micro-batch over 2,048 tokens",
        "The default on a CPU is 2,048 tokens; above 1 means that the other size is slower.",
    ),
    Row(
        "S3",
        "decoding",
        "`generate()` with latents over without, per new verbal token",
        "Judged by CPU seconds on one thread; the limit is 1.15 times the share of extra tokens.",
    ),
)


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
            lines.append("")
    if not any(file in results for file, _ in row.files):
        lines += ["Not measured yet.", ""]
    return lines


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
