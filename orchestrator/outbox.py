"""What a stretch of the event log means for MLflow's runs, without talking to MLflow.

    search_started ─► the parent run          trial_started ─► a child run, RUNNING
    trial_report   ─► points of its curves    trial_ended   ─► status, tags, artifact folder
    candidate      ─► the alias to move       search_ended  ─► the parent's status
    champion       ─► its confirmed winner    confirm_ended ─► the parent's tags and files
    report         ─► the parent's note and files

An `Outbox` is a fold over events: fed the same events it decides the same, however they were
cut into batches. So a shipper that starts again feeds it the delivered events and throws the
result away, and whatever it then delivers twice is equal to the first time, down to the
timestamps, by which MLflow drops repeated points.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from orchestrator.dataset_notes import DatasetNote, dataset_notes
from orchestrator.events import Event
from orchestrator.tracking import without_credentials
from trainable.metrics import direction, goodness

logger = logging.getLogger(__name__)

Status = Literal["RUNNING", "FINISHED", "KILLED", "FAILED"]

MAX_POINTS = 200  # per curve
LOSS = "train/loss"
NOTE = "mlflow.note.content"  # what the UI shows as a run's description, in Markdown
SHOWN_METRICS = ("val_ood/exact_match", "val_id/exact_match", "cost/extra_tokens_pct")
_TAG_CHARS = 1000
_NOTE_CHARS = 8000  # MLflow's limit
_TRIAL_STATUS: Mapping[str, Status] = MappingProxyType(
    {"complete": "FINISHED", "pruned": "KILLED", "stopped": "KILLED", "failed": "FAILED"}
)
_SEARCH_STATUS: Mapping[str, Status] = MappingProxyType(
    {"complete": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
)


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
        parent: told last, so that it ends after its children.
        children: by trial.
        candidates: in the order of the log; the last one keeps the alias.
    """

    search: str
    search_id: str
    experiment: str
    first: bool
    parent: RunUpdate
    children: Mapping[str, RunUpdate]
    candidates: tuple[Candidate, ...]


@dataclass(kw_only=True)
class _Trial:
    name: str
    start_ms: int
    open: bool = True
    last_steps: dict[str, int] = field(default_factory=dict)


class Outbox:
    """The fold. `add` events in order, then `take` what they ask for."""

    def __init__(self) -> None:
        self._search: str | None = None
        self._search_id = ""
        self._experiment = ""
        self._objective = ""
        self._start_ms = 0
        self._stride = self._best_stride = 1
        self._trials: dict[str, _Trial] = {}
        self._finished: set[str] = set()
        self._best: float | None = None
        self._first = True
        self._reset()

    def add(self, events: Iterable[Event]) -> None:
        """Take in the next events of the log."""
        for event in events:
            self._add(event)

    def take(self) -> Batch | None:
        """What the events since the last call ask for; None before a search has started."""
        if self._search is None:
            return None
        batch = Batch(
            search=self._search,
            search_id=self._search_id,
            experiment=self._experiment,
            first=self._first,
            parent=self._parent,
            children=self._children,
            candidates=tuple(self._candidates),
        )
        self._first = False
        self._reset()
        return batch

    def _reset(self) -> None:
        self._parent = RunUpdate(trial_uid=None, name=self._search or "", start_ms=self._start_ms)
        self._children: dict[str, RunUpdate] = {}
        self._candidates: list[Candidate] = []

    def _add(self, event: Event) -> None:
        if event.type == "search_started":
            self._search_started(event)
        elif self._search is None:
            logger.warning("event %d (%s) stands before search_started", event.seq, event.type)
        elif event.type == "search_ended":
            self._search_ended(event)
        elif event.type in ("confirm_started", "confirm_ended"):
            self._confirmed(event)
        elif event.type == "report":
            self._report(event)
        elif event.trial_uid is None:
            logger.warning("event %d (%s) is passed over: unknown type", event.seq, event.type)
        elif event.type == "trial_started":
            self._trial_started(event, event.trial_uid)
        elif event.trial_uid not in self._trials:
            logger.warning("event %d: trial %s never started", event.seq, event.trial_uid)
        elif event.type == "trial_report":
            self._trial_report(event, event.trial_uid)
        elif event.type == "trial_ended":
            self._trial_ended(event, event.trial_uid)
        elif event.type in ("candidate", "champion"):
            self._candidate(event, event.trial_uid)
        else:
            logger.warning("event %d (%s) is passed over: unknown type", event.seq, event.type)

    def _search_started(self, event: Event) -> None:
        payload = event.payload
        if self._search is None:
            self._search = str(payload["search"])
            self._experiment = str(payload["experiment"])
            self._start_ms = _ms(event)
            self._search_id = _search_id(self._search, event.time)
            self._reset()
        self._objective = str(payload["objective"])
        budget = payload["config"].get("budget", {})
        self._stride = max(1, math.ceil((budget.get("steps") or 0) / MAX_POINTS))
        self._best_stride = max(1, math.ceil((budget.get("trials") or 0) / (MAX_POINTS // 2)))
        base_model = payload.get("base_model") or {}
        plain = {
            k: base_model[k] for k in sorted(base_model) if not isinstance(base_model[k], dict)
        }
        self._parent.tags |= {
            "stage": "search",
            "state": "running",
            "search": self._search,
            "search_id": self._search_id,
            "objective": self._objective,
            "direction": direction(self._objective),
            **_texts("data.", payload.get("data") or {}),
            **_texts("version.", payload.get("versions") or {}),
            **_texts("base_model.", plain),  # a probe's numbers say nothing on a screen
        }
        self._parent.datasets = dataset_notes(self._search, payload)
        self._parent.documents["search.yaml"] = _without_password(payload["config"])
        self._parent.status, self._parent.end_ms = "RUNNING", None

    def _trial_started(self, event: Event, uid: str) -> None:
        payload = event.payload
        name = str(payload["name"])
        known = self._trials.get(uid)
        trial = self._trials.setdefault(uid, _Trial(name=name, start_ms=_ms(event)))
        trial.open = True
        run = self._child(uid)
        run.tags |= {
            "trial_uid": uid,
            "stage": str(payload.get("stage", "search")),
            "role": str(payload.get("role", "search")),
            "state": "running",
            "attempt": str(event.attempt),
            "strategy": name,
        }
        run.status, run.end_ms = "RUNNING", None
        if known is None:  # MLflow refuses to change a param
            run.params |= {"strategy": name, **_texts("", payload.get("params") or {})}
            run.documents["config.json"] = payload["config"]
            if payload.get("about"):
                run.tags[NOTE] = str(payload["about"])

    def _trial_report(self, event: Event, uid: str) -> None:
        trial, run = self._trials[uid], self._child(uid)
        for step, loss in event.payload.get("curve") or []:
            run.points += _new_points(trial, {LOSS: loss}, step, _ms(event), self._stride)
        metrics = event.payload.get("metrics") or {}
        run.points += _new_points(trial, metrics, event.payload["step"], _ms(event), self._stride)

    def _trial_ended(self, event: Event, uid: str) -> None:
        payload = event.payload
        trial, run = self._trials[uid], self._child(uid)
        trial.open = False
        state = str(payload["state"])
        metrics = payload.get("metrics") or {}
        if payload.get("step") is not None:
            run.points += _new_points(trial, metrics, payload["step"], _ms(event), self._stride)
        run.tags |= {"state": state, "attempt": str(event.attempt)}
        if payload.get("reason"):
            run.tags["reason"] = str(payload["reason"])[:_TAG_CHARS]
        if payload.get("artifact"):
            told = payload.get("manifest_sha256")
            tags = _version_tags(uid, trial.name, self._objective, metrics)
            registered = state == "complete" and told is not None
            run.folders.append(
                TrainedFolder(str(payload["artifact"]), told, tags if registered else None)
            )
        run.status, run.end_ms = _TRIAL_STATUS.get(state, "FAILED"), _ms(event)
        if payload.get("stage", "search") == "search":
            self._best_so_far(event, uid, state, metrics.get(self._objective))

    def _best_so_far(self, event: Event, uid: str, state: str, score: float | None) -> None:
        if state == "stopped" or uid in self._finished:
            return  # it may go on; counted when it has finished
        self._finished.add(uid)
        if state == "complete" and score is not None:
            best = score if self._best is None else self._best
            self._best = max(best, score, key=lambda value: goodness(self._objective, value))
        if self._best is not None and len(self._finished) % self._best_stride == 0:
            point = Point(f"best/{self._objective}", self._best, _ms(event), len(self._finished))
            self._parent.points.append(point)

    def _candidate(self, event: Event, uid: str) -> None:
        candidate = Candidate(
            trial_uid=uid,
            strategy=self._trials[uid].name,
            artifact=str(event.payload["artifact"]),
            manifest_sha256=str(event.payload["manifest_sha256"]),
            alias=event.type,
        )
        self._candidates.append(candidate)
        self._parent.tags[event.type] = uid

    def _report(self, event: Event) -> None:
        self._parent.tags[NOTE] = str(event.payload["note"])[:_NOTE_CHARS]
        files = [str(file) for file in event.payload.get("files") or []]
        self._parent.files = list(dict.fromkeys([*self._parent.files, *files]))

    def _close_open(self, event: Event) -> None:
        """Trials that are stored, and able to go on; but nothing runs any more."""
        for uid, trial in self._trials.items():
            if trial.open:
                run = self._child(uid)
                run.tags["state"] = "interrupted"
                run.status, run.end_ms = "KILLED", _ms(event)

    def _confirmed(self, event: Event) -> None:
        """The search's own run has ended before: only what it shows is brought up to date."""
        payload = event.payload
        if event.type == "confirm_ended":
            self._close_open(event)
        self._parent.tags["confirmation"] = str(payload["state"])
        if payload.get("verdict"):
            self._parent.tags["verdict"] = "\n".join(payload["verdict"])[:_TAG_CHARS]
        self._parent.documents |= payload.get("documents") or {}
        self._parent.files += payload.get("files") or []

    def _search_ended(self, event: Event) -> None:
        state = str(event.payload["state"])
        self._close_open(event)
        for name, count in (event.payload.get("trials") or {}).items():
            self._parent.points.append(Point(f"trials/{name}", count, _ms(event), 0))
        self._parent.documents["result.json"] = event.payload.get("result") or {}
        if event.payload.get("reproduce"):
            self._parent.documents["reproduce.json"] = event.payload["reproduce"]
        self._parent.tags["state"] = state
        self._parent.status = _SEARCH_STATUS.get(state, "FAILED")
        self._parent.end_ms = _ms(event)

    def _child(self, uid: str) -> RunUpdate:
        trial = self._trials[uid]
        new = RunUpdate(trial_uid=uid, name=trial.name, start_ms=trial.start_ms)
        return self._children.setdefault(uid, new)


def _new_points(
    trial: _Trial, metrics: Mapping[str, float | None], step: int, time_ms: int, stride: int
) -> list[Point]:
    """The points that their curves lack: a step that was repeated after a restart is known."""
    points = []
    for key, value in metrics.items():
        gap = stride if key == LOSS else 1
        last = trial.last_steps.get(key)
        if value is None or (last is not None and step < last + gap):
            continue
        trial.last_steps[key] = step
        points.append(Point(key, float(value), time_ms, step))
    return points


def _version_tags(
    uid: str, strategy: str, objective: str, metrics: Mapping[str, float | None]
) -> dict[str, str]:
    """What a person chooses by, on the version itself."""
    tags = {"trial_uid": uid, "strategy": strategy}
    for name in dict.fromkeys((objective, *SHOWN_METRICS)):
        value = metrics.get(name)
        if value is not None:
            tags[name] = f"{value:.4g}"
    return tags


def _without_password(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The search file as others may read it in the store."""
    tracking = dict(config.get("tracking") or {})
    if not tracking.get("uri"):
        return config
    tracking["uri"] = without_credentials(tracking["uri"], tracking["uri"])
    return {**config, "tracking": tracking}


def _search_id(search: str, time: float) -> str:
    return hashlib.sha256(f"{search} {time!r}".encode()).hexdigest()[:16]


def _texts(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Short texts for params and tags; strings as they are, the rest as JSON."""
    return {
        prefix + key: (value if isinstance(value, str) else json.dumps(value))[:_TAG_CHARS]
        for key, value in values.items()
    }


def _ms(event: Event) -> int:
    return int(event.time * 1000)
