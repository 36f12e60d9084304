"""The glued arm of B2: Ray Tune, early stopping, a process per trial, PEFT in each.

    python -m benchmarks.glued_search BATCH_ROWS TRIALS AT_ONCE

Latents at the start are PEFT's prompt tuning. Others are special tokens, added to the vocabulary,
placed by the collator, and trained by PEFT's `trainable_tokens`. AdamW, warm-up, cosine schedule
and clipping are those of the other arm, and so are the rows, their order, and the rule by which
trials go on from the rung.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from benchmarks.glue import (
    FACTOR,
    FIRST_RUNG,
    METRIC,
    RATES,
    SEEDS,
    STEPS,
    STRATEGIES,
    TASK,
)
from benchmarks.glued_trial import GluedTrial
from benchmarks.recorded import goes_on
from benchmarks.setting import ROOT

_QUIET = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}


class GluedTrainable(tune.Trainable):
    """One trial; Tune hands its process on to the next (`reuse_actors`)."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first trial of this process."""
        torch.set_num_threads(config["trial"]["threads"])
        self.trial = GluedTrial(config["trial"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next one."""
        self.trial = GluedTrial(new_config["trial"])
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next rung and score."""
        self.trial.train((STEPS if self.trial.steps else FIRST_RUNG) - self.trial.steps)
        steps = self.trial.steps
        return {METRIC: self.trial.evaluate(), "steps": steps, "done": steps >= STEPS}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """What Tune keeps of a trial."""
        return self.trial.state()

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Go on from there."""
        if checkpoint is not None:
            self.trial.restore(checkpoint)


class Halving(FIFOScheduler):
    """Early stopping as the other arm has it; Tune's own ASHA lets more trials go on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: list[float] = []

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP, at the first rung."""
        if result["steps"] != FIRST_RUNG:
            return str(self.CONTINUE)
        self._seen.append(result[METRIC])
        on = goes_on(result[METRIC], self._seen, FACTOR)
        return str(self.CONTINUE if on else self.STOP)


def main(arguments: Sequence[str]) -> None:
    """Run the search."""
    batch_rows, trials, at_once = map(int, arguments)
    os.environ.update(_QUIET)
    ray.init(
        num_cpus=at_once,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    cores = os.cpu_count() or 1
    grid = list(itertools.product(STRATEGIES, RATES, SEEDS))[:trials]
    configs = [
        {
            "triggers": STRATEGIES[name],
            "lr": lr,
            "seed": seed,
            "task": TASK,
            "batch_rows": batch_rows,
            "budget_steps": STEPS,
            "threads": max(1, cores // at_once),
        }
        for name, lr, seed in grid
    ]
    with tempfile.TemporaryDirectory() as scratch:
        found = tune.Tuner(
            tune.with_resources(GluedTrainable, {"cpu": 1}),
            param_space={"trial": tune.grid_search(configs)},
            tune_config=tune.TuneConfig(
                scheduler=Halving(),
                max_concurrent_trials=at_once,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="glued", storage_path=scratch, verbose=0),
        ).fit()
    ray.shutdown()
    metrics = [found[place].metrics for place in range(len(found))]
    best = min(each[METRIC] for each in metrics if each)
    if found.errors or not math.isfinite(best):
        raise SystemExit(f"{found.num_errors} trials failed: {found.errors[:1]}")
    steps = sum(each["steps"] for each in metrics if each)
    said = {"trials": len(found), "trial_steps": steps, METRIC: best}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
