"""B2: a search as one would glue it from Ray Tune and PEFT, over `latentune run`.

The same 32 configurations of four strategies, the same task, base model, steps and early stopping
(rungs at 40 and 120 steps, one in three of those that have come so far goes on). Whole commands,
start-up included, one after the other and in turn; of the glued arm the better of one and two
trials at a time counts. The median of three, as a command takes minutes. Trials come to their
rung in an order that no arm decides, so that the trial-steps differ a little: they are told.

    python -m benchmarks.glue            # make bench-glue
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.finding import finding
from benchmarks.setting import ROOT, Setting, run_row

# Rows per trial-step, with the ratio to reach.
LOADS = ((1, 2.0), (16, 1.0))
IDLE_SHARE = 0.02
AT_ONCE = (1, 2)
REPEATS = 3
STEPS, FIRST_RUNG, FACTOR = 120, 40, 3
# In no order of goodness: where each next trial is better than the last, every one goes on.
RATES = (0.02, 0.005, 0.04, 0.01)
SEEDS = (0, 1)
# Places and readouts that both arms can express: PEFT knows no other than the standard ones.
STRATEGIES: dict[str, dict[str, Any]] = {
    "start4": {"start": {"kind": "start", "m": 4}},
    "start8": {"start": {"kind": "start", "m": 8}},
    "every8x2": {"every": {"kind": "every", "k": 8, "m": 2, "readout": "latent"}},
    "aftercomma2": {
        "comma": {
            "kind": "delimiter",
            "pattern": ",",
            "m": 2,
            "side": "after",
            "readout": "latent",
        }
    },
}
TASK = {
    "kind": "generation",
    "train_lengths": [6, 6],
    "val_ood_lengths": [8],
    "test_ood_lengths": [10],
    "val_rows": 16,
}
METRIC = "val_id/nll"


@dataclass(frozen=True)
class Run:
    """One command.

    Args:
        seconds: of wall time, start-up included.
        trial_steps: optimiser steps, counted once per trial.
        more: what else it told of itself.
    """

    seconds: float
    trial_steps: int
    more: dict[str, Any] = field(default_factory=dict)


def main(argv: Sequence[str] = ()) -> None:
    """Measure, print and write."""
    run_row("glue", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """Both arms at both loads."""
    if setting.quick:
        return _case(1, None, trials=2, at_once=(1,), repeats=1)
    trials = len(STRATEGIES) * len(RATES) * len(SEEDS)
    return [
        found
        for rows, target in LOADS
        for found in _case(rows, target, trials=trials, at_once=AT_ONCE, repeats=REPEATS)
    ]


def _case(
    batch_rows: int, target: float | None, *, trials: int, at_once: Sequence[int], repeats: int
) -> list[dict[str, Any]]:
    by_hand = {n: partial(glued_search, batch_rows, trials, n) for n in at_once}
    *glued, ours = runs_in_turn(
        [*by_hand.values(), partial(our_search, batch_rows, trials)], repeats
    )
    load = f"{trials} trials, {batch_rows} rows per trial-step"
    return [
        ratio_of(load, target, dict(zip(at_once, glued, strict=True)), ours),
        finding(
            f"{load}: share of our engine's time in which it waits for decisions",
            [_idle_share(run.more) for run in ours],
            IDLE_SHARE,
            "at most",
        ),
        finding(f"{load}: our seconds beside training", [_beside_s(run) for run in ours]),
    ]


def runs_in_turn(sides: Sequence[Callable[[], Run]], repeats: int) -> list[list[Run]]:
    """Each side's runs: A B C C B A A B C, so that a drifting machine moves all of them alike."""
    runs: list[list[Run]] = [[] for _ in sides]
    for repeat in range(repeats):
        places = range(len(sides)) if repeat % 2 == 0 else reversed(range(len(sides)))
        for place in places:
            runs[place].append(sides[place]())
    return runs


def ratio_of(
    load: str, target: float | None, glued: Mapping[int, Sequence[Run]], ours: Sequence[Run]
) -> dict[str, Any]:
    """The glued arm at its better number of trials at a time, over ours, repeat by repeat."""
    best = min(glued, key=lambda n: statistics.median(run.seconds for run in glued[n]))
    steps = f"{_steps(glued[best])} trial-steps by hand, {_steps(ours)} ours"
    return finding(
        f"{load} ({best} at a time is better by hand; {steps}; median of {len(ours)})",
        [hand.seconds / run.seconds for hand, run in zip(glued[best], ours, strict=True)],
        target,
        glued={str(n): [asdict(run) for run in runs] for n, runs in glued.items()},
        ours=[asdict(run) for run in ours],
    )


def _steps(runs: Sequence[Run]) -> str:
    """`1,840`, or `1,840 to 1,920` where repeats differ."""
    least, most = (pick(run.trial_steps for run in runs) for pick in (min, max))
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _idle_share(split: Mapping[str, float]) -> float:
    return split["idle_s"] / (split["train_s"] + split["evaluate_s"] + split["idle_s"])


def _beside_s(run: Run) -> float:
    """What a command of ours takes beyond its engine's training."""
    return run.seconds - float(run.more["train_s"])


def glued_search(batch_rows: int, trials: int, at_once: int) -> Run:
    """The glued arm's command, and what it says that it did."""
    arguments = [str(value) for value in (batch_rows, trials, at_once)]
    seconds, said = _seconds([sys.executable, "-m", "benchmarks.glued_search", *arguments])
    found = json.loads(said.splitlines()[-1])
    return Run(seconds, found.pop("trial_steps"), found)


def our_search(batch_rows: int, trials: int) -> Run:
    """`latentune run` on the same configurations, and where its time went."""
    from orchestrator.folders import SearchFolder
    from orchestrator.results import SearchResult
    from orchestrator.yaml_source import dump_yaml

    with tempfile.TemporaryDirectory() as home:
        search = Path(home) / "search.yaml"
        search.write_text(dump_yaml(search_of(batch_rows, trials)))
        code = "from orchestrator.cli import main; main()"
        command = [sys.executable, "-c", code, "run", str(search)]
        seconds, _ = _seconds(command, LATENTUNE_HOME=home)
        found = SearchFolder.of(Path(home), search_of(batch_rows, trials)["name"]).result
        split = SearchResult.model_validate_json(found.read_text()).time
        assert split is not None  # of a search that has just run
        return Run(seconds, split.trial_steps, split.model_dump())


def search_of(batch_rows: int, trials: int) -> dict[str, Any]:
    """The configuration of our arm."""
    return {
        "name": f"glue-{batch_rows}-rows",
        "task": TASK,
        "space": {
            "baselines": False,
            "axes": {
                "strategy": {
                    "name": "strategy.arm",
                    "one_of": {
                        name: {"triggers": triggers, "position_rule": "own"}
                        for name, triggers in STRATEGIES.items()
                    },
                },
                "optim": {"lr": {"choice": list(RATES)}, "batch_rows": batch_rows},
                "seed": {"choice": list(SEEDS)},
            },
        },
        "objective": METRIC,
        "sampler": {"kind": "grid"},
        "budget": {"trials": trials, "steps": STEPS},
        "stopping": {"min_steps": FIRST_RUNG, "factor": FACTOR, "metric": METRIC},
        "engine": {"concurrent_trials": 8},
        # What the other arm does not do either; MLflow it does not have, and ours has.
        "confirm": {"enabled": False},
        "tracking": {"report": False},
    }


def _seconds(command: Sequence[str], **environment: str) -> tuple[float, str]:
    """Run a command to its end; wall seconds, and what it says."""
    begin = time.perf_counter()
    done = subprocess.run(  # noqa: S603  (our own commands)
        list(command),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - begin, done.stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1:])
