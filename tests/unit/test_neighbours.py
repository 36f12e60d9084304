"""Searches that share engines, and nodes on which no engine comes to be ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.assignment import Assignment
from orchestrator.engines import berth
from orchestrator.engines.placement import Node
from orchestrator.engines.ray_fleet import pool_name
from orchestrator.engines.roster import EngineRecord, Roster, read_roster, write_roster
from orchestrator.engines.watchdog import Pulse
from orchestrator.errors import NoEngineError
from tests.unit.made_up_ray import MODEL, VERSIONS, A, B, MadeUpEngine, Scene
from trainable.errors import BaseModelError


class Neighbours:
    """Two searches that share one engine, on one node; the first has started it."""

    def __init__(self, folder: Path, **changed: Any) -> None:
        for name in ("first", "second"):
            (folder / name).mkdir()
        self.first = Scene(folder / "first", [A], holder="first")
        ray = self.first.ray
        self.second = Scene(folder / "second", [A], ray, holder="second", **changed)
        self.first.trials = self.second.trials = 2

    def pass_together(self, seconds: float) -> None:
        for _ in range(int(2 * seconds)):
            self.first.ray.now += 0.5
            self.first.fleet.beat()
            self.second.fleet.beat()

    @property
    def calls(self) -> list[tuple[Any, ...]]:
        return self.first.engine(A).calls


@pytest.fixture
def neighbours(tmp_path: Path) -> Neighbours:
    made = Neighbours(tmp_path, step_timeout_s=5.0)
    made.first.passes(3)
    return made


def test_neighbours_share_and_whoever_is_last_ends_the_engine(neighbours: Neighbours) -> None:
    neighbours.pass_together(3)
    assert neighbours.second.at == ["node-a"]
    neighbours.first.fleet.close()
    assert neighbours.first.ray.killed == []
    neighbours.second.fleet.close()
    assert len(neighbours.first.ray.killed) == 1


def test_neighbours_of_other_versions_leave_each_other_alone(neighbours: Neighbours) -> None:
    neighbours.second.fleet._crew._versions = {**VERSIONS, "torch": "1.0"}
    neighbours.pass_together(700)
    assert neighbours.first.ray.killed == []
    assert ("release", "second") in neighbours.calls
    assert neighbours.first.said == []
    assert "node-a runs other versions" in neighbours.second.said[0]


def test_neighbours_with_a_shorter_deadline_go_and_end_nothing(neighbours: Neighbours) -> None:
    neighbours.pass_together(3)
    engine = neighbours.first.engine(A)
    engine.pulse = Pulse(trials={"first-1": "first"}, busy_s=20.0, longest_s=15.0)
    neighbours.pass_together(20)
    assert neighbours.first.ray.killed == []
    assert (neighbours.first.at, neighbours.second.at) == (["node-a"], [])
    assert ("release", "second") in neighbours.calls
    waiting = neighbours.second.fleet.waiting
    assert waiting is not None and waiting.kind == "refused"
    assert "a step has gone on for 20 s" in waiting.detail


def test_neighbours_that_close_while_they_greet_end_nothing(neighbours: Neighbours) -> None:
    neighbours.first.ray.stuck.add((A.id, "greet"))
    neighbours.pass_together(0.5)
    neighbours.second.fleet.close()
    assert neighbours.first.ray.killed == []
    assert ("release", "second") in neighbours.calls


def test_an_engine_tells_whose_it_is(neighbours: Neighbours) -> None:
    """One that an earlier driver of the same search has left is the search's own."""
    engine = neighbours.first.engine(A)
    engine.versions = {**engine.versions, "starter": "second"}
    neighbours.pass_together(3)
    engine.pulse = Pulse(trials={}, busy_s=20.0, longest_s=15.0)
    neighbours.pass_together(5)
    assert engine.name in neighbours.first.ray.killed


class HungEngine:
    """Takes a trial in, and never answers."""

    def __init__(self) -> None:
        self.train = self.join = self

    def remote(self, *arguments: Any) -> str:
        return "call"


def test_a_trial_waits_for_no_engine_that_its_driver_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = EngineRecord(name="engine/k/a/0", node="a", state="ready", room=1)
    write_roster(tmp_path, Roster(engines=[record]))
    looks: list[float] = []

    def wait(calls: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        looks.append(timeout)
        if len(looks) == 3:
            write_roster(tmp_path, Roster())
        return [], calls

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda call: None)
    monkeypatch.setattr(berth, "_open_engines", lambda roster: [(record, HungEngine())])
    assignment = Assignment(
        uid="tiny-0", number=0, attempt=1, config={}, data={}, start_step=0, rungs=[4],
        splits=["val_id"], engine="engine/k", folder=str(tmp_path / "trials" / "tiny-0"),
    )  # fmt: skip
    waiting = berth.Berth(assignment, tmp_path)
    assert waiting._try(read_roster(tmp_path), 0, 4) is None
    assert len(looks) == 3


def test_other_code_has_engines_of_its_own() -> None:
    base, options = {"path": "bundled"}, {"threads": 1}
    assert pool_name(base, options, "one", {}) == pool_name(base, options, "one", {})
    assert pool_name(base, options, "one", {}) != pool_name(base, options, "other", {})


def test_another_runtime_environment_has_engines_of_its_own() -> None:
    def name(**environment: Any) -> str:
        return pool_name({"path": "bundled"}, {"threads": 1}, "one", environment)

    sent = {"working_dir": "gcs://_ray_pkg_1.zip", "py_modules": ["gcs://_ray_pkg_2.zip"]}
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
    assert name(**sent, env_vars=variables, uv=None) == name()
    different = [
        name(),
        name(env_vars={"MINE": "a"}),
        name(env_vars={"MINE": "b"}),
        name(uv={"packages": ["einops"]}),
    ]
    assert len(set(different)) == len(different)
    assert name(**sent, env_vars={**variables, "MINE": "a"}) == different[1]


def test_one_bad_node_is_not_the_searchs_end(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [A, B])
    bad = BaseModelError("node-a has no model in its cache")
    scene.ray.make = lambda engine: setattr(engine, "model", bad if engine.node == A.id else MODEL)
    scene.ray.stuck.add((B.id, "describe"))
    scene.passes(5)
    scene.fleet.gives_up = lambda: True
    with pytest.raises(NoEngineError):  # node-b loads it still
        scene.fleet.wait()
    scene.ray.stuck.clear()
    scene.passes(5)
    assert scene.at == ["node-b"]
    assert "node-a has no model" in scene.said[0]
    assert scene.fleet._crew.failure is None  # what node-a said is over


def test_one_bad_node_after_another_is_the_searchs_end(tmp_path: Path) -> None:
    nodes = [Node(f"{n:08}", f"node-{n}", 4, 1) for n in range(9)]
    scene = Scene(tmp_path, nodes, most=1)
    made: list[str] = []

    def make(engine: MadeUpEngine) -> None:
        made.append(engine.node)
        engine.model = BaseModelError("no such model")

    scene.ray.make = make
    scene.passes(600)
    with pytest.raises(BaseModelError, match="no such model"):
        scene.fleet.wait()
    assert len(made) == 3


@pytest.mark.parametrize("method", ["provide", "describe"])
def test_an_engine_that_loads_for_ever_is_given_up(tmp_path: Path, method: str) -> None:
    scene = Scene(tmp_path, [A, B])
    scene.ray.stuck.add((B.id, method))
    scene.passes(1800)  # slow is not stuck
    assert scene.ray.killed == []
    scene.passes(2000)
    assert [name for name in scene.ray.killed if B.id in name]
    assert "node-b was lost: it did not load its model within 3600 s" in scene.said[0]
    assert scene.at == ["node-a"]
