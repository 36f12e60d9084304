"""B2: a search as one would glue it from Ray Tune and PEFT, over `latentune run`.

The same 32 configurations of four strategies, the same task, base model, steps and early stopping
(rungs at 40 and 120 steps, one in three goes on). Whole commands, start-up included, one after
the other; of the glued arm the better of one and two trials at a time counts. Each command runs
once: the whole takes minutes, and its numbers say so.

    python -m benchmarks.glue            # make bench-glue
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.finding import finding
from benchmarks.setting import ROOT, Setting, run_row

if TYPE_CHECKING:
    from orchestrator.results import TimeSplit

# Rows per trial-step, with the ratio to reach.
LOADS = ((1, 2.0), (16, 1.0))
IDLE_SHARE = 0.02
AT_ONCE = (1, 2)
STEPS, FIRST_RUNG, FACTOR = 120, 40, 3
RATES = (0.005, 0.01, 0.02, 0.04)
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


def main(argv: Sequence[str] = ()) -> None:
    """Measure, print and write."""
    run_row("glue", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """Both arms at both loads."""
    if setting.quick:
        return _case(1, None, trials=2, at_once=(1,))
    trials = len(STRATEGIES) * len(RATES) * len(SEEDS)
    cases = [_case(rows, target, trials=trials, at_once=AT_ONCE) for rows, target in LOADS]
    return [found for case in cases for found in case]


def _case(
    batch_rows: int, target: float | None, *, trials: int, at_once: Sequence[int]
) -> list[dict[str, Any]]:
    runs = {n: glued_search(batch_rows, trials, n) for n in at_once}
    ours, split = our_search(batch_rows, trials)
    glued = {n: seconds for n, (seconds, _) in runs.items()}
    best = min(glued, key=lambda n: glued[n])
    load = f"{trials} trials, {batch_rows} rows per trial-step"
    engine_s = split.train_s + split.evaluate_s + split.idle_s
    return [
        finding(
            f"{load} ({best} at a time is better by hand)",
            [glued[best] / ours],
            target,
            glued_s={str(n): seconds for n, seconds in glued.items()},
            glued_said={str(n): said for n, (_, said) in runs.items()},
            ours_s=ours,
            ours_split=split.model_dump(),
        ),
        finding(
            f"{load}: share of our engine's time in which it waits for decisions",
            [split.idle_s / engine_s],
            IDLE_SHARE,
            "at most",
        ),
    ]


def glued_search(batch_rows: int, trials: int, at_once: int) -> tuple[float, str]:
    """Seconds of the glued arm's command, and what it says that it did."""
    arguments = [str(value) for value in (batch_rows, trials, at_once)]
    return _seconds([sys.executable, "-m", "benchmarks.glued_search", *arguments])


def our_search(batch_rows: int, trials: int) -> tuple[float, TimeSplit]:
    """Seconds of `latentune run` on the same configurations, and where they went."""
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
        return seconds, split


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
