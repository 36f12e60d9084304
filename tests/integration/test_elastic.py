"""A search on a cluster of several nodes that go and come while its trials run."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from orchestrator.config import SearchConfig
from orchestrator.doctor.cluster_checks import cluster_findings
from orchestrator.doctor.facts import facts_of
from orchestrator.driver import run
from orchestrator.engines.roster import Roster, read_roster
from orchestrator.events import read_events
from orchestrator.folders import SearchFolder
from orchestrator.ledger import LedgerTrial
from tests.faults.standing import make_token
from tests.integration.small_search import (
    Left,
    Watching,
    environment,
    small_config,
    start,
    wait_until,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
]
TRIALS = 5
NAMES = ("small", "other")
OTHER_ENGINE = {"concurrent_trials": 2, "threads": 1, "micro_batch_tokens": 1000}  # of its own


@pytest.fixture(scope="module")
def cluster(ray_scratch: Path) -> Iterator[Any]:
    """A head without a CPU to spare, and two workers with a CPU each: two places."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        for name, value in environment(ray_scratch).items():
            patch.setenv(name, value)
        make_token(ray_scratch)  # `ray.init` makes one, a `Cluster` does not
        import ray
        from ray.cluster_utils import Cluster

        made: Any = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False},
        )
        made.workers = [made.add_node(num_cpus=1) for _ in range(2)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address=made.address, namespace="latentune", log_to_driver=False)
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


class Rosters(threading.Thread):
    """What the roster said while the search ran."""

    def __init__(self, search: Path) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.seen: list[Roster] = []
        self._search = search

    def run(self) -> None:
        while not self.over.wait(0.1):
            roster = read_roster(self._search)
            if not self.seen or roster != self.seen[-1]:
                self.seen.append(roster)

    @property
    def most(self) -> int:
        return max(len(roster.ready) for roster in self.seen)

    @property
    def kinds(self) -> set[str]:
        return {one.waiting.kind for one in self.seen if one.waiting is not None}


def search(tiny_folder: Path, **changed: Any) -> SearchConfig:
    asked: dict[str, Any] = {
        "budget": {"trials": TRIALS, "steps": 60},
        "stopping": {"kind": "none", "min_steps": 20},
        "engine": {"concurrent_trials": 2, "threads": 1},
    }
    return SearchConfig.model_validate(small_config(tiny_folder, **asked | changed))


def watched(
    config: SearchConfig, home: Path, action: Callable[[LedgerTrial], None]
) -> tuple[Any, Rosters]:
    rosters = Rosters(SearchFolder.of(home, config.name).path)
    rosters.start()
    try:
        return run(config, home=home, watcher=Watching(action)), rosters
    finally:
        rosters.over.set()
        rosters.join()


def test_the_doctor_looks_at_every_node(cluster: Any, tiny_folder: Path, tmp_path: Path) -> None:
    client = facts_of("client", None, tmp_path)
    joined, findings = cluster_findings(client, str(tiny_folder), 3, 60.0)
    assert joined == 3
    assert [one for one in findings if one.outcome == "failed" and one.check != "disk"] == []
    assert Counter(one.check for one in findings)["versions"] == 3


def last_event(folder: SearchFolder, kind: str) -> float:
    """When an event of a kind was last told."""
    return max(event.time for event in read_events(folder.events) if event.type == kind)


def losses_told(folder: SearchFolder) -> dict[str, list[int]]:
    """The steps whose losses each trial's reports told, in order."""
    told: dict[str, list[int]] = {}
    for event in read_events(folder.events):
        if event.type == "trial_report":
            steps = [step for step, _ in event.payload["curve"]]
            told.setdefault(event.trial_uid or "", []).extend(steps)
    return told


@pytest.mark.timeout(900)
def test_a_search_gives_an_engine_to_one_of_another_model(
    cluster: Any, ray_scratch: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    steps = 6000
    # More start-up trials than there are: it makes trials report, and never cuts one.
    stopping = {"kind": "median", "startup_trials": 1000, "min_steps": 20, "factor": 300}
    first = search(tiny_folder, budget={"trials": 4, "steps": steps}, stopping=stopping)
    other = search(tiny_folder, name="other", budget={"trials": 2, "steps": 6}, engine=OTHER_ENGINE)
    settings = {
        **environment(ray_scratch), "RAY_ADDRESS": cluster.address, "LATENTUNE_HOME": str(tmp_path),
    }  # fmt: skip
    drivers: list[Popen[bytes]] = []
    try:
        result, rosters = watched(
            first, tmp_path, lambda _: drivers.append(start(other, tmp_path, settings))
        )
        assert drivers[0].wait(120) == 0, (tmp_path / "other.log").read_text()[-2000:]
    finally:
        for driver in drivers:
            driver.kill()
            driver.wait()
    assert result.state == "complete"
    assert any(one.state == "leaving" for roster in rosters.seen for one in roster.engines)
    assert rosters.seen[-1].lost == 0
    ended = {one: last_event(SearchFolder.of(tmp_path, one), "search_ended") for one in NAMES}
    assert ended["other"] < ended["small"]
    told = losses_told(SearchFolder.of(tmp_path, first.name))
    assert told == {f"small-{number}": list(range(1, steps + 1)) for number in range(4)}


def test_nodes_go_and_come_and_no_trial_is_lost(
    cluster: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    config = search(tiny_folder)
    folder = SearchFolder.of(tmp_path, config.name)

    def shake(_: LedgerTrial) -> None:
        """After a first report: both nodes go, one after the other, and one comes late."""
        wait_until(lambda: len(read_roster(folder.path).ready) == 2, 120)
        cluster.remove_node(cluster.workers[0])
        wait_until(lambda: len(read_roster(folder.path).ready) == 1, 60)
        cluster.remove_node(cluster.workers[1])
        wait_until(lambda: read_roster(folder.path).waiting is not None, 60)
        wait_until(lambda: not read_roster(folder.path).ready, 60)
        cluster.add_node(num_cpus=1)

    result, rosters = watched(config, tmp_path, shake)
    assert result.state == "complete"
    assert [(t.status, t.reason) for t in result.trials if t.status != "complete"] == []
    assert len(result.trials) == TRIALS
    assert rosters.most == 2
    assert "no-node" in rosters.kinds
    Left(tmp_path, config).check_whole(trials=TRIALS)
    assert not folder.path.joinpath("engines.json").exists()
