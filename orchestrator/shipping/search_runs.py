"""The runs that one search has in the store: found by their tags, made once, ended.

A store that answers too late makes what was asked for although its client has given up, so that
a run may be there twice: of such doubles the fullest is kept. Once nothing of a search runs any
more, none of its runs is left RUNNING, whoever was killed over it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from orchestrator.errors import TrackingError
from orchestrator.model_versions import EXISTS
from orchestrator.shipping.batch import Batch, RunUpdate

logger = logging.getLogger(__name__)


class SearchRuns:
    """The runs of one search.

    Args:
        client: MLflow's.
        artifact_root: where a new experiment keeps artifacts; None where the store decides.
    """

    def __init__(self, client: MlflowClient, artifact_root: str | None) -> None:
        self._mlflow = client
        self._artifact_root = artifact_root
        self._experiment_id = ""
        self._ids: dict[str | None, str] = {}

    def find(self, batch: Batch) -> bool:
        """Look up what is there; the search's own run is made for its first batch.

        Returns:
            False where a search that was delivered before is not there.

        Raises:
            TrackingError: where the experiment was deleted.
        """
        self._experiment_id = self._find_experiment(batch.experiment)
        parents = self._parents(batch)
        if not parents:
            if batch.first:
                self._ids[None] = self._create(batch.parent)
            return batch.first
        self._ids = {None: self._keep_one(parents)}
        by_uid: dict[str, list[Run]] = {}
        for run in self._children():
            by_uid.setdefault(run.data.tags["trial_uid"], []).append(run)
        self._ids |= {uid: self._keep_one(runs) for uid, runs in by_uid.items()}
        return True

    def of(self, trial_uid: str) -> str:
        """The id of a trial's run, which is there."""
        return self._ids[trial_uid]

    def ensure(self, update: RunUpdate) -> str:
        """The id of a run, which is made where it is missing, and RUNNING again if it is."""
        run_id = self._ids.get(update.trial_uid)
        if run_id is None:
            run_id = self._ids[update.trial_uid] = self._create(update)
        elif update.status == "RUNNING":
            self._mlflow.update_run(run_id, status="RUNNING")
        return run_id

    def end_orphans(self, batch: Batch) -> None:
        """Delete doubles that came late, and end what nothing runs any more."""
        self._keep_one(self._parents(batch))
        for run in self._children():
            own = self._ids.get(run.data.tags["trial_uid"])
            if own not in (None, run.info.run_id):
                self._delete(run, str(own))
            elif run.info.status == "RUNNING":
                self._mlflow.set_terminated(run.info.run_id, "KILLED", batch.parent.end_ms)

    def _keep_one(self, runs: Sequence[Run]) -> str:
        """The run that is known, or the fullest; its doubles are deleted."""
        known = set(self._ids.values())
        kept = max(runs, key=lambda run: (run.info.run_id in known, _fullness(run)))
        for run in runs:
            if run is not kept:
                self._delete(run, kept.info.run_id)
        return str(kept.info.run_id)

    def _delete(self, run: Run, of: str) -> None:
        logger.warning("run %s is a double of %s: deleted", run.info.run_id, of)
        self._mlflow.delete_run(run.info.run_id)

    def _parents(self, batch: Batch) -> list[Run]:
        return list(self._search(f"tags.search_id = '{batch.search_id}'"))

    def _children(self) -> list[Run]:
        """The trials' runs; what a person has put beside them is not ours."""
        found = self._search(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self._ids[None]}'")
        return [run for run in found if "trial_uid" in run.data.tags]

    def _search(self, query: str) -> Iterator[Run]:
        token: str | None = None
        while True:
            page = self._mlflow.search_runs(
                [self._experiment_id], query, max_results=1000, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _find_experiment(self, name: str) -> str:
        found = self._mlflow.get_experiment_by_name(name)
        if found is None:
            root = self._artifact_root
            try:
                return self._mlflow.create_experiment(name, artifact_location=root)
            except MlflowException as error:
                if error.error_code not in EXISTS:
                    raise
                found = self._mlflow.get_experiment_by_name(name)  # another search was faster
        if found is None or found.lifecycle_stage != "active":
            raise TrackingError(
                f"MLflow experiment {name!r} was deleted: restore it (mlflow experiments restore) "
                "or set another name in tracking.experiment"
            )
        return found.experiment_id

    def _create(self, update: RunUpdate) -> str:
        parent = {} if update.trial_uid is None else {MLFLOW_PARENT_RUN_ID: self._ids[None]}
        run = self._mlflow.create_run(
            self._experiment_id,
            start_time=update.start_ms,
            tags=update.tags | parent,
            run_name=update.name,
        )
        return str(run.info.run_id)


def _fullness(run: Run) -> tuple[int, str]:
    """How much a run holds; of two that hold as much, always the same is the fuller one."""
    return len(run.data.metrics) + len(run.data.params) + len(run.data.tags), run.info.run_id
