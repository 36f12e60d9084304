"""B2 without Ray and PEFT: a process per trial, over one engine for all.

The same trials, steps and recorded early stopping in both arms; whole commands, start-up
included. The process per trial is given this project's own engine, so it has every lever but
sharing; the best of several numbers of processes at a time counts. One at a time runs a part of
the trials only and is scaled, and labelled so.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.finding import finding
from benchmarks.occupancy import continuous
from benchmarks.recorded import last_steps, recorded_losses
from benchmarks.setting import ROOT, Setting, parse, run_row
from benchmarks.workload import chains, config, fixed_rows
from trainable.engine import Engine, TrialSpec

TRIALS = 16
AT_ONCE = (1, 4, 8)
SCALED_TRIALS = 4  # that run in the arm of one at a time
STEPS_FACTOR = 2  # of the recorded rungs: 20, 60, 180 steps
BATCH_ROWS = 8


def main(argv: Sequence[str] = ()) -> None:
    """Measure, print and write; `child TRIALS` trains these trials, in one engine."""
    if list(argv[:1]) == ["child"]:
        _train([int(place) for place in argv[1].split(",")], parse(argv[2:]))
        return
    run_row("processes", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """Each number of processes at once, and the best of them."""
    trials = 2 if setting.quick else TRIALS
    ours = _seconds(setting, [",".join(map(str, range(trials)))], 1)
    arms: dict[int, float] = {}
    for at_once in (2,) if setting.quick else AT_ONCE:
        ran = min(trials, SCALED_TRIALS) if at_once == 1 else trials
        places = [str(place * trials // ran) for place in range(ran)]
        arms[at_once] = _seconds(setting, places, at_once) * trials / ran
    facts: dict[str, Any] = {"trials": trials, "ours_s": ours}
    target = 3.0 if setting.device == "cuda" else None
    best = min(arms, key=lambda at_once: arms[at_once])
    return [
        finding(
            f"process per trial, best of {', '.join(map(str, arms))} at once ({best})",
            [arms[best] / ours],
            target,
            **facts,
        ),
        *(
            finding(
                f"process per trial, {at_once} at once" + _scaled(at_once, trials),
                [seconds / ours],
                seconds=seconds,
                **facts,
            )
            for at_once, seconds in arms.items()
        ),
    ]


def _scaled(at_once: int, trials: int) -> str:
    return f" (scaled from {SCALED_TRIALS} trials)" if at_once == 1 and trials > 4 else ""


def _seconds(setting: Setting, children: Sequence[str], at_once: int) -> float:
    """The makespan of some children, so many at a time."""
    command = [sys.executable, "-m", "benchmarks.processes", "child"]
    options = ["--device", setting.device, "--shape", setting.shape]
    options += ["--quick"] if setting.quick else []
    waiting = list(children)
    running: list[subprocess.Popen[bytes]] = []
    begin = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < at_once:
            places = waiting.pop(0)
            running.append(
                subprocess.Popen(  # noqa: S603  (this very module)
                    [*command, places, *options], cwd=ROOT
                )
            )
        time.sleep(0.02)
        if any(child.poll() for child in running):
            raise RuntimeError("a process of the benchmark failed: see its message above")
        running = [child for child in running if child.poll() is None]
    return time.perf_counter() - begin


def _train(places: Sequence[int], setting: Setting) -> None:
    """Train trials to their recorded ends."""
    base = setting.base()
    data = fixed_rows(base, 256) if setting.large else chains(base)
    recorded = last_steps(recorded_losses())
    ends = [1 if setting.quick else STEPS_FACTOR * recorded[place] for place in places]
    engine = Engine(base)
    for step in continuous(ends, len(ends)):
        uids = {str(places[trial]) for trial in step}
        for uid in set(engine.trials()) - uids:
            engine.leave(uid)
        for uid in sorted(uids - set(engine.trials())):
            engine.join(TrialSpec(uid, config(int(uid), BATCH_ROWS), max(ends)), data)
        engine.step()


if __name__ == "__main__":
    main(sys.argv[1:])
