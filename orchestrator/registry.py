"""The pull side: from a name in the registry to verified files in a folder.

    NAME[@alias] ─► version ─► listed ─► downloaded beside the target ─► digest ─► renamed

The files' digest must be the one that the version was registered with; until it is, nothing
stands at the target.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from orchestrator.config import load_search
from orchestrator.errors import (
    ManifestError,
    SearchNotFoundError,
    TargetExistsError,
    TrackingError,
)
from orchestrator.folders import SearchFolder, home_folder
from orchestrator.manifest import ARTIFACT_FILES, check_folder, check_names, manifest_sha256
from orchestrator.search_config import SLUG
from orchestrator.tracking import (
    default_uri,
    ensure_store,
    is_server,
    tracking_uri,
    without_credentials,
)

if TYPE_CHECKING:  # imported where it is used: a second that `latentune --help` need not wait
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

CHAMPION = "champion"
CANDIDATE = "candidate"
MANIFEST_TAG = "manifest_sha256"
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PROBE_S = 10.0


def download(
    name: str,
    *,
    alias: str | None = None,
    version: int | None = None,
    to: Path | None = None,
    home: Path | None = None,
    tracking_uri: str | None = None,
) -> Path:
    """Fetch a registered artifact folder and check it against its registered digest.

    Args:
        name: the search's name, or `NAME@alias`.
        alias: which alias; default the champion, else the candidate with a warning.
        version: a version's number instead of an alias.
        to: the folder to make; default one under `home`, named by the content.
        home: LATENTUNE_HOME; default from the environment, else `./.latentune`.
        tracking_uri: the store; default as for searches.

    Returns:
        The folder with the three files.

    Raises:
        SearchNotFoundError: for a name, alias or version that the registry lacks.
        ManifestError: where the files are not the registered ones.
        TargetExistsError: where `to` holds anything else.
        TrackingError: where the store cannot be reached.
    """
    home = home_folder(home)
    name, alias = _checked(name, alias, version)
    uri = _store_uri(home, name, tracking_uri)
    with _reaching(uri):
        client = _client(home, uri)
        found = _resolve(client, name, alias, version)
        manifest = found.tags.get(MANIFEST_TAG, "")
        if not re.fullmatch("[0-9a-f]{64}", manifest):
            raise ManifestError(
                f"{name} version {found.version} has no tag {MANIFEST_TAG}: it was not "
                "registered by latentune, and its files cannot be checked"
            )
        target = to or home / "pulled" / name / manifest[:12]
        if _holds(target, manifest):
            return target
        source = client.get_model_version_download_uri(name, found.version)
        return _fetch(source, uri, target, manifest)


def _store_uri(home: Path, name: str, flag: str | None) -> str:
    """The store that the search itself used, where it was run on this machine."""
    folder = SearchFolder.of(home, name)
    known = load_search(folder.config).tracking.uri if folder.config.exists() else None
    return tracking_uri(home, known, flag=flag)


def _checked(name: str, alias: str | None, version: int | None) -> tuple[str, str | None]:
    name, _, given = name.partition("@")
    if given and alias and given != alias:
        raise SearchNotFoundError(f"{name}@{given} contradicts alias={alias!r}: give one of them")
    alias = alias or given or None
    if alias and version is not None:
        raise SearchNotFoundError(f"alias {alias!r} contradicts version {version}: give one")
    if not re.fullmatch(SLUG, name):
        raise SearchNotFoundError(
            f"{name!r} is no search name: expected [a-z0-9][a-z0-9._-]{{0,63}}, "
            "for example generation-quickstart"
        )
    if alias and not _ALIAS.fullmatch(alias):
        raise SearchNotFoundError(f"{alias!r} is no alias: expected a word, for example candidate")
    return name, alias


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


def _resolve(
    client: MlflowClient, name: str, alias: str | None, version: int | None
) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(name)
        if version is None:
            aliases = {str(key): str(value) for key, value in model.aliases.items()}
            wanted = _version_of(name, alias, aliases)
        else:
            wanted = str(version)
        return client.get_model_version(name, wanted)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise SearchNotFoundError(
            f"{name}{'' if version is None else f' version {version}'} is not in the registry: "
            "`latentune list` shows the searches; a search's best is registered when it ends"
        ) from None


def _version_of(name: str, alias: str | None, aliases: dict[str, str]) -> str:
    for wanted in (alias,) if alias else (CHAMPION, CANDIDATE):
        if wanted not in aliases:
            continue
        if wanted != alias and wanted == CANDIDATE:
            logger.warning("%s has no champion yet: taking its candidate, unconfirmed", name)
        return aliases[wanted]
    known = ", ".join(sorted(aliases)) or "none"
    raise SearchNotFoundError(f"{name} has no alias {alias or CHAMPION!r}; aliases: {known}")


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


def _fetch(source: str, uri: str, target: Path, manifest: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as made:
        folder = Path(made) / "files"
        folder.mkdir()
        _download_files(source, uri, folder)
        got = manifest_sha256(folder)
        if got != manifest:
            raise ManifestError(
                f"the files at {source} have manifest {got}, but {manifest} was registered: "
                "they were changed after registration; nothing was written"
            )
        for name in ARTIFACT_FILES:
            _sync(folder / name)
        folder.replace(target)  # takes the place of an empty folder, too
    _sync(target.parent)
    return target


def _download_files(source: str, uri: str, folder: Path) -> None:
    """The three files and nothing else, listed before anything is fetched."""
    if urlsplit(source).scheme in ("", "file"):
        local = Path(url2pathname(urlsplit(source).path))
        check_folder(local)
        for name in ARTIFACT_FILES:
            shutil.copyfile(local / name, folder / name, follow_symlinks=False)
        return
    from mlflow.artifacts import download_artifacts, list_artifacts

    infos = list_artifacts(artifact_uri=source, tracking_uri=uri)
    names = [Path(info.path).name for info in infos if not info.is_dir]
    names += [f"{Path(info.path).name}/" for info in infos if info.is_dir]
    check_names(names, source)
    for name in ARTIFACT_FILES:
        download_artifacts(f"{source}/{name}", dst_path=str(folder), tracking_uri=uri)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
