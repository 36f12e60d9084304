"""The smallest search there is, on a real Ray and a tiny random model, and what it left."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

from mlflow import MlflowClient

from orchestrator.config import SearchConfig
from orchestrator.events import Event, read_events
from orchestrator.folders import SearchFolder
from orchestrator.ledger import LedgerTrial, TrialStatus, read_ledger
from orchestrator.results import DataRecord, Estimate

NAME = "small"
ROOT = Path(__file__).parents[2]
EXPERIMENT = "small-experiment"


def small_config(base_model: Path, **changed: Any) -> dict[str, Any]:
    """Three trials of six steps at most, on chains of one to three equations."""
    config: dict[str, Any] = {
        "name": NAME,
        "task": {
            "kind": "generation",
            "train_lengths": [1, 2],
            "val_ood_lengths": [3],
            "test_ood_lengths": [4],
            "train_rows": 16,
            "val_rows": 4,
            "test_rows": 2,
        },
        "base_model": {"path": str(base_model), "device": "cpu"},
        "confirm": {"enabled": False},
        "space": {
            "axes": {
                "strategy": {"triggers": {"start": {"kind": "start", "m": {"choice": [1, 2]}}}},
                "optim": {"lr": {"float": {"low": 0.01, "high": 0.05}}, "batch_rows": 4},
            },
            "baselines": False,
        },
        "budget": {"trials": 3, "steps": 6},
        "sampler": {"kind": "random"},
        "stopping": {"min_steps": 2, "factor": 3},
        "engine": {"concurrent_trials": 2, "threads": 1},
        "tracking": {"experiment": EXPERIMENT, "report": False},
    }
    return config | changed


def environment(scratch: Path) -> dict[str, str]:
    """Settings that keep a search's processes to themselves; Ray's sockets need short paths.

    Ray writes its token into HOME.
    """
    return {
        "HOME": str(scratch),
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(scratch),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextmanager
def scratch_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lt", dir="/tmp", ignore_cleanup_errors=True) as path:
        yield Path(path)


def start(config: SearchConfig, folder: Path, settings: Mapping[str, str]) -> Popen[bytes]:
    """`latentune run`, as a process; what it says goes to NAME.log."""
    file = folder / f"{config.name}.yaml"
    file.write_text(config.to_yaml())
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "run", str(file)]
    with file.with_suffix(".log").open("wb") as log:
        return Popen(
            command, cwd=ROOT, env={**os.environ, **settings}, stdin=DEVNULL,
            stdout=log, stderr=log,
        )  # fmt: skip


class Watching:
    """A watcher that runs an action at the first report of a trial."""

    def __init__(self, action: Callable[[LedgerTrial], None] | None = None) -> None:
        self._action = action
        self.reports: list[tuple[int, int, str]] = []

    def data_read(self, data: DataRecord) -> None:
        pass

    def planned(self, found: Estimate, warnings: Sequence[str], *, going_on: bool) -> None:
        pass

    def search_opened(self, trials: Sequence[LedgerTrial]) -> None:
        pass

    def trial_started(self, trial: LedgerTrial) -> None:
        pass

    def trial_reported(self, trial: LedgerTrial, status: TrialStatus) -> None:
        self.reports.append((trial.number, trial.step, str(status)))
        if self._action is not None:
            action, self._action = self._action, None
            action(trial)


class Interrupt(threading.Event):
    """An interrupt that tells when the driver has seen it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = threading.Event()

    def is_set(self) -> bool:
        if super().is_set():
            self.seen.set()
            return True
        return False

    def press(self, _: LedgerTrial) -> None:
        self.set()
        assert self.seen.wait(30)


def own_processes(title: str) -> list[int]:
    """The ids of our own Ray workers of this title."""
    return [pid for pid in descendants(os.getpid()) if title in _title(pid)]


def kill_own(title: str) -> int:
    """SIGKILL our own Ray workers of this title, by id; returns how many there were."""
    own = own_processes(title)
    for pid in own:
        os.kill(pid, signal.SIGKILL)
    for pid in own:
        wait_until(lambda pid=pid: not _title(pid))  # type: ignore[misc]
    return len(own)


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            parent = stat.read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def _title(pid: int) -> str:
    """A process's command line; empty for one that is gone, or dead and not yet reaped."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


class Left:
    """What a search left under `home`."""

    def __init__(self, home: Path, config: SearchConfig) -> None:
        self.folder = SearchFolder.of(home, config.name)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.resolve() / 'mlflow.db'}"
        self.client = MlflowClient(tracking_uri=uri)

    def events(self, kind: str) -> list[Event]:
        return [event for event in read_events(self.folder.events) if event.type == kind]

    def runs(self) -> Counter[str]:
        """MLflow runs by trial uid; the search's own is `parent`."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        found = self.client.search_runs([experiment.experiment_id], max_results=1000)
        return Counter(run.data.tags.get("trial_uid", "parent") for run in found)

    def versions(self) -> int:
        return len(self.client.search_model_versions(f"name = '{self.folder.name}'"))

    def check_whole(self, trials: int) -> None:
        """Exactly the trials asked for: one end, one MLflow run and one artifact each."""
        # A driver that was killed while it asked leaves a number behind that no trial has.
        uids = [
            self.folder.uid(trial.number)
            for trial in read_ledger(self.folder.path, self.folder.name)
        ]
        assert len(uids) == trials
        assert Counter(event.trial_uid for event in self.events("trial_ended")) == Counter(uids)
        assert self.runs() == Counter([*uids, "parent"])
        for event in self.events("trial_ended"):
            assert (self.folder.path / event.payload["artifact"] / "README.md").exists()
        assert self.events("search_ended")[-1].payload["state"] == "complete"
