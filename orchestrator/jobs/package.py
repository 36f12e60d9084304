"""What travels to the cluster: the search file, and the files that it names.

    search.yaml         validated here, with every --set, and with paths as below
    submission.json     versions of the sender, whether the base model comes along
    uploads/DIGEST/NAME data, metrics of one's own, a base model's folder

The head keeps `uploads/` in its LATENTUNE_HOME, by content: a search that goes on, or another one
with the same files, finds them where they were.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config import SearchConfig
from orchestrator.errors import UploadError
from orchestrator.folders import UPLOADS
from orchestrator.jobs.sender import Sender, this_sender
from orchestrator.record import Record
from orchestrator.yaml_source import dump_yaml
from trainable.answer_metrics import metric_files
from trainable.base_model.options import is_folder, is_model_id
from trainable.data import ALL_SPLITS

SEARCH_FILE, SUBMISSION_FILE = "search.yaml", "submission.json"
UPLOAD_LIMIT_BYTES = 100 * 2**20  # it passes through the head's memory, and to every node
_BUNDLED = "bundled"
# Of a folder under version control. Ray would heed the last two, and leave out what they name.
_NOT_SENT = frozenset({".git", ".gitignore", ".rayignore"})


class Submission(Record):
    """What the head must know beside the search file.

    Args:
        name: the search's.
        sender: who sent it.
        base_model: where in `uploads/` the base model's folder is; None where none came along.
    """

    name: str
    sender: Sender
    base_model: str | None = None


def write_package(config: SearchConfig, folder: Path, *, upload: bool = True) -> None:
    """Write what is sent into an empty folder.

    Args:
        upload: whether the search's files come along; without, its paths are the cluster's.

    Raises:
        UploadError: for a file that is not there, or too many bytes.
    """
    data, base_model = config.model_dump(mode="json"), None
    if upload:
        named = _named_files(config)
        _check(named)
        places = {path: _place(Path(path)) for path in named.values()}
        for path, place in places.items():
            _copy(Path(path), folder / UPLOADS / place)
        _rename(data["task"], places)
        base_model = places.get(config.base_model.path)
    submission = Submission(name=config.name, sender=this_sender(), base_model=base_model)
    (folder / SEARCH_FILE).write_text(dump_yaml(data))
    (folder / SUBMISSION_FILE).write_text(submission.model_dump_json())


def read_submission(package: Path) -> Submission:
    """What a package says of itself."""
    return Submission.model_validate_json((package / SUBMISSION_FILE).read_text())


def unpack(package: Path, home: Path) -> tuple[Path, list[str]]:
    """Keep the files of a package in LATENTUNE_HOME, on the head.

    Returns:
        The search file and the overrides with which it is to be read there.
    """
    submission = read_submission(package)
    kept = home / UPLOADS
    kept.mkdir(parents=True, exist_ok=True)
    for source in sorted(package.glob(f"{UPLOADS}/*")):
        if not (kept / source.name).exists():
            _keep(source, kept / source.name)
    # Paths in a search file are relative to its folder.
    search = kept / f"{submission.name}.yaml"
    shutil.copyfile(package / SEARCH_FILE, search)
    if submission.base_model is None:
        return search, []
    return search, [f"base_model.path={json.dumps(str(kept / submission.base_model))}"]


def _keep(source: Path, target: Path) -> None:
    """Copy a folder, whole or not at all; another job may bring the same one at the same time."""
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        shutil.copytree(source, partial, dirs_exist_ok=True)
        partial.chmod(source.stat().st_mode)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # the other one was faster, and its content is the same
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _named_files(config: SearchConfig) -> dict[str, str]:
    """The files that a search names, each behind its field."""
    named: dict[str, str] = {}
    if config.task.reads_files:
        for split in ALL_SPLITS:
            for path in getattr(config.task, split) or ():
                named[f"task.{split}: {path}"] = path
        for path in metric_files(s for s in getattr(config.task, "metrics", ()) if ".py:" in s):
            named[f"task.metrics: {path}"] = path
    base = config.base_model.path
    if base != _BUNDLED and not is_model_id(base):
        named[f"base_model.path: {base}"] = base
    return named


def _check(named: Mapping[str, str]) -> None:
    """Refuse what cannot be sent, all at once."""
    missing = [field for field, path in named.items() if not Path(path).exists()]
    if missing:
        raise UploadError(
            f"not here: {'; '.join(missing)}. Correct the path; or, if these are paths of the "
            "cluster, submit with --paths-on-cluster"
        )
    sizes = {field: _bytes(Path(path)) for field, path in named.items()}
    if sum(sizes.values()) > UPLOAD_LIMIT_BYTES:
        listed = "; ".join(f"{field} ({size / 2**20:.0f} MiB)" for field, size in sizes.items())
        raise UploadError(
            f"{sum(sizes.values()) / 2**20:.0f} MiB are too much to send with a search, at most "
            f"{UPLOAD_LIMIT_BYTES / 2**20:.0f} MiB are sent: {listed}. Copy what is large to the "
            "cluster (`ray rsync-up cluster.yaml LOCAL REMOTE`), name its path there in the "
            "search file and submit with --paths-on-cluster; or give a base model by its Hugging "
            "Face id"
        )


def _files_in(path: Path) -> list[Path]:
    """The files that are sent of a folder, or the one file itself."""
    if not is_folder(str(path)):
        return [path]
    found = (p for p in path.rglob("*") if not _NOT_SENT.intersection(p.relative_to(path).parts))
    return sorted(p for p in found if p.is_file())


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in _files_in(path))


def _place(path: Path) -> str:
    """Where a file or folder goes under `uploads/`: by content, under its own name."""
    digest = hashlib.sha256()
    for file in _files_in(path):
        digest.update(f"{file.relative_to(path.parent).as_posix()}\n".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"{digest.hexdigest()[:16]}/{path.resolve().name}"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(
            source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_NOT_SENT)
        )
    else:
        shutil.copyfile(source, target)


def _rename(task: dict[str, Any], places: Mapping[str, str]) -> None:
    """Put the places of files into a task's fields."""
    for split in ALL_SPLITS:
        if task.get(split):
            task[split] = [places.get(path, path) for path in task[split]]
    if "metrics" in task:
        task["metrics"] = list(_renamed_metrics(task["metrics"], places))


def _renamed_metrics(specs: Iterable[str], places: Mapping[str, str]) -> Iterable[str]:
    for spec in specs:
        source, colon, function = spec.rpartition(":")
        yield f"{places.get(source, source)}{colon}{function}"
