"""A search's folder whose events are told by hand, and what MLflow holds of it afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from mlflow import MlflowClient

from orchestrator.events import EventLog
from orchestrator.manifest import manifest_sha256
from orchestrator.shipper import Watch, ship
from orchestrator.tracking import Cursor, default_uri, ensure_store, write_cursor

NAME = "quick"
OBJECTIVE = "val_ood/exact_match"
CONFIG = {"name": NAME, "budget": {"trials": 4, "steps": 60}, "tracking": {"experiment": "e"}}


@cache
def _new_store() -> bytes:
    """A SQLite store with its tables: to make them takes seconds, to copy them nothing."""
    with TemporaryDirectory() as folder:
        ensure_store(Path(folder), default_uri(Path(folder)))
        return (Path(folder) / "mlflow.db").read_bytes()


class TrackedSearch:
    """One search under its own LATENTUNE_HOME."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "searches" / NAME
        self.folder.mkdir(parents=True)
        (home / "mlflow.db").write_bytes(_new_store())
        self.uri = default_uri(home)
        self.log = EventLog(self.folder / "events.jsonl")

    def start(self) -> None:
        payload = {"search": NAME, "experiment": "e", "objective": OBJECTIVE, "config": CONFIG}
        extra: dict[str, Any] = {"versions": {"torch": "2.13.0"}, "base_model": {"id": "bundled"}}
        extra["data"] = {"rows": {"train": 16, "val_id": 4}}
        self.log.append("search_started", {**payload, **extra})

    def end(self, state: str = "complete") -> int:
        payload = {"state": state, "trials": {"complete": 2}, "result": {"best": f"{NAME}-0"}}
        return self.log.append("search_ended", payload).seq

    def report_on(self, note: str, **files: str) -> None:
        """Files of a report, by their names without the ending: `page="<html>"`."""
        paths = [f"report/{name}.html" for name in files]
        (self.folder / "report").mkdir(exist_ok=True)
        for path, text in zip(paths, files.values(), strict=True):
            (self.folder / path).write_text(text)
        self.log.append("report", {"note": note, "files": paths})

    def start_trial(
        self, number: int, attempt: int = 1, role: str = "search", name: str = "start4"
    ) -> str:
        uid = f"{NAME}-{number}"
        payload: dict[str, Any] = {"number": number, "name": name, "role": role}
        payload |= {"params": {"optim.lr": 0.02, "strategy.triggers.start.m": 4}}
        self.log.append("trial_started", {**payload, "config": {"seed": number}}, uid, attempt)
        return uid

    def report(self, uid: str, step: int, score: float, attempt: int = 1, rows: int = 3) -> None:
        curve = [[s, 1.0 / s] for s in range(step - rows + 1, step + 1)]
        payload = {"step": step, "metrics": {OBJECTIVE: score}, "curve": curve}
        self.log.append("trial_report", payload, uid, attempt)

    def end_trial(
        self, uid: str, state: str, step: int, score: float | None, attempt: int = 1
    ) -> str | None:
        artifact = self.write_artifact(uid) if state != "failed" else None
        payload = {"state": state, "step": step, "metrics": {OBJECTIVE: score}, "reason": None}
        manifest = artifact and manifest_sha256(self.folder / artifact)
        payload |= {"artifact": artifact, "manifest_sha256": manifest}
        self.log.append("trial_ended", payload, uid, attempt)
        return artifact

    def write_artifact(self, uid: str, text: str = "") -> str:
        folder = self.folder / "artifacts" / uid
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "latents.safetensors").write_bytes(os.fsencode(f"latents of {uid} {text}"))
        (folder / "latent_config.json").write_text(f'{{"trial": "{uid}"}}')
        (folder / "README.md").write_text(f"# {uid}")
        return folder.relative_to(self.folder).as_posix()

    def nominate(self, uid: str, alias: Literal["candidate", "champion"] = "candidate") -> str:
        artifact = f"artifacts/{uid}"
        manifest = manifest_sha256(self.folder / artifact)
        payload = {"artifact": artifact, "manifest_sha256": manifest, "metrics": {}, "name": "n"}
        self.log.append(alias, payload, uid, 1)
        return manifest

    def tell_all(self) -> int:
        """A whole story: complete, pruned, failed, stopped; interrupted, resumed, done."""
        self.start()
        for number, state, score in ((0, "complete", 0.7), (1, "pruned", 0.1), (2, "failed", None)):
            uid = self.start_trial(number)
            self.report(uid, 20, 0.1)
            self.end_trial(uid, state, 60 if state == "complete" else 20, score)
        waiting = self.start_trial(3)
        self.report(waiting, 20, 0.2)
        self.nominate(f"{NAME}-0")
        self.end("interrupted")
        self.start()
        self.start_trial(3, attempt=2)
        self.report(waiting, 20, 0.2, attempt=2)  # done again: its checkpoint was older
        self.report(waiting, 60, 0.9, attempt=2)
        self.end_trial(waiting, "complete", 60, 0.9, attempt=2)
        self.nominate(waiting)
        return self.end()

    def ship(self, *, until_ended: bool = True, deadline_s: float | None = 60) -> bool:
        return ship(self.folder, self.uri, until_ended=until_ended, watch=Watch(deadline_s))

    def set_back(self, next_seq: int) -> None:
        """As if the shipper had died before it wrote later cursors."""
        times = [event.time for event in self.log.read()]
        last = times[next_seq - 1] if next_seq else None
        write_cursor(self.folder, Cursor(next_seq=next_seq, last_time=last))


@contextmanager
def tracked_search(home: Path) -> Iterator[TrackedSearch]:
    search = TrackedSearch(home)
    with search.log:
        yield search


class Stored:
    """All that MLflow holds of the experiment and the model, in a form that compares."""

    def __init__(self, uri: str) -> None:
        self.client = MlflowClient(tracking_uri=uri)
        experiment = self.client.get_experiment_by_name("e")
        assert experiment is not None
        self.experiment = experiment
        found = self.client.search_runs([experiment.experiment_id], max_results=1000)
        self.runs = {run.data.tags.get("trial_uid", "parent"): run for run in found}
        self.count = len(found)

    def everything(self) -> Any:
        runs = {uid: self._run(run) for uid, run in self.runs.items()}
        versions = [
            (v.version, v.source, dict(v.tags))
            for v in self.client.search_model_versions(f"name = '{NAME}'")
        ]
        aliases = self.client.get_registered_model(NAME).aliases if versions else {}
        return self.count, runs, versions, {key: str(value) for key, value in aliases.items()}

    def points(self, uid: str, key: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(self.runs[uid].info.run_id, key)
        return sorted((point.step, point.value) for point in history)

    def files(self, uid: str, path: str | None = None) -> list[str]:
        return [f.path for f in self.client.list_artifacts(self.runs[uid].info.run_id, path)]

    def _run(self, run: Any) -> Any:
        points = {key: self.points(self._uid(run), key) for key in run.data.metrics}
        info = (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time)
        return run.info.run_id, info, run.data.params, run.data.tags, points

    def _uid(self, run: Any) -> str:
        return str(run.data.tags.get("trial_uid", "parent"))
