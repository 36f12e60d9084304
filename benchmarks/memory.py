"""B4: what a trial more costs, waiting and working.

Each number comes from a process of its own. Idle: hundreds of trials join with their moments and
do nothing; resident memory before and after. Active: the peak of a few steps with 64 trials of one
row over that with one trial of 64 rows, which are as many tokens in flight. The same with latents
at the end of the prompt and prefixes shared, where what is kept of a prefix counts as tokens in
flight, too. On a GPU the allocator's own counts take the place of the process's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.finding import finding
from benchmarks.setting import ROOT, Setting, parse, run_row
from benchmarks.workload import chains, fixed_rows, join_trials
from trainable.engine import Engine
from trainable.prefix_plan import Sharing

MIB = 2**20
IDLE_TRIALS = 256
ACTIVE_ROWS = 64
ACTIVE_STEPS = 3
LATE_REPEATS = 3  # their point is that a rule holds, and each is a process

# What is at work: where the latents stand, and whether rows share what stands before them.
WORK: dict[str, tuple[str, Sharing]] = {
    "active": ("start", "auto"),
    "late": ("end", "on"),
    "late, nothing shared": ("end", "off"),
}


def main(argv: Sequence[str] = ()) -> None:
    """Measure, print and write; `child KIND` is one of the processes measured."""
    if list(argv[:1]) == ["child"]:
        kind, trials = argv[1], int(argv[2])
        setting = parse(argv[3:])
        found = _idle(setting, trials) if kind == "idle" else _active(setting, trials, *WORK[kind])
        sys.stdout.write(json.dumps(found) + "\n")
        return
    run_row("memory", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """Idle bytes per trial, and the ratio of the active peaks."""
    trials = 4 if setting.quick else IDLE_TRIALS
    rows = 4 if setting.quick else ACTIVE_ROWS
    idle = [_child(setting, "idle", trials) for _ in range(setting.repeats)]
    pairs = [
        (_child(setting, "active", rows), _child(setting, "active", 1))
        for _ in range(setting.repeats)
    ]
    return [
        finding(
            "MiB of a resident idle trial, by the process's memory",
            [run["added"] / trials / MIB for run in idle],
            8.0,
            "at most",
            trials=trials,
        ),
        finding(
            "MiB of its latents and moments, counted",
            [idle[0]["counted"] / trials / MIB],
            8.0,
            "at most",
            trials=trials,
        ),
        finding(
            f"active peak, {rows} trials over 1 at equal tokens in flight",
            [many["peak"] / one["peak"] for many, one in pairs],
            1.05,
            "at most",
            peak_mib=[pairs[0][0]["peak"] / MIB, pairs[0][1]["peak"] / MIB],
        ),
        finding(
            "the same, without what the process held before its first step",
            [_above(many) / _above(one) for many, one in pairs],
        ),
        *_late(setting, rows),
    ]


def _late(setting: Setting, rows: int) -> list[dict[str, Any]]:
    """Peaks where rows go on from shared prefixes: over that with nothing shared, and of one trial.

    One trial's rows share nothing, and each brings its prefix: a wave of prefixes is full before
    its rows fill a micro-batch. Many trials' rows go on from one, and do fill it.
    """
    sides = ("late", rows), ("late, nothing shared", rows), ("late", 1)
    runs = [
        [_child(setting, kind, trials) for kind, trials in sides]
        for _ in range(min(LATE_REPEATS, setting.repeats))
    ]
    case = "latents at the end of the prompt, prefixes shared"
    return [
        finding(
            f"{case}: active peak of {rows} trials over that with nothing shared",
            [many["peak"] / whole["peak"] for many, whole, _ in runs],
            1.05,
            "at most",
            peak_mib=[run["peak"] / MIB for run in runs[0]],
        ),
        finding(
            f"{case}: active peak, {rows} trials over 1, which has fewer tokens in flight",
            [many["peak"] / one["peak"] for many, _, one in runs],
        ),
    ]


def _above(run: dict[str, int]) -> int:
    return max(1, run["peak"] - run["before"])


def _child(setting: Setting, kind: str, trials: int) -> dict[str, int]:
    options = ["--device", setting.device, "--shape", setting.shape]
    command = [sys.executable, "-m", "benchmarks.memory", "child", kind, str(trials), *options]
    if setting.quick:
        command.append("--quick")
    done = subprocess.run(  # noqa: S603  (this very module)
        command, check=True, capture_output=True, text=True, cwd=ROOT
    )
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _idle(setting: Setting, trials: int) -> dict[str, int]:
    base = setting.base()
    data = fixed_rows(base, 128) if setting.large else chains(base)
    engine = Engine(base)
    for uid in join_trials(engine, data, 4, 1, name="first"):  # what is loaded once, is loaded now
        engine.step([uid])
    before = _held(setting)
    for uid in join_trials(engine, data, trials, 1):
        engine.step([uid])  # its moments exist now
    counted = sum(_bytes_of(engine.state(f"trial-{place}")) for place in range(trials))
    return {"added": _held(setting) - before, "counted": counted}


def _bytes_of(state: Any) -> int:
    values = [getattr(state, field.name) for field in fields(state)]
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


def _active(setting: Setting, trials: int, site: str, sharing: Sharing) -> dict[str, int]:
    engine = working(setting, trials, site, sharing)
    before = _held(setting)
    for _ in range(ACTIVE_STEPS):
        engine.step()
    return {"before": before, "peak": _peak(setting)}


def working(setting: Setting, trials: int, site: str, sharing: Sharing) -> Engine:
    """An engine whose trials have as many rows together, however many they are."""
    base = setting.base()
    data = fixed_rows(base, 256 if setting.large else 64)
    engine = Engine(base, share_prefixes=sharing)
    rows = 4 if setting.quick else ACTIVE_ROWS
    join_trials(engine, data, trials, rows // trials, triggers={site: {"kind": site, "m": 4}})
    return engine


def _held(setting: Setting) -> int:
    if setting.device == "cuda":
        return torch.cuda.memory_allocated()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _peak(setting: Setting) -> int:
    if setting.device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
