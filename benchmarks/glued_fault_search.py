"""The glued search that faults are tried on: Ray Tune, OptunaSearch, MLflowLoggerCallback.

    python -m benchmarks.glued_fault_search FOLDER MLFLOW_URL [restore]

As their documentations put them together: the study in a SQLite file, checkpoints at every
report, worker failures retried, `Tuner.restore` after a crash, all other settings as they come.
There is no model in it: a trial sleeps and reports, for what is tried is the service around it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from benchmarks.fault_names import GLUED, GLUED_TRIALS, study_url

REPORTS, AT_ONCE = 3, 2
REPORT_S = 0.4
METRIC = "score"


class SleepyTrial(tune.Trainable):
    """A trial whose score follows from its parameter and its step alone."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin."""
        self._x = config["x"]
        self._step = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial of this process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One report."""
        time.sleep(REPORT_S)
        self._step += 1
        return {METRIC: self._x * self._step, "done": self._step >= REPORTS}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """All there is."""
        (Path(checkpoint_dir) / "state.json").write_text(json.dumps(self._step))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """From the folder that Tune hands over."""
        self._step = json.loads((Path(checkpoint) / "state.json").read_text())


def main(folder: str, url: str, restore: str = "") -> None:
    """Run the search, or go on with it; the number of trials that ended goes to stdout."""
    ray.init(namespace=GLUED, log_to_driver=False, logging_level=logging.ERROR)
    root = Path(folder)
    tuner = _restored(root) if restore else _new(root, url)
    found = tuner.fit()
    sys.stdout.write(json.dumps({"ended": len(found), "errors": found.num_errors}) + "\n")


def _new(root: Path, url: str) -> tune.Tuner:
    searcher = OptunaSearch(
        metric=METRIC,
        mode="max",
        sampler=optuna.samplers.RandomSampler(seed=0),
        storage=optuna.storages.RDBStorage(study_url(root)),
        study_name=GLUED,
    )
    return tune.Tuner(
        tune.with_resources(SleepyTrial, {"cpu": 0.01}),
        param_space={"x": tune.uniform(0.0, 1.0)},
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=GLUED_TRIALS,
            max_concurrent_trials=AT_ONCE,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=GLUED,
            storage_path=str(root),
            callbacks=[MLflowLoggerCallback(tracking_uri=url, experiment_name=root.name)],
            failure_config=tune.FailureConfig(max_failures=3),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            verbose=0,
        ),
    )


def _restored(root: Path) -> tune.Tuner:
    trainable = tune.with_resources(SleepyTrial, {"cpu": 0.01})
    return tune.Tuner.restore(str(root / GLUED), trainable=trainable, resume_errored=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
