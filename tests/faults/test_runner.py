"""The runner itself: it kills where it says, and sees what differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.config import SearchConfig
from tests.faults import doomed, drivers
from tests.faults.aftermath import chaos_config, check_scores
from tests.faults.doomed import INSTANTS, Place
from tests.faults.standing import make_token
from tests.faults.tally import RESULTS_VARIABLE
from tests.faults.test_driver_killed import KILLS, drawn_instants
from tests.integration.small_search import ROOT, environment

pytestmark = pytest.mark.faults

DYING = """
import os

def test_a_fault(tally):
    with tally.trying("one", "all"):
        pass

def test_that_ends_the_process(tally):
    os._exit(1)
"""
CLUSTER = """
import sys
from tests.faults.nodes import bare_cluster

with bare_cluster(head_cpus=0) as cluster:
    assert (cluster.add(1), cluster.add(1)) == (0, 1)
    cluster.remove(0)
assert "ray" not in sys.modules
"""


class Died(BaseException):
    """In place of SIGKILL."""


@pytest.mark.parametrize("after", [False, True])
def test_a_trap_closes_at_its_time_and_no_sooner(
    after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    class Victim:
        def act(self, number: int) -> None:
            calls.append(number)

    def die() -> None:
        raise Died

    monkeypatch.setattr(doomed, "_die", die)
    armed = threading.Event()
    doomed._trap(Place(Victim, "act", after=after), 2, armed)
    Victim().act(0)  # before the search has started
    armed.set()
    Victim().act(1)
    with pytest.raises(Died):
        Victim().act(2)
    assert calls == ([0, 1, 2] if after else [0, 1])


def test_every_instant_is_a_function_that_exists() -> None:
    assert all(callable(getattr(place.owner, place.name)) for place in INSTANTS.values())


def test_a_seed_draws_the_same_twenty_instants_every_named_one_among_them() -> None:
    drawn = drawn_instants()
    assert drawn == drawn_instants() != drawn_instants(seed=0)
    assert len(drawn) == len(set(drawn)) == KILLS
    assert set(INSTANTS) <= {instant for instant, _ in drawn}


def test_a_driver_that_was_not_killed_shows_nothing_and_is_killed_sooner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, str, int]] = []

    def kill(config: SearchConfig, home: Path, instant: str, count: int) -> bool:
        tried.append((config.name, home.name, count))
        return count < 500

    monkeypatch.setattr(drivers, "kill_driver", kill)

    def named(ending: str) -> SearchConfig:
        return chaos_config(f"x-{ending}")

    config, home = drivers.kill_on_the_clock(named, tmp_path, [400, 900])
    assert (config.name, home.name) == ("x-1", "home-1")
    assert tried == [
        ("x-0", "home-0", 400), ("x-0", "home-0", 900),
        ("x-1", "home-1", 200), ("x-1", "home-1", 450),
    ]  # fmt: skip
    with pytest.raises(AssertionError, match="no driver lived"):
        drivers.kill_on_the_clock(named, tmp_path, [10**6])


def test_other_configurations_and_other_scores_are_seen() -> None:
    reference = {"a": {"nll": 0.5}, "b": {"nll": 0.7}}
    check_scores({"a": {"nll": 0.500001}, "b": {"nll": 0.7}}, reference)
    with pytest.raises(AssertionError, match="other configurations"):
        check_scores({"a": {"nll": 0.5}, "c": {"nll": 0.7}}, reference)
    with pytest.raises(AssertionError, match=r"nll is 0\.51"):
        check_scores({"a": {"nll": 0.51}, "b": {"nll": 0.7}}, reference)


def test_the_glued_faults_begin_without_ray() -> None:
    """Ray reads its way of authentication when it is imported; the standing cluster sets it."""
    code = "import sys, benchmarks.glued_faults; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_that_dies_has_stored_what_it_had_tried(tmp_path: Path) -> None:
    file, stored = tmp_path / "test_dying.py", tmp_path / "faults.json"
    file.write_text(DYING)
    command = [sys.executable, "-m", "pytest", "-p", "tests.faults.conftest", "--rootdir"]
    done = subprocess.run(
        [*command, str(tmp_path), "-p", "no:cacheprovider", str(file)], check=False, cwd=ROOT,
        env=os.environ | {RESULTS_VARIABLE: str(stored)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert [row["fault"] for row in json.loads(stored.read_text())["rows"]] == ["one"]


@pytest.mark.slow
def test_a_cluster_comes_and_goes_and_this_process_never_had_it(ray_scratch: Path) -> None:
    """Ray would make it the one whose store this process asks, and end it with that store."""
    make_token(ray_scratch)
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER], check=False, cwd=ROOT,
        env=os.environ | environment(ray_scratch), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
