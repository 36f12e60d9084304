"""Workers, engines and nodes die or freeze under a running search."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from benchmarks.fault_names import Fault
from orchestrator.driver import run
from orchestrator.engines import crew, watchdog
from tests.faults import brief
from tests.faults.acting import AtReport, AtStart, freeze_own, stop_own, thaw
from tests.faults.aftermath import Aftermath, Scores, chaos_config
from tests.faults.drivers import is_frozen, start_driver
from tests.faults.nodes import Standing, bare_cluster
from tests.faults.tally import Tally
from tests.integration.small_search import kill_own, own_processes, wait_until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # seconds each on a quiet machine
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
]

THIN, ENGINE = "thin-trials", "engine"
TITLES = {
    THIN: ("ray::ThinTrial", "ray::ResourceTrainable"),  # idle, and in Tune's wrapper
    ENGINE: ("ray::EngineActor",),
}
FROZEN_S = 8.0
DEAF_S = 8.0  # for once; an engine is given up after 90 s
LATE_S = 5.0
REPORTS = 12  # of a chaos search
CHECKED = "trials, ends, runs, points exactly once; scores of a run without faults"
_chance = random.Random(7)  # noqa: S311 - faults, no secrets
KILLS = [
    (place, title, _chance.randint(1, REPORTS - 1))
    for place, title in enumerate((THIN,) * 6 + (ENGINE,) * 3)
]
KILLED = {THIN: Fault.TRIALS, ENGINE: Fault.ENGINE}
FROZEN = {THIN: Fault.TRIALS_FROZEN, ENGINE: Fault.ENGINE_FROZEN}


@pytest.fixture
def tracked(mlflow_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    return mlflow_url


@pytest.mark.usefixtures("warm_engine")
@pytest.mark.parametrize(("place", "title", "report"), KILLS)
def test_killed_workers(
    place: int,
    title: str,
    report: int,
    tmp_path: Path,
    tracked: str,
    reference: Scores,
    tally: Tally,
) -> None:
    config = chaos_config(f"lost-{place}")
    killed: list[int] = []
    with tally.trying(KILLED[title], CHECKED) as row:
        watcher = AtReport(report, lambda: killed.append(sum(map(kill_own, TITLES[title]))))
        assert run(config, home=tmp_path, watcher=watcher).state == "complete"
        assert killed and killed[0] >= 1
        row.steps_again += Aftermath(tmp_path, config, tracked).check(reference)


@pytest.mark.usefixtures("warm_engine")
@pytest.mark.parametrize("start", [3, 4])
def test_processes_that_are_lost_between_two_trials(
    start: int, tmp_path: Path, tracked: str, reference: Scores, tally: Tally
) -> None:
    """Tune finds out when it hands them the next trial; the last one has nobody to ask for it."""
    config = chaos_config(f"between-{start}")
    killed: list[int] = []
    with tally.trying(Fault.TRIALS_BETWEEN, CHECKED) as row:
        watcher = AtStart(start, lambda: killed.append(sum(map(kill_own, TITLES[THIN]))))
        assert run(config, home=tmp_path, watcher=watcher).state == "complete"
        assert killed and killed[0] >= 1
        row.steps_again += Aftermath(tmp_path, config, tracked).check(reference)


@pytest.mark.usefixtures("warm_engine")
@pytest.mark.parametrize("title", [THIN, ENGINE])
def test_frozen_workers(
    title: str, tmp_path: Path, tracked: str, reference: Scores, tally: Tally
) -> None:
    config = chaos_config(f"frozen-{title}")
    frozen: list[int] = []
    with tally.trying(FROZEN[title], CHECKED) as row:
        watcher = AtReport(3, lambda: frozen.append(freeze_own(TITLES[title], FROZEN_S)))
        assert run(config, home=tmp_path, watcher=watcher).state == "complete"
        assert frozen and frozen[0] >= 1
        row.steps_again += Aftermath(tmp_path, config, tracked).check(reference)


@pytest.mark.usefixtures("warm_engine")
def test_an_engine_that_is_given_up_and_thaws(
    tmp_path: Path,
    tracked: str,
    reference: Scores,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its trials do not wait for it; and when it thaws, it is nobody's."""
    for module in (watchdog, crew):
        monkeypatch.setattr(module, "DEAF_S", DEAF_S)
    config, frozen = chaos_config("frozen-deaf"), list[int]()
    with tally.trying(Fault.ENGINE_GIVEN_UP, CHECKED) as row:
        watcher = AtReport(3, lambda: frozen.extend(stop_own(TITLES[ENGINE])))
        try:
            assert run(config, home=tmp_path, watcher=watcher).state == "complete"
        finally:
            thaw(frozen)
        assert frozen
        wait_until(lambda: not set(frozen) & set(own_processes(TITLES[ENGINE][0])), 30)
        row.steps_again += Aftermath(tmp_path, config, tracked).check(reference)


@pytest.mark.usefixtures("warm_engine")
def test_a_driver_that_thaws_when_its_engine_has_gone(
    tmp_path: Path, tracked: str, reference: Scores, tally: Tally
) -> None:
    """The engine's lease ended, and then the engine; the driver starts another."""
    engine = {"concurrent_trials": 2, "threads": 2, "count": 1}  # of its own, beside the warm one
    config, home = chaos_config("frozen-unleased", engine=engine), tmp_path / "home"
    with (
        tally.trying(Fault.DRIVER_UNLEASED, CHECKED) as row,
        start_driver(config, home, brief.AT_REPORT, 4, brief.MODULE) as driver,
    ):
        wait_until(lambda: is_frozen(driver.pid))
        assert own_processes(brief.ENGINE_TITLE)
        wait_until(lambda: not own_processes(brief.ENGINE_TITLE))
        driver.send_signal(signal.SIGCONT)
        assert driver.wait(240) == 0, (tmp_path / "driver.log").read_text()[-2000:]
        row.steps_again += Aftermath(home, config, tracked).check(reference)


def test_a_node_goes_and_another_comes_late(
    standing: Standing, tmp_path: Path, tracked: str, tally: Tally
) -> None:
    """On a cluster whose head has no room: the engine and the thin trials are on another node."""
    config, home = chaos_config("nodes"), tmp_path / "home"
    left = Aftermath(home, config, tracked)
    with (
        tally.trying(Fault.NODE, CHECKED.partition(";")[0]) as row,
        bare_cluster(head_cpus=0) as cluster,
    ):
        node = cluster.add(2)
        with start_driver(config, home, RAY_ADDRESS=cluster.address) as driver:
            wait_until(lambda: driver.poll() is not None or bool(left.events("trial_report")), 240)
            cluster.remove(node)
            time.sleep(LATE_S)
            cluster.add(2)
            assert driver.wait(240) == 0, left.events("search_ended")
        row.steps_again += left.check()
