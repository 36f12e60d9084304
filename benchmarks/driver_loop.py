"""What a trial costs the driver, first and last: ledger and conductor, without an engine.

    python -m benchmarks.driver_loop [--trials 10000] [--tune 500]      0: the stored row stays

Trials are asked and reported by the conductor itself, over a ledger on this disk, with random
draws, successive halving and three reports each at most; the engine's part is a number made of
the trial's own. Then so many go through Ray Tune with thin trials that train nothing.

Two sides: the driver's own time (of its process, on any core) per trial, in the first and in the
last tenth. What it waits for, the disk above all, is in the seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, facts, write
from orchestrator.assignment import Assignment, DataSource, TrialReport
from orchestrator.conductor import Conductor, EngineInfo, Quiet
from orchestrator.config import SearchConfig
from orchestrator.engines.berth import Berth
from orchestrator.events import EventLog
from orchestrator.folders import SearchFolder
from orchestrator.ledger import LedgerTrial, TrialStatus
from orchestrator.opening import open_ledger
from orchestrator.ray_session import ray_session, run_trials
from orchestrator.spending import Meter, Spending
from orchestrator.study.audit import audit_search
from orchestrator.thin_trial import ThinTrial
from orchestrator.tune_adapters import LedgerScheduler, LedgerSearcher, LostTrials

NAME = "driver-loop"
CONCURRENT = 8
OBJECTIVE = "val_ood/exact_match"
SEARCH: dict[str, Any] = {
    "name": "driver-loop",
    "task": {"kind": "generation"},
    "space": {
        "axes": {
            "strategy": {"triggers": {"start": {"kind": "start", "m": {"choice": [1, 2, 4, 8]}}}},
            "optim": {"lr": {"float": {"low": 0.001, "high": 0.1, "log": True}}},
        },
        "baselines": False,
    },
    "budget": {"trials": 1, "steps": 540, "time_s": 1e6, "total_steps": 10**9},
    "sampler": {"kind": "random"},
    "stopping": {"kind": "asha", "min_steps": 60, "factor": 3},
}
SOURCE = DataSource(
    task={"kind": "generation"}, seed=0, max_tokens=None, long_rows="refuse", cache=""
)


def config_of(trials: int) -> SearchConfig:
    """The search, for so many trials."""
    return SearchConfig.model_validate(SEARCH | {"budget": SEARCH["budget"] | {"trials": trials}})


def score(number: int, step: int) -> float:
    """What a trial reaches: better with training, trials apart, no order among them."""
    return (number * 7919 % 1009) / 1009 + step * 1e-6


class Loop:
    """A search whose trials are trained by nobody.

    Args:
        home: a folder of its own.
        ended: called after each trial's end.
    """

    def __init__(self, home: Path, trials: int, ended: Callable[[], None]) -> None:
        self.config = config_of(trials)
        self.folder = SearchFolder.of(home, self.config.name)
        self.folder.path.mkdir(parents=True, exist_ok=True)
        self.folder.config.write_text(self.config.to_yaml())
        self.ledger = open_ledger(self.config, self.folder)
        self.events = EventLog(self.folder.events)
        spending = Spending(self.config.budget)
        meter = Meter(self.ledger, self.config.budget, time.monotonic())
        self.conductor = Conductor(
            self.config,
            self.folder,
            self.ledger,
            self.events,
            EngineInfo("none", {}),
            SOURCE,
            Noting(ended),
            spending,
            lambda: meter.note(spending.tokens, last=False),
        )

    def run(self) -> None:
        """Work the search off, as many trials at a time as Tune would."""
        running: dict[str, tuple[Assignment, int]] = {}
        while True:
            while len(running) < CONCURRENT and (given := self.conductor.assign()) is not None:
                running[given.uid] = given, 0
            if not running:
                return
            uid, (given, place) = next(iter(running.items()))
            del running[uid]
            step = given.rungs[place]
            metrics = {OBJECTIVE: score(given.number, step), "train/loss": 1.0}
            report = TrialReport(uid, given.number, given.attempt, step, metrics, [(step, 1.0)])
            if self.conductor.on_report(report):
                running[uid] = given, place + 1

    def close(self) -> None:
        """Give the files back."""
        self.events.close()
        self.ledger.close()


class Noting(Quiet):
    """A watcher that notes ends."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended

    def trial_reported(self, trial: LedgerTrial, status: TrialStatus) -> None:
        """One that does not go on has ended."""
        if status is not TrialStatus.RUNNING:
            self._ended()


class Unmanned(Berth):
    """A berth whose engine answers at once, and trains nothing."""

    def train(self, step: int, goal: int) -> dict[str, Any]:
        """The goal is reached; the score is made of the trial's number."""
        metrics = {OBJECTIVE: score(self._assignment.number, goal), "train/loss": 1.0}
        told = {"step": goal, "metrics": metrics, "curve": [(goal, 1.0)], "paused": False}
        return {"state": b"", **told}


class Untrained(ThinTrial):
    """A thin trial that is trained by nobody."""

    def _find_berth(self) -> Berth:
        return Unmanned(self._assignment, Path())


def measure(trials: int, *, tune: bool = False) -> dict[str, Any]:
    """Milliseconds of this process per trial, tenth by tenth, and its memory.

    Args:
        tune: whether Ray Tune runs them, with thin trials, and not the conductor's own loop.
    """
    ends: list[float] = []
    memory: list[int] = []

    def note() -> None:
        ends.append(time.process_time())
        if len(ends) % max(1, trials // 10) == 0:
            memory.append(resident_mib())
            sys.stdout.write(f"{len(ends)} trials, {ends[-1]:.0f} s, {memory[-1]} MiB\n")
            sys.stdout.flush()

    with tempfile.TemporaryDirectory() as home:
        loop = Loop(Path(home), trials, note)
        with ExitStack() as opened:
            opened.callback(loop.close)
            scratch = opened.enter_context(ray_session(loop.folder.path)) if tune else None
            began, at = time.process_time(), time.perf_counter()
            if scratch is None:
                loop.run()
            else:
                run_with_tune(loop, scratch)
            seconds = time.perf_counter() - at
        problems = audit_search(loop.folder)
    if problems or len(ends) != trials:
        raise SystemExit(f"{len(ends)} of {trials} trials ended: {problems[:3]}")
    what = "Ray Tune" if tune else "driver"
    return {"what": what, "seconds": round(seconds, 1), **tenths(began, ends), "memory_mib": memory}


def run_with_tune(loop: Loop, scratch: Path, trainable: type[ThinTrial] = Untrained) -> None:
    """The same search, as `latentune run` runs it."""
    run_trials(
        LedgerSearcher(loop.conductor, lambda: CONCURRENT),
        LedgerScheduler(loop.conductor, lambda uid: None),
        LostTrials(loop.conductor),
        CONCURRENT,
        scratch,
        trainable,
    )


def tenths(began: float, ends: Sequence[float]) -> dict[str, Any]:
    """Milliseconds per trial in each tenth of a run, from the times of its ends."""
    size = max(1, len(ends) // 10)
    marks = [began, *ends[size - 1 :: size]]
    means = [1e3 * (b - a) / size for a, b in itertools.pairwise(marks)]
    return {
        "trials": len(ends),
        "first_tenth_ms": round(means[0], 2),
        "last_tenth_ms": round(means[-1], 2),
        "last_over_first": round(means[-1] / means[0], 3),
        "tenths_ms": [round(mean, 2) for mean in means],
    }


def resident_mib() -> int:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 2**20


def main() -> None:
    """Measure both, print and store them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--tune", type=int, default=500)
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # no trial has a state, and each says so
    machine = facts()
    rows = {row["what"]: row for row in stored()}
    for trials, tune in ((given.trials, False), (given.tune, True)):
        if not trials:
            continue
        row = measure(trials, tune=tune) | {"load_before": machine["load_before"]}
        rows[row["what"]] = row
        sys.stdout.write(
            f"{row['what']}: {row['trials']} trials in {row['seconds']} s; first tenth "
            f"{row['first_tenth_ms']} ms a trial, last tenth {row['last_tenth_ms']} ms "
            f"({row['last_over_first']} times as long); memory {row['memory_mib'][0]} MiB after "
            f"the first tenth, {row['memory_mib'][-1]} MiB at the end\n"
        )
        sys.stdout.write(f"stored in {write(NAME, list(rows.values()), machine)}\n")


def stored() -> list[dict[str, Any]]:
    """The rows of earlier runs."""
    path = RESULTS / f"{NAME}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    return found


if __name__ == "__main__":
    main()
