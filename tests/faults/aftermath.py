"""What a search must have left behind, whatever was killed on the way.

ledger   exactly the trials asked for, each ended once, none running
events   one end per trial; every step of every trial reported
MLflow   one run per trial and one for the search, none running; every point exactly once
audit    draws, decisions and tells follow from what the ledger recorded, in its order
scores   those of a run without faults, to rounding (where nothing is stopped early)
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.config import SearchConfig
from orchestrator.events import Event, read_events
from orchestrator.folders import SearchFolder
from orchestrator.ledger import LedgerTrial, TrialStatus, read_ledger, read_study
from orchestrator.outbox import LOSS, MAX_POINTS
from orchestrator.study.audit import audit_search
from trainable.trial import TrialConfig

# A configuration as text, to the metrics of its last report.
Scores: TypeAlias = Mapping[str, Mapping[str, float]]
_ROUNDING = 1e-4  # of trials that had other neighbours in their batches; measured below 1e-5


@dataclass(frozen=True)
class Aftermath:
    """What a search left.

    Args:
        home: LATENTUNE_HOME.
        config: the search.
        uri: the tracking store.
    """

    home: Path
    config: SearchConfig
    uri: str

    @property
    def folder(self) -> SearchFolder:
        """The search's."""
        return SearchFolder.of(self.home, self.config.name)

    def trials(self) -> list[LedgerTrial]:
        """As the ledger knows them."""
        return read_ledger(self.folder.path, self.config.name)

    def events(self, kind: str) -> list[Event]:
        """All of a type."""
        return [event for event in read_events(self.folder.events) if event.type == kind]

    def scores(self) -> Scores:
        """What each configuration reached."""
        return {
            json.dumps(trial.config.to_dict(), sort_keys=True): trial.metrics
            for trial in self.trials()
        }

    def steps_again(self) -> int:
        """Optimiser steps that were reported more than once."""
        reported = Counter(
            (event.trial_uid, step)
            for event in self.events("trial_report")
            for step, _ in event.payload["curve"]
        )
        return reported.total() - len(reported)

    def check(self, reference: Scores | None = None) -> int:
        """Hold everything above against the search; returns the steps trained twice."""
        self.check_ledger()
        self.check_events()
        self.check_tracking()
        wrong = audit_search(self.folder)
        assert not wrong, "; ".join(wrong)
        if reference is not None:
            check_scores(self.scores(), reference)
        return self.steps_again()

    def check_ledger(self) -> None:
        """Exactly the trials asked for, none running, budget spent once."""
        trials = self.trials()
        assert len(trials) == self.config.budget.trials, "not the number of trials asked for"
        assert all(trial.status is not TrialStatus.RUNNING for trial in trials), "a trial runs"
        states = Counter(
            str(one.state.name)
            for one in read_study(self.folder.path, self.config.name).get_trials(deepcopy=False)
        )
        assert not states["RUNNING"] and not states["WAITING"], f"left in the study: {states}"
        complete = [trial.step for trial in trials if trial.status is TrialStatus.COMPLETE]
        assert set(complete) <= {self.config.budget.steps}, "complete short of the full budget"
        failed = [trial.reason for trial in trials if trial.status is TrialStatus.FAILED]
        assert not failed, f"failed: {failed}"

    def goals(self) -> dict[str, int]:
        """By uid, the steps of its trials, and of the members that confirmed them.

        A control without latents has nothing to train.
        """
        goals = {self.folder.uid(trial.number): trial.step for trial in self.trials()}
        for event in self.events("trial_started"):
            if event.payload.get("stage") == "confirm":
                config = TrialConfig.from_dict(event.payload["config"])
                steps = self.config.budget.steps if config.strategy.latent_count else 0
                goals[str(event.trial_uid)] = steps
        return goals

    def check_events(self) -> None:
        """One end per trial, with its artifact, and no step of any trial missing."""
        goals = self.goals()
        ended = self.events("trial_ended")
        assert Counter(event.trial_uid for event in ended) == Counter(goals.keys()), "ends told"
        for event in ended:
            path = self.folder.path / event.payload["artifact"] / "latents.safetensors"
            assert path.exists(), f"{event.trial_uid} has no latents"
        steps: dict[str | None, set[int]] = {}
        for event in self.events("trial_report"):
            steps.setdefault(event.trial_uid, set()).update(s for s, _ in event.payload["curve"])
        for uid, goal in goals.items():
            assert steps.get(uid, set()) == set(range(1, goal + 1)), "a step of a curve is missing"
        assert self.events("search_ended")[-1].payload["state"] == "complete"

    def check_tracking(self) -> None:
        """As many runs as trials and one, none running, every point once."""
        client = MlflowClient(tracking_uri=self.uri)
        runs = self._runs(client)
        uids = self.goals()
        found = Counter(run.data.tags.get("trial_uid", "search") for run in runs)
        assert found == Counter([*uids, "search"]), f"runs in MLflow: {found}"
        statuses = Counter(run.info.status for run in runs)
        assert not statuses["RUNNING"], f"runs in MLflow: {statuses}"
        points = self._points()
        for run in runs:
            uid = run.data.tags.get("trial_uid")
            for metric, steps in points.get(uid, {}).items():
                history = client.get_metric_history(run.info.run_id, metric)
                sent = Counter(point.step for point in history)
                thinned = metric == LOSS and self.config.budget.steps > MAX_POINTS
                wanted = steps & set(sent) if thinned else steps
                assert sent == Counter(wanted), f"{metric} of {uid} at {sorted(sent.elements())}"
                assert sent, f"{metric} of {uid} never came to MLflow"

    def _runs(self, client: MlflowClient) -> list[Run]:
        experiment = client.get_experiment_by_name(self.config.tracking.experiment)
        assert experiment is not None, "the experiment never came to MLflow"
        return list(client.search_runs([experiment.experiment_id], max_results=1000))

    def _points(self) -> dict[str | None, dict[str, set[int]]]:
        """Trial, metric, and the steps at which it was reported."""
        found: dict[str | None, dict[str, set[int]]] = {}
        for event in self.events("trial_report"):
            metrics = found.setdefault(event.trial_uid, {})
            for metric, value in event.payload["metrics"].items():
                if value is not None and metric != LOSS:
                    metrics.setdefault(metric, set()).add(event.payload["step"])
            losses = {step for step, _ in event.payload["curve"]}
            if losses:  # a control without latents has none; `check_events` knows who that is
                metrics.setdefault(LOSS, set()).update(losses)
        return found


def check_scores(found: Scores, reference: Scores, rounding: float = _ROUNDING) -> None:
    """The same configurations, and to rounding the same scores."""
    assert set(found) == set(reference), "other configurations than without faults"
    for config, metrics in reference.items():
        for metric, value in metrics.items():
            if metric == LOSS:
                continue  # the mean since the last report, and that may be another one
            close = math.isclose(found[config][metric], value, rel_tol=rounding, abs_tol=rounding)
            assert close, f"{metric} is {found[config][metric]}, {value} without faults"


def chaos_config(name: str, **changed: Any) -> SearchConfig:
    """Four trials of eight steps that report at 2, 4 and 8, drawn at random and never stopped.

    `median` with more start-up trials than there are never cuts: it only makes trials report. The
    bundled model, because a driver then need not import torch to look at it.
    """
    from tests.integration.small_search import small_config

    told = {"experiment": name, "report": False}
    options: dict[str, Any] = {
        "name": name,
        "budget": {"trials": 4, "steps": 8},
        "stopping": {"kind": "median", "startup_trials": 1000, "min_steps": 2, "factor": 2},
        "engine": {"concurrent_trials": 2, "threads": 1, "count": 1},
        "tracking": told,
    }
    return SearchConfig.model_validate(small_config(Path("bundled"), **options | changed))
