"""The pull side: from a name in the registry to verified files in a folder.

    NAME[@…] ─► version or trial ─► listed ─► downloaded beside the target ─► digest ─► renamed

The files' digest must be the one that the version, or the trial's run, was stored with, and one
that the search's event log tells of, where that is on this machine: a tag can be forged. Until it
is, nothing stands at the target.
"""

from __future__ import annotations

import logging
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.choice import Choice, choose
from orchestrator.config import load_search
from orchestrator.errors import (
    ManifestError,
    SearchNotFoundError,
    TargetExistsError,
    TrackingError,
)
from orchestrator.folders import SearchFolder, home_folder
from orchestrator.manifest import manifest_sha256
from orchestrator.stored_files import StoredFiles, fetch
from orchestrator.told_manifests import check_told
from orchestrator.tracked_trials import find_trial
from orchestrator.tracking import (
    default_uri,
    ensure_store,
    is_server,
    tracking_uri,
    without_credentials,
)

if TYPE_CHECKING:  # imported where it is used: a second that `latentune --help` need not wait
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

CHAMPION = "champion"
CANDIDATE = "candidate"
MANIFEST_TAG = "manifest_sha256"
LINES_TAG = "manifest"  # its lines, by which a file that differs can be named
UID_TAG = "trial_uid"  # of the trial that handed them over
_DIGEST = re.compile("[0-9a-f]{64}")
_PROBE_S = 10.0


def download(
    name: str,
    *,
    alias: str | None = None,
    version: int | None = None,
    trial: int | None = None,
    to: Path | None = None,
    home: Path | None = None,
    tracking_uri: str | None = None,
) -> Path:
    """Fetch a registered artifact folder and check it against its registered digest.

    Args:
        name: the search's name, or `NAME@alias`, `NAME@v3`, `NAME@trial-7`.
        alias: which alias; default the champion, else the candidate with a warning.
        version: a version's number instead of an alias.
        trial: a trial's number instead of either; it need not be registered.
        to: the folder to make; default one under `home`, named by the content.
        home: LATENTUNE_HOME; default from the environment, else `./.latentune`.
        tracking_uri: the store; default as for searches.

    Returns:
        The folder with the three files.

    Raises:
        SearchNotFoundError: for a name, alias, version or trial that the store lacks.
        ManifestError: where the files are not the registered ones.
        TargetExistsError: where `to` holds anything else.
        TrackingError: where the store cannot be reached.
    """
    home = home_folder(home)
    choice = choose(name, alias, version, trial)
    with open_store(home, choice.name, tracking_uri) as (client, uri):
        files = locate(client, choice, home).files
        target = to or home / "pulled" / choice.name / files.manifest[:12]
        if _holds(target, files.manifest):
            return target
        return fetch(files, uri, target)


@contextmanager
def open_store(home: Path, name: str, flag: str | None) -> Iterator[tuple[MlflowClient, str]]:
    """A client of the store that a search uses, and its URI.

    Raises:
        SearchNotFoundError: where nothing was ever stored.
        TrackingError: where it cannot be reached, then or later in the block.
    """
    uri = _store_uri(home, name, flag)
    with _reaching(uri):
        yield _client(home, uri), uri


@dataclass(frozen=True)
class Stored:
    """An artifact folder in the store, and the trial's run if it was asked for by trial.

    Args:
        uid: of the trial that handed it over, as the store has it.
    """

    files: StoredFiles
    uid: str | None
    run: Run | None = None


def locate(client: MlflowClient, choice: Choice, home: Path) -> Stored:
    """Where chosen latents are.

    Raises:
        SearchNotFoundError: for a name, alias, version or trial that the store lacks.
        ManifestError: for a version that has no digest, or one that the search's own event log,
            where it is under `home`, does not know.
    """
    if choice.trial is not None:
        found = _locate_trial(client, choice, choice.trial)
    else:
        found = _locate_version(client, choice)
    check_told(SearchFolder.of(home, choice.name), found.files.manifest, found.uid, str(choice))
    return found


def _locate_version(client: MlflowClient, choice: Choice) -> Stored:
    found = _resolve(client, choice)
    manifest = found.tags.get(MANIFEST_TAG, "")
    if not _DIGEST.fullmatch(manifest):
        raise ManifestError(
            f"{choice.name} version {found.version} has no tag {MANIFEST_TAG}: it was not "
            "registered by latentune, and its files cannot be checked; `latentune register` "
            "registers a trial's"
        )
    source = client.get_model_version_download_uri(choice.name, found.version)
    files = StoredFiles(source, manifest, found.tags.get(LINES_TAG, ""))
    return Stored(files, found.tags.get(UID_TAG))


def _locate_trial(client: MlflowClient, choice: Choice, number: int) -> Stored:
    run = find_trial(client, choice.name, number)
    manifest = run.data.tags.get(MANIFEST_TAG, "")
    if not _DIGEST.fullmatch(manifest):
        state = run.data.tags.get("state", "unknown")
        raise SearchNotFoundError(
            f"{choice} has no latents in the store (its state: {state}); a trial hands them over "
            "when it ends"
        )
    source = f"{run.info.artifact_uri}/latents/{manifest[:12]}"
    files = StoredFiles(source, manifest, run.data.tags.get(LINES_TAG, ""))
    return Stored(files, f"{choice.name}-{number}", run)


def _store_uri(home: Path, name: str, flag: str | None) -> str:
    """The store that the search itself used, where it was run on this machine."""
    folder = SearchFolder.of(home, name)
    folder.check_own()
    known = load_search(folder.config).tracking.uri if folder.config.exists() else None
    return tracking_uri(home, known, flag=flag)


@contextmanager
def _reaching(uri: str) -> Iterator[None]:
    """Turn what an unreachable store raises into one error, and find out soon."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    shown = without_credentials(uri, uri)
    remedy = f"cannot read from the tracking store {shown}: check its URI, and that it runs"
    if is_server(uri):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_PROBE_S):  # noqa: S310
                pass
        except urllib.error.HTTPError:
            pass  # it answers; what it has against us, MLflow's client will say
        except OSError as error:
            reason = without_credentials(str(error), uri)
            raise TrackingError(f"{remedy} ({reason})") from None
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        raise TrackingError(f"{remedy} ({without_credentials(str(error), uri)})") from None


def _client(home: Path, uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    if uri == default_uri(home) and not (home / "mlflow.db").exists():
        raise SearchNotFoundError(
            f"nothing was ever stored under {home.resolve()}: run a search first, or set "
            "LATENTUNE_HOME or MLFLOW_TRACKING_URI to where one was run"
        )
    ensure_store(home, uri)
    return MlflowClient(tracking_uri=uri)


def _resolve(client: MlflowClient, choice: Choice) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        if choice.version is not None:
            return client.get_model_version(choice.name, str(choice.version))
        model = client.get_registered_model(choice.name)
        aliases = {str(key): str(value) for key, value in model.aliases.items()}
        wanted = _version_of(choice.name, choice.alias, aliases)
        return client.get_model_version(choice.name, wanted)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise SearchNotFoundError(
            f"{choice} is not in the registry: `latentune list` shows the searches; trials that "
            "ran to the full budget are registered when they end, any other with "
            f"`latentune register {choice.name} --trial N`"
        ) from None


def _version_of(name: str, alias: str | None, aliases: dict[str, str]) -> str:
    for wanted in (alias,) if alias else (CHAMPION, CANDIDATE):
        if wanted not in aliases:
            continue
        if wanted != alias and wanted == CANDIDATE:
            logger.warning("%s has no champion yet: taking its candidate, unconfirmed", name)
        return aliases[wanted]
    known = ", ".join(sorted(aliases)) or "none"
    raise SearchNotFoundError(
        f"{name} has no alias {alias or CHAMPION!r}; aliases: {known}. A version is "
        f"{name}@v3, a trial {name}@trial-7"
    )


def _holds(target: Path, manifest: str) -> bool:
    """Whether the files are there already. Raises TargetExistsError for anything else."""
    if not target.is_symlink() and (not target.exists() or _is_empty(target)):
        return False
    try:
        if manifest_sha256(target) == manifest:
            return True
    except ManifestError as error:
        raise TargetExistsError(
            f"{target} is in the way ({error}): choose a folder that is empty or does not exist"
        ) from None
    raise TargetExistsError(
        f"{target} holds another version's files: choose a folder that is empty or does not exist"
    )


def _is_empty(path: Path) -> bool:
    return path.is_dir() and next(path.iterdir(), None) is None
