"""The ledger in a real Postgres: the driver is killed, and so is the database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fault_names import Fault
from orchestrator.driver import run
from tests.faults.acting import AtReport
from tests.faults.aftermath import Aftermath, Scores, chaos_config
from tests.faults.drivers import kill_driver
from tests.faults.postgres import Postgres, postgres
from tests.faults.tally import Tally
from tests.faults.test_driver_killed import CHECKED
from trainable.errors import LatentuneError

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # seconds each on a quiet machine
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
    pytest.mark.usefixtures("warm_engine"),
]

AWAY_S = 3.0
KILLS = [("during-ask", 3), ("before-tell", 5), ("after-tell", 8), ("at", 1500)]


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    pytest.importorskip("psycopg")
    with postgres() as server:
        yield server


@pytest.fixture
def tracked(database: Postgres, mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    monkeypatch.setenv("LATENTUNE_STORAGE", database.url)
    return mlflow_url


@pytest.mark.parametrize(("instant", "count"), KILLS)
def test_a_killed_driver(
    instant: str,
    count: int,
    tmp_path: Path,
    tracked: str,
    reference: Scores,
    tally: Tally,
) -> None:
    config = chaos_config(f"pg-{instant}-{count}")
    with tally.trying(Fault.DRIVER_POSTGRES, CHECKED) as row:
        assert kill_driver(config, tmp_path / "home", instant, count)
        assert run(config, home=tmp_path / "home").state == "complete"
        assert not (tmp_path / "home" / "searches" / config.name / "study.db").exists()
        left = Aftermath(tmp_path / "home", config, tracked)
        row.steps_again += left.check(reference)


def test_a_crashed_database(
    database: Postgres,
    tmp_path: Path,
    tracked: str,
    reference: Scores,
    tally: Tally,
) -> None:
    config = chaos_config("pg-crash")
    back = threading.Timer(AWAY_S, database.start)

    def crash() -> None:
        database.crash()
        back.start()

    with tally.trying(Fault.POSTGRES, CHECKED) as row:
        try:
            state = run(config, home=tmp_path, watcher=AtReport(4, crash)).state
        except LatentuneError:
            state = "interrupted"
        back.join()
        row.numbers["ended_by_itself"] = state == "complete"
        if state != "complete":
            assert run(config, home=tmp_path).state == "complete"
        row.steps_again += Aftermath(tmp_path, config, tracked).check(reference)
