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
points to. It is read back before anything points to it: what was cut short on the way is
sent again.

"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from orchestrator.dataset_notes import DatasetNote
from orchestrator.errors import ManifestError, TrackingError
from orchestrator.manifest import check_manifest, lines_sha256, manifest_lines
from orchestrator.model_versions import ensure_version
from orchestrator.registry import CHAMPION, LINES_TAG, MANIFEST_TAG
from orchestrator.shipping.batch import Batch, Candidate, RunUpdate, TrainedFolder
from orchestrator.shipping.search_runs import SearchRuns
from orchestrator.stored_files import read_files
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
        self._runs: SearchRuns | None = None
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
        if self._runs is None:
            runs = SearchRuns(self._mlflow, artifact_root(self._home, self._uri))
            if not runs.find(batch):
                return False
            self._runs = runs
        for update in batch.children.values():
            run_id = self._tell_run(self._runs, update)
            for folder in update.folders:
                with _passing_over(f"{folder.path} of {update.name}"):
                    self._keep_folder(batch.search, run_id, folder)
        for candidate in batch.candidates:
            with _passing_over(f"version of {candidate.trial_uid}"):
                self._register(batch.search, self._runs.of(candidate.trial_uid), candidate)
        if batch.revoked:
            with _passing_over("the champion's alias"):
                self._revoke(batch.search, batch.revoked)
        self._tell_run(self._runs, batch.parent)
        if batch.ended:
            self._runs.end_orphans(batch)
        return True

    def forget(self) -> None:
        """Look everything up again: after an error nobody knows what the store did."""
        self._client = None
        self._runs = None
        self._artifact_uris = {}

    @property
    def _mlflow(self) -> MlflowClient:
        if self._client is None:
            ensure_store(self._home, self._uri)
            self._client = MlflowClient(tracking_uri=self._uri)
        return self._client

    def _tell_run(self, runs: SearchRuns, update: RunUpdate) -> str:
        run_id = runs.ensure(update)
        self._log_values(run_id, update)
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
        return run_id

    def _log_values(self, run_id: str, update: RunUpdate) -> None:
        """Log points, params and tags at once; each by itself where MLflow refuses one of them."""
        metrics = [Metric(*point) for point in update.points]
        params = [Param(key, value) for key, value in update.params.items()]
        tags = [RunTag(key, value) for key, value in update.tags.items()]
        try:
            self._mlflow.log_batch(run_id, metrics=metrics, params=params, tags=tags)
        except MlflowException as error:
            if error.error_code not in _REFUSALS:
                raise
            for tag in tags:
                with _passing_over(f"tag {tag.key} of {update.name}"):
                    self._mlflow.log_batch(run_id, tags=[tag])
            for point in metrics:
                with _passing_over(f"point {point.key} at {point.step} of {update.name}"):
                    self._mlflow.log_batch(run_id, metrics=[point])
            for param in params:
                with _passing_over(f"param {param.key} of {update.name}"):
                    self._mlflow.log_batch(run_id, params=[param])

    def _log_folder(self, run_id: str, path: Path, lines: str) -> str:
        """Log an artifact folder under its content's name; return its URI in the store.

        Raises:
            TrackingError: where the store does not hold what was sent: it is sent again.
        """
        manifest = lines_sha256(lines)
        if (run_id, manifest) not in self._artifact_uris:
            name = f"latents/{manifest[:12]}"
            self._mlflow.log_artifacts(run_id, str(path), name)
            root = self._mlflow.get_run(run_id).info.artifact_uri
            self._read_back(f"{root}/{name}", lines)
            self._artifact_uris[run_id, manifest] = f"{root}/{name}"
        return self._artifact_uris[run_id, manifest]

    def _read_back(self, source: str, lines: str) -> None:
        with TemporaryDirectory() as folder:
            try:
                read_files(source, self._uri, Path(folder))
                why = "it was cut short or changed on its way to the store"
                check_manifest(Path(folder), lines_sha256(lines), lines, source, why)
            except ManifestError as error:
                raise TrackingError(str(error)) from error

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
        lines = _checked_lines(path, folder.manifest_sha256)
        source = self._log_folder(run_id, path, lines)
        manifest_tags = {MANIFEST_TAG: lines_sha256(lines), LINES_TAG: lines}
        for name, value in manifest_tags.items():
            self._mlflow.set_tag(run_id, name, value)
        if folder.version_tags is not None:
            tags = {**manifest_tags, **folder.version_tags}
            ensure_version(self._mlflow, search, source, run_id, tags)

    def _register(self, search: str, run_id: str, candidate: Candidate) -> None:
        """Make the version, or find it, and move the alias to it."""
        path = self._inside(candidate.artifact)
        lines = _checked_lines(path, candidate.manifest_sha256)
        source = self._log_folder(run_id, path, lines)
        tags = {
            MANIFEST_TAG: lines_sha256(lines),
            LINES_TAG: lines,
            "trial_uid": candidate.trial_uid,
            "strategy": candidate.strategy,
        }
        version = ensure_version(self._mlflow, search, source, run_id, tags)
        self._mlflow.set_registered_model_alias(search, candidate.alias, version)

    def _revoke(self, search: str, manifests: frozenset[str]) -> None:
        """Take the champion's alias away from latents that are its no longer."""
        aliases = self._mlflow.get_registered_model(search).aliases
        version = aliases.get(CHAMPION)
        if version is None:
            return
        tags = self._mlflow.get_model_version(search, str(version)).tags
        if tags.get(MANIFEST_TAG) in manifests:
            self._mlflow.delete_registered_model_alias(search, CHAMPION)

    def _inside(self, relative: str) -> Path:
        path = (self._search_dir / relative).resolve()
        if not path.is_relative_to(self._search_dir):
            raise ManifestError(f"artifact folder {relative!r} lies outside {self._search_dir}")
        return path


def _checked_lines(path: Path, expected: str | None) -> str:
    """A folder's manifest, whose digest must be the one in the event log, if that has one."""
    lines = manifest_lines(path)
    if expected not in (None, lines_sha256(lines)):
        raise ManifestError(
            f"{path} has manifest {lines_sha256(lines)}, but {expected} was to be registered: the "
            "folder was changed after the trial had ended"
        )
    return lines


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
