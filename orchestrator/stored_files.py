"""The three files of an artifact folder, read from the store and checked before anybody sees them.

source ─► listed ─► downloaded beside the target ─► digest ─► renamed
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from orchestrator.manifest import ARTIFACT_FILES, check_folder, check_manifest, check_names
from trainable.whole_folder import whole_folder


class StoredFiles(NamedTuple):
    """Where an artifact folder is in the store, and what it must be.

    Args:
        source: its URI.
        manifest: its digest.
        lines: the lines of that digest; "" in stores of before they were kept.
    """

    source: str
    manifest: str
    lines: str = ""


def fetch(files: StoredFiles, uri: str, target: Path) -> Path:
    """Copy a folder out of the store; it appears at `target` whole and checked, or not at all.

    Raises:
        ManifestError: where the files are not those of the digest, naming them.
    """
    with whole_folder(target) as folder:
        read_files(files.source, uri, folder)
        check_manifest(
            folder,
            files.manifest,
            files.lines,
            files.source,
            "they were changed after registration, or cut short on the way; nothing was written",
        )
    return target


def read_files(source: str, uri: str, folder: Path) -> None:
    """The three files and nothing else, listed before anything is fetched.

    Raises:
        ManifestError: for a folder that is not exactly these files.
    """
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
