"""The one place that writes to MLflow: batches of the outbox become runs and versions.

    experiment                     tags: search_id
    └── parent run = search ──────────────────────────┐
        ├── child run = trial      tags: trial_uid, manifest_sha256, mlflow.parentRunId
        │   ├── config.json
        │   └── latents/3f2a91c07be4/   the three files, under 12 digits of their manifest
        └── ...                    registered model = search, version.source ┘

Every operation finds before it makes, by tags that the event log alone decides, so that a
batch delivered again changes nothing. A folder of latents is named by its content: a trial
that was stopped, registered and later trained further never overwrites what a version
points to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID

from orchestrator.dataset_notes import DatasetNote
from orchestrator.errors import ManifestError, TrackingError
from orchestrator.manifest import manifest_sha256
from orchestrator.model_versions import EXISTS, ensure_version
from orchestrator.outbox import Batch, Candidate, RunUpdate, TrainedFolder
from orchestrator.registry import MANIFEST_TAG
from orchestrator.tracking import artifact_root, ensure_store

logger = logging.getLogger(__name__)

_REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})  # asking again changes nothing


class MlflowSink:
    """Delivers the batches of one search.

    Args:
        uri: tracking URI.
        search_dir: where artifact folders are found.
        home: LATENTUNE_HOME, for the artifacts of a database store.
    """

    def __init__(self, uri: str, search_dir: Path, home: Path) -> None:
        self._uri = uri
        self._search_dir = search_dir.resolve()
        self._home = home
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._run_ids: dict[str | None, str] = {}
        self._artifact_uris: dict[tuple[str, str], str] = {}

    def deliver(self, batch: Batch) -> bool:
        """Bring MLflow up to date; to repeat it after any error is safe.

        Returns:
            False where the store lacks a search that was delivered before: it was emptied or
            replaced, nothing was delivered, and the log is to be delivered from its start.

        Raises:
            TrackingError: where the experiment was deleted.
            MlflowException, OSError: where the store cannot be reached; call `forget`, wait.
        """
        if not self._run_ids and not self._find_runs(batch):
            return False
        for update in batch.children.values():
            self._tell_run(update)
            for folder in update.folders:
                with _passing_over(f"{folder.path} of {update.name}"):
                    self._keep_folder(batch.search, self._run_ids[update.trial_uid], folder)
        for candidate in batch.candidates:
            with _passing_over(f"version of {candidate.trial_uid}"):
                self._register(batch.search, candidate)
        self._tell_run(batch.parent)
        return True

    def forget(self) -> None:
        """Look everything up again: after an error nobody knows what the store did."""
        self._client = None
        self._run_ids = {}
        self._artifact_uris = {}

    @property
    def _mlflow(self) -> MlflowClient:
        if self._client is None:
            ensure_store(self._home, self._uri)
            self._client = MlflowClient(tracking_uri=self._uri)
        return self._client

    def _find_runs(self, batch: Batch) -> bool:
        self._experiment_id = self._find_experiment(batch.experiment)
        parent = next(self._search_runs(f"tags.search_id = '{batch.search_id}'"), None)
        if parent is None:
            if batch.first:
                self._run_ids[None] = self._create_run(batch.parent)
            return batch.first
        parent_id = parent.info.run_id
        children = self._search_runs(f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'")
        self._run_ids = {run.data.tags["trial_uid"]: run.info.run_id for run in children}
        self._run_ids[None] = parent_id
        return True

    def _search_runs(self, query: str) -> Iterator[Run]:
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
            root = artifact_root(self._home, self._uri)
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

    def _create_run(self, update: RunUpdate) -> str:
        parent = {} if update.trial_uid is None else {MLFLOW_PARENT_RUN_ID: self._run_ids[None]}
        run = self._mlflow.create_run(
            self._experiment_id,
            start_time=update.start_ms,
            tags=update.tags | parent,
            run_name=update.name,
        )
        return str(run.info.run_id)

    def _tell_run(self, update: RunUpdate) -> None:
        run_id = self._run_ids.get(update.trial_uid)
        if run_id is None:
            run_id = self._run_ids[update.trial_uid] = self._create_run(update)
        elif update.status == "RUNNING":
            self._mlflow.update_run(run_id, status="RUNNING")
        with _passing_over(f"points of {update.name}"):
            self._log_batch(run_id, update)
        for name, document in update.documents.items():
            with _passing_over(f"{name} of {update.name}"):
                self._mlflow.log_dict(run_id, dict(document), name)
        for file in update.files:
            with _passing_over(f"{file} of {update.name}"):
                self._log_file(run_id, file)
        if update.datasets:
            with _passing_over(f"datasets of {update.name}"):
                self._mlflow.log_inputs(run_id, [_dataset(note) for note in update.datasets])
        if update.status not in (None, "RUNNING"):
            self._mlflow.set_terminated(run_id, update.status, update.end_ms)

    def _log_batch(self, run_id: str, update: RunUpdate) -> None:
        metrics = [Metric(*point) for point in update.points]
        params = [Param(key, value) for key, value in update.params.items()]
        tags = [RunTag(key, value) for key, value in update.tags.items()]
        if metrics or params or tags:
            self._mlflow.log_batch(run_id, metrics=metrics, params=params, tags=tags)

    def _log_folder(self, run_id: str, path: Path, manifest: str) -> str:
        """Log an artifact folder under its content's name; return its URI in the store."""
        if (run_id, manifest) not in self._artifact_uris:
            name = f"latents/{manifest[:12]}"
            self._mlflow.log_artifacts(run_id, str(path), name)
            root = self._mlflow.get_run(run_id).info.artifact_uri
            self._artifact_uris[run_id, manifest] = f"{root}/{name}"
        return self._artifact_uris[run_id, manifest]

    def _log_file(self, run_id: str, relative: str) -> None:
        path = self._inside(relative)
        if path.is_file():
            self._mlflow.log_artifact(run_id, str(path), str(Path(relative).parent))
        else:
            logger.warning("%s is gone, and is not delivered", path)

    def _keep_folder(self, search: str, run_id: str, folder: TrainedFolder) -> None:
        """Log a trial's latents, with the digest by which they are pulled; register finished ones.

        Every trained configuration can then be chosen: by a version's alias, or by its trial.
        """
        path = self._inside(folder.path)
        manifest = _checked_manifest(path, folder.manifest_sha256)
        source = self._log_folder(run_id, path, manifest)
        self._mlflow.set_tag(run_id, MANIFEST_TAG, manifest)
        if folder.version_tags is not None:
            tags = {MANIFEST_TAG: manifest, **folder.version_tags}
            ensure_version(self._mlflow, search, source, run_id, tags)

    def _register(self, search: str, candidate: Candidate) -> None:
        """Make the version, or find it, and move the alias to it."""
        path = self._inside(candidate.artifact)
        manifest = _checked_manifest(path, candidate.manifest_sha256)
        run_id = self._run_ids[candidate.trial_uid]
        source = self._log_folder(run_id, path, manifest)
        tags = {
            MANIFEST_TAG: manifest,
            "trial_uid": candidate.trial_uid,
            "strategy": candidate.strategy,
        }
        version = ensure_version(self._mlflow, search, source, run_id, tags)
        self._mlflow.set_registered_model_alias(search, candidate.alias, version)

    def _inside(self, relative: str) -> Path:
        path = (self._search_dir / relative).resolve()
        if not path.is_relative_to(self._search_dir):
            raise ManifestError(f"artifact folder {relative!r} lies outside {self._search_dir}")
        return path


def _checked_manifest(path: Path, expected: str | None) -> str:
    """A folder's digest, which must be the one that the event log has, if it has one."""
    manifest = manifest_sha256(path)
    if expected not in (None, manifest):
        raise ManifestError(
            f"{path} has manifest {manifest}, but {expected} was to be registered: the folder was "
            "changed after the trial had ended"
        )
    return manifest


def _dataset(note: DatasetNote) -> DatasetInput:
    dataset = Dataset(note.name, note.digest, note.source_type, note.source, profile=note.profile)
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, note.context)])


@contextmanager
def _passing_over(what: str) -> Iterator[None]:
    """Say what can never be delivered, and go on: one bad folder must not stop all tracking."""
    try:
        yield
    except ManifestError as error:
        logger.error("%s is not delivered: %s", what, error)
    except MlflowException as error:
        if error.error_code not in _REFUSALS:
            raise
        logger.error("%s is not delivered, MLflow refuses it: %s", what, error)
