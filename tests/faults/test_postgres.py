"""The ledger in a real Postgres: the driver is killed, and so is the database."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fault_names import Fault
from orchestrator.console import BAD_INPUT
from orchestrator.driver import run
from orchestrator.study.lease import is_leased
from tests.faults import brief
from tests.faults.acting import AtReport
from tests.faults.aftermath import Aftermath, Scores, chaos_config
from tests.faults.drivers import LONGEST_S, is_frozen, kill_driver, start_driver
from tests.faults.postgres import Postgres, postgres
from tests.faults.tally import Tally
from tests.faults.test_driver_killed import CHECKED
from tests.integration.small_search import wait_until
from trainable.errors import LatentuneError

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # seconds each on a quiet machine
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
    pytest.mark.usefixtures("warm_engine"),
]

AWAY_S = 3.0
OVERTAKEN = "the first writes nothing more and ends with exit code 2; the second's search as ever"
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


@pytest.mark.parametrize("thaws", ["while", "after"])
def test_a_driver_that_thaws_when_another_has_its_search(
    thaws: str,
    database: Postgres,
    tmp_path: Path,
    tracked: str,
    reference: Scores,
    tally: Tally,
) -> None:
    """Frozen for longer than its lease; it thaws while the next one runs, or after its end."""
    config, home = chaos_config(f"pg-frozen-{thaws}"), tmp_path / "home"
    left, log = Aftermath(home, config, tracked), tmp_path / "driver.log"
    with (
        tally.trying(Fault.DRIVER_OVERTAKEN, OVERTAKEN) as row,
        start_driver(config, home, brief.AT_REPORT, 4, brief.MODULE) as first,
    ):
        wait_until(lambda: is_frozen(first.pid))
        wait_until(lambda: not is_leased(database.url, config.name))
        reports = len(left.events("trial_report"))
        with start_driver(config, home, module=brief.MODULE) as second:
            if thaws == "while":
                wait_until(lambda: len(left.events("trial_report")) > reports)
            else:
                assert second.wait(LONGEST_S) == 0, log.read_text()[-2000:]
            written = everything(left)
            first.send_signal(signal.SIGCONT)
            assert first.wait(60) == BAD_INPUT, log.read_text()[-2000:]
            assert f"was taken over by process {second.pid} on" in log.read_text()
            assert second.wait(LONGEST_S) == 0, log.read_text()[-2000:]
        assert thaws == "while" or everything(left) == written, "it wrote when it thawed"
        row.steps_again += left.check(reference)


def everything(left: Aftermath) -> tuple[object, ...]:
    """All that a search has written down."""
    folder = left.folder
    return left.trials(), folder.events.read_bytes(), folder.result.exists()


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
            # It could not be given back, and its process lives on, which a driver's does not.
            wait_until(lambda: not is_leased(database.url, config.name))
            assert run(config, home=tmp_path).state == "complete"
        row.steps_again += Aftermath(tmp_path, config, tracked).check(reference)
