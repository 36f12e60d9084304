"""What one delivery tells the store: runs with their points and files, and versions.

    Batch ─┬─ parent: RunUpdate           the search's own run, told last
           ├─ children: uid ─► RunUpdate   a trial's run: tags, Points, documents, TrainedFolders
           └─ candidates: Candidate        versions that an alias moves to

Plain data that the event log alone decides; knows nothing of MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from orchestrator.dataset_notes import DatasetNote

Status = Literal["RUNNING", "FINISHED", "KILLED", "FAILED"]


class Point(NamedTuple):
    """One value of a metric; `time_ms` is the event's, so that a replay repeats it exactly."""

    key: str
    value: float
    time_ms: int
    step: int


class TrainedFolder(NamedTuple):
    """The artifact folder of a trial that has ended.

    Args:
        path: relative to the search's folder.
        manifest_sha256: its digest; None in logs of before it was told.
        version_tags: of the version to register; None for one that is not registered unasked.
    """

    path: str
    manifest_sha256: str | None
    version_tags: dict[str, str] | None


@dataclass(kw_only=True)
class RunUpdate:
    """All that one batch tells one run.

    Args:
        trial_uid: the child run's trial; None for the parent.
        name: the run's name.
        start_ms: the run's start, should it have to be created.
        tags: name to text.
        params: dotted path to text; only with the trial's first start.
        points: in the order of the log.
        documents: file name to plain data, logged as artifacts.
        folders: what a trial that has ended hands over.
        files: relative to the search's folder; the run has them under the same path.
        datasets: what the run was trained and judged on.
        status: the last one; None where it did not change.
        end_ms: with a final status.
    """

    trial_uid: str | None
    name: str
    start_ms: int
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    documents: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    folders: list[TrainedFolder] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    datasets: list[DatasetNote] = field(default_factory=list)
    status: Status | None = None
    end_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A version to register, and to move an alias to."""

    trial_uid: str
    strategy: str
    artifact: str
    manifest_sha256: str
    alias: str = "candidate"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What to deliver at once.

    Args:
        search: the search's name.
        search_id: tells this search from an earlier one of the same name.
        experiment: the MLflow experiment's name.
        first: whether it begins with the first event of the log.
        ended: whether nothing of the search runs any more, as far as the log goes.
        parent: told last, so that it ends after its children.
        children: by trial.
        candidates: in the order of the log; the last one keeps the alias.
        revoked: the digests of champions that a later confirmation no longer found better than
            their controls: the alias leaves them, unless a person has moved it since.
    """

    search: str
    search_id: str
    experiment: str
    first: bool
    ended: bool
    parent: RunUpdate
    children: Mapping[str, RunUpdate]
    candidates: tuple[Candidate, ...]
    revoked: frozenset[str] = frozenset()
