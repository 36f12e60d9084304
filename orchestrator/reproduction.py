"""What a search was: one JSON with all that its numbers depend on, `reproduce.json`.

    versions, git commit, processor, threads     what computed, as the driver knows it
    base model's and data's fingerprints         on what
    seeds, and the asks in their order           which trials, and what was known when each began

Written at the end of each run, from the event log; MLflow gets it as an artifact of the parent
run. `latentune rerun` reads it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.assignment import DataSource
from orchestrator.events import Event
from orchestrator.results import SCHEMA_VERSION, Record
from trainable.artifact import versions
from trainable.data import Task

_LIBRARIES = ("ray", "optuna", "mlflow", "pyarrow")  # beside those of an artifact
_ROOT = Path(__file__).parent.parent


class Commit(Record):
    """The commit of the checkout that ran, and whether files differed from it."""

    commit: str
    changed: bool


class Ask(Record):
    """One attempt of a trial.

    Args:
        after_reports: how many reports of other trials the sampler had seen by then.
    """

    uid: str
    number: int
    attempt: int
    role: str
    after_reports: int
    params: dict[str, Any]
    config: dict[str, Any]


class Reproduction(Record):
    """Everything that a search's numbers depend on.

    Args:
        config: the search file, every default filled in, without `tracking`: no number depends on
            it, and it may hold a password.
        git: None where the code is no checkout.
        processor: of the driver's machine.
        threads: of each engine, None for all cores of its node; bits depend on it.
        data: per split, the SHA-256 of its rows, or of the files that they were read from.
        seeds: dotted path to value.
        asks: in their order.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    config: dict[str, Any]
    versions: dict[str, str]
    git: Commit | None
    processor: str
    threads: int | None
    base_model: dict[str, Any]
    data: dict[str, Any]
    seeds: dict[str, int]
    asks: list[Ask]


def describe_search(
    events: Iterable[Event], data: Mapping[str, Any], threads: int | None
) -> Reproduction:
    """Sum up an event log that holds a `search_started`.

    Args:
        data: per split, the digests of its rows.
        threads: of each engine; None is all cores.
    """
    asks: list[Ask] = []
    members = set[str | None]()  # of a confirmation; the sampler was not asked for those
    reports, started = 0, dict[str, Any]()
    for event in events:
        if event.type == "search_started":
            started = event.payload
        elif event.payload.get("stage") == "confirm":
            members.add(event.trial_uid)
        elif event.type == "trial_report":
            reports += event.trial_uid not in members
        elif event.type == "trial_started":
            asks.append(_ask(event, reports))
    config = started["config"]
    return Reproduction(
        name=started["search"],
        config={name: section for name, section in config.items() if name != "tracking"},
        versions={**versions(), **{name: metadata.version(name) for name in _LIBRARIES}},
        git=git_commit(_ROOT),
        processor=processor(),
        threads=threads,
        base_model=dict(started["base_model"]),
        data=dict(data),
        seeds={
            "data.seed": config["data"]["seed"],
            "sampler.seed": config["sampler"]["seed"],
        },
        asks=asks,
    )


def _ask(event: Event, reports: int) -> Ask:
    payload = event.payload
    return Ask(
        uid=str(event.trial_uid),
        number=payload["number"],
        attempt=event.attempt or 1,
        role=payload["role"],
        after_reports=reports,
        params=payload["params"],
        config=payload["config"],
    )


def data_digests(source: DataSource, task: Task) -> dict[str, Any]:
    """Per split, the digest of its rows; of a task that reads files, those of the files."""
    if "sha256" in source.task:
        return dict(source.task["sha256"])
    return {split: _digest(task, split) for split in task.splits}


def _digest(task: Task, split: Any) -> str:
    rows = [(e.prompt, e.completion, e.closed, e.distance) for e in task.examples(split)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def git_commit(folder: Path) -> Commit | None:
    """The commit that a folder is at; None where it is no checkout, or git is not there."""
    git = shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return None

    def ask(*arguments: str) -> str | None:
        done = subprocess.run(  # noqa: S603 - git itself, by its full path
            [git, "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = ask("rev-parse", "HEAD"), ask("status", "--porcelain")
    return None if commit is None else Commit(commit=commit, changed=bool(changes))


def processor() -> str:
    """The processor's name: bits differ from one kind to another."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
