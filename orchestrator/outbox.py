"""What a stretch of the event log means for MLflow's runs, without talking to MLflow.

    search_started ─► the parent run          trial_started ─► a child run, RUNNING
    trial_report   ─► points of its curves    state_damaged ─► a tag that says so
    search_ended   ─► the parent's status     trial_ended   ─► status, tags, artifact folder
    candidate      ─► the alias to move       confirm_ended ─► the parent's tags and files
    champion       ─► its confirmed winner    report        ─► the parent's note and files

An `Outbox` is a fold over events: fed the same events it decides the same, however they were
cut into batches. So a shipper that starts again feeds it the delivered events and throws the
result away, and whatever it then delivers twice is equal to the first time, down to the
timestamps, by which MLflow drops repeated points.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from orchestrator.dataset_notes import dataset_notes
from orchestrator.events import Event
from orchestrator.shipping.batch import Batch, Candidate, Point, RunUpdate, Status, TrainedFolder
from orchestrator.shipping.texts import (
    TAG_CHARS,
    search_id,
    short_texts,
    version_tags,
    without_password,
)
from trainable.metrics import direction, goodness

logger = logging.getLogger(__name__)

MAX_POINTS = 200  # per curve
LOSS = "train/loss"
NOTE = "mlflow.note.content"  # what the UI shows as a run's description, in Markdown
_NOTE_CHARS = 8000  # MLflow's limit
_TRIAL_STATUS: Mapping[str, Status] = MappingProxyType(
    {"complete": "FINISHED", "pruned": "KILLED", "stopped": "KILLED", "failed": "FAILED"}
)
_SEARCH_STATUS: Mapping[str, Status] = MappingProxyType(
    {"complete": "FINISHED", "spent": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
)


@dataclass(kw_only=True)
class _Trial:
    name: str
    start_ms: int
    open: bool = True
    last_steps: dict[str, int] = field(default_factory=dict)
    ended: tuple[int | None, Mapping[str, float | None]] = (None, MappingProxyType({}))


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
        self._ended = False
        self._champions: set[str] = set()
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
            ended=self._ended,
            parent=self._parent,
            children=self._children,
            candidates=tuple(self._candidates),
            revoked=frozenset(self._revoked),
        )
        self._first = False
        self._reset()
        return batch

    def _reset(self) -> None:
        self._parent = RunUpdate(trial_uid=None, name=self._search or "", start_ms=self._start_ms)
        self._children: dict[str, RunUpdate] = {}
        self._candidates: list[Candidate] = []
        self._revoked: set[str] = set()

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
        elif event.type == "state_damaged":
            problems = "\n".join(event.payload["problems"])
            self._child(event.trial_uid).tags["state_damaged"] = problems[:TAG_CHARS]
        elif event.type in ("candidate", "champion"):
            self._candidate(event, event.trial_uid)
        elif event.type == "trial_lost":  # another attempt has begun, in the same run
            self._child(event.trial_uid).tags["attempt"] = str(event.attempt + 1)
        elif event.type == "trial_orphan":
            pass  # what a lost attempt reports late is told to nobody
        else:
            logger.warning("event %d (%s) is passed over: unknown type", event.seq, event.type)

    def _search_started(self, event: Event) -> None:
        payload = event.payload
        self._ended = False
        if self._search is None:
            self._search = str(payload["search"])
            self._experiment = str(payload["experiment"])
            self._start_ms = _ms(event)
            self._search_id = search_id(self._search, event.time)
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
            **short_texts("data.", payload.get("data") or {}),
            **short_texts("version.", payload.get("versions") or {}),
            **short_texts("base_model.", plain),  # a probe's numbers say nothing on a screen
        }
        self._parent.datasets = dataset_notes(self._search, payload)
        self._parent.documents["search.yaml"] = without_password(payload["config"])
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
            run.params |= {"strategy": name, **short_texts("", payload.get("params") or {})}
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
            if trial.ended[0] == payload["step"]:  # a member's, scored again on more rows
                for key in _changed(trial.ended[1], metrics):
                    trial.last_steps.pop(key, None)
            run.points += _new_points(trial, metrics, payload["step"], _ms(event), self._stride)
        trial.ended = (payload.get("step"), metrics)
        run.tags |= {"state": state, "attempt": str(event.attempt)}
        if payload.get("reason"):
            run.tags["reason"] = str(payload["reason"])[:TAG_CHARS]
        if payload.get("artifact"):
            told = payload.get("manifest_sha256")
            tags = version_tags(uid, trial.name, self._objective, metrics)
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
        if event.type == "champion":
            self._champions.add(candidate.manifest_sha256)
            self._revoked.discard(candidate.manifest_sha256)
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
        self._ended = event.type == "confirm_ended"
        if self._ended:
            self._close_open(event)
        self._parent.tags["confirmation"] = str(payload["state"])
        if payload["state"] == "nothing confirmed" and self._champions:
            self._revoked |= self._champions
            self._parent.tags["champion"] = "none"
            self._candidates = [one for one in self._candidates if one.alias != "champion"]
        if payload.get("verdict"):
            self._parent.tags["verdict"] = "\n".join(payload["verdict"])[:TAG_CHARS]
        self._parent.documents |= payload.get("documents") or {}
        self._parent.files += payload.get("files") or []

    def _search_ended(self, event: Event) -> None:
        state = str(event.payload["state"])
        self._ended = True
        self._close_open(event)
        for name, count in (event.payload.get("trials") or {}).items():
            self._parent.points.append(Point(f"trials/{name}", count, _ms(event), 0))
        if event.payload.get("result"):  # a driver that was killed has none
            self._parent.documents["result.json"] = event.payload["result"]
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


def _changed(before: Mapping[str, float | None], now: Mapping[str, float | None]) -> Iterator[str]:
    """The metrics that an end tells otherwise than an earlier one did."""
    return (key for key, value in now.items() if key in before and before[key] != value)


def _ms(event: Event) -> int:
    return int(event.time * 1000)
