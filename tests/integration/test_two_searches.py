"""Two searches at once whose ledgers and runs are in one real Postgres: no lock is in the way."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, text

from orchestrator.config import SearchConfig
from orchestrator.events import read_events
from orchestrator.folders import SearchFolder
from orchestrator.results import SearchResult
from orchestrator.service.secret_files import credentials, read_secret
from orchestrator.study.place import STORAGE_VARIABLE, read_place
from tests.integration.small_search import environment, scratch_folder, small_config, start
from tests.integration.test_mlflow_service import logged_in, service

servers = pytest.importorskip("tests.faults.postgres")
pytest.importorskip("psycopg")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
]

NAMES = ("first", "second")
TRIALS, STEPS, LONGEST_S = 6, 30, 600.0
LOCKS = re.compile(r"(?i)\b(dead)?lock(s|ed|ing)?\b|could not serialize|serialization failure")


def add_database(url: str, name: str) -> str:
    """A new database on a server; its URL."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create database {name}"))
    engine.dispose()
    return f"{url.rpartition('/')[0]}/{name}"


def check_overlap(folders: list[SearchFolder]) -> None:
    """Each began before the other was over."""
    times = [{event.type: event.time for event in read_events(folder.events)} for folder in folders]
    assert max(t["search_started"] for t in times) < min(t["search_ended"] for t in times)


def check_runs(url: str, home: Path, monkeypatch: pytest.MonkeyPatch, experiment: str) -> None:
    """Each trial of both has one run."""
    own = credentials(read_secret(home.parent / ".mlflow" / "credentials"))
    with logged_in(monkeypatch, own):
        client = MlflowClient(url)
        found = client.get_experiment_by_name(experiment)
        assert found is not None
        runs = client.search_runs([found.experiment_id], max_results=1000)
    told = Counter(run.data.tags.get("trial_uid", "parent") for run in runs)
    uids = [f"{name}-{number}" for name in NAMES for number in range(TRIALS)]
    assert told == Counter({**dict.fromkeys(uids, 1), "parent": len(NAMES)})


def test_two_searches_in_one_postgres(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", STORAGE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    changed: dict[str, Any] = {
        "budget": {"trials": TRIALS, "steps": STEPS}, "stopping": {"kind": "none"},
    }  # fmt: skip
    configs = [
        SearchConfig.model_validate(small_config(tiny_folder, name=name, **changed))
        for name in NAMES
    ]
    with scratch_folder() as scratch, servers.postgres() as database:
        home = scratch / "home"
        with service(home, add_database(database.url, "mlflow")) as running:
            settings = {
                **environment(scratch),
                "LATENTUNE_HOME": str(home),
                "MLFLOW_TRACKING_URI": running.url,
                STORAGE_VARIABLE: database.url,
            }
            drivers = [start(config, scratch, settings) for config in configs]
            try:
                codes = [driver.wait(LONGEST_S) for driver in drivers]
            finally:
                for driver in drivers:
                    driver.kill()
                    driver.wait()
            logs = {path: path.read_text(errors="replace") for path in
                    (*scratch.glob("*.log"), *home.rglob("*.log"), database.log)}  # fmt: skip
            assert codes == [0, 0], [logs[scratch / f"{name}.log"][-2000:] for name in NAMES]
            folders = [SearchFolder.of(home, name) for name in NAMES]
            check_overlap(folders)
            check_runs(running.url, home, monkeypatch, configs[0].tracking.experiment)
        for folder in folders:
            result = SearchResult.model_validate_json(folder.result.read_text())
            assert (result.state, len(result.trials)) == ("complete", TRIALS)
            assert read_place(folder.path) is not None and not folder.study.exists()
        assert database.log in logs and len(logs) >= 4
        met = [f"{path.name}: {line}" for path, said in logs.items()
               for line in said.splitlines() if LOCKS.search(line)]  # fmt: skip
        assert met == []
