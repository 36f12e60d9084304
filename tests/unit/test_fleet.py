"""A fleet over a made-up cluster: engines that start, die, hang, are refused, and end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.engines import ray_fleet
from orchestrator.engines.cluster import from_report
from orchestrator.engines.fleet import Fleet
from orchestrator.engines.placement import Node, Place
from orchestrator.engines.roster import Roster, read_roster, remove_roster, write_roster
from orchestrator.engines.watchdog import DEAF_S, Pulse
from orchestrator.errors import ClusterError, LedgerError, NoEngineError, SearchLockedError
from orchestrator.opening import engine_options
from tests.unit.ledgers import search_config
from tests.unit.made_up_ray import MODEL, VERSIONS, A, B, C, MadeUpEngine, MadeUpRay, Scene
from trainable.errors import BaseModelError


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path, [A, B])
    made.passes(3)
    assert made.at == ["node-a", "node-b"]
    return made


def test_engines_start_where_there_are_gpus(scene: Scene) -> None:
    assert [call[0] for call in scene.engine(A).calls[:3]] == ["greet", "provide", "describe"]
    assert scene.fleet.room == 4
    assert scene.fleet.gpus == 2
    assert scene.fleet.base_model == MODEL
    assert scene.fleet.waiting is None
    assert scene.said == []


def test_a_node_goes_and_another_comes_late(scene: Scene) -> None:
    scene.ray.lose_node(B)
    scene.passes(3)
    assert scene.at == ["node-a"]
    assert scene.fleet.room == 2
    assert scene.fleet.waiting is not None and scene.fleet.waiting.kind == "full"
    assert len(scene.said) == 1 and "node-b was lost" in scene.said[0]
    scene.ray.up.append(C)
    scene.passes(5)
    assert scene.at == ["node-a", "node-c"]
    assert scene.fleet.waiting is None


def test_with_no_node_left_trials_wait_and_it_is_said(scene: Scene) -> None:
    scene.ray.lose_node(A)
    scene.ray.lose_node(B)
    scene.passes(3)
    assert (scene.at, scene.fleet.room) == ([], 0)
    waiting = read_roster(scene.fleet.plan.folder).waiting
    assert waiting is not None and waiting.kind == "no-node"
    assert any(line.startswith("waiting: no node is alive") for line in scene.said)
    assert scene.ray.demanded[-1] == 2
    scene.ray.scaler = from_report({"pending_nodes": [["10.0.0.1", "gpu", "setting-up"]]})
    scene.passes(3)
    told = scene.fleet.waiting
    assert told is not None
    assert (told.kind, told.detail) == (
        "node-starting", "the autoscaler starts nodes: 1 gpu setting-up",
    )  # fmt: skip


def test_an_engine_that_died_is_replaced_at_its_place(scene: Scene) -> None:
    first = scene.engine(A)
    scene.ray.kill(first)
    scene.passes(8)
    assert scene.at == ["node-a", "node-b"]
    assert scene.engine(A) is not first
    assert read_roster(scene.fleet.plan.folder).lost == 1


def test_a_place_that_loses_one_after_another_is_avoided(scene: Scene) -> None:
    for _ in range(3):
        scene.ray.kill(scene.engine(A))
        scene.passes(8)
    assert scene.at == ["node-b"]
    scene.ray.engines.clear()
    scene.passes(200)
    assert not [one for one in scene.ray.engines.values() if one.node == A.id]
    scene.passes(200)
    assert "node-a" in scene.at


def test_a_step_that_hangs_costs_its_engine(scene: Scene) -> None:
    hung = scene.engine(A)
    hung.pulse = Pulse(trials={"s-1": "s"}, busy_s=100.0, longest_s=2.0)
    scene.passes(10)
    assert hung.name not in scene.ray.killed
    hung.pulse = replace(hung.pulse, busy_s=400.0)
    scene.passes(10)
    assert hung.name in scene.ray.killed
    assert "step has gone on for 400 s" in scene.said[0]
    assert scene.at == ["node-a", "node-b"]


def test_the_deadline_of_a_step_can_be_given(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [A], step_timeout_s=50.0)
    scene.passes(3)
    hung = scene.engine(A)
    hung.pulse = Pulse(trials={}, busy_s=60.0)
    scene.passes(5)
    assert hung.name in scene.ray.killed


def test_an_engine_that_is_silent_is_killed(scene: Scene) -> None:
    silent = scene.engine(A)
    silent.pulse = None
    scene.passes(DEAF_S - 10)
    assert silent.name not in scene.ray.killed
    scene.passes(30)
    assert silent.name in scene.ray.killed


def test_another_version_is_refused_once_with_the_remedy(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [A, B])
    stale = {**VERSIONS, "torch": "1.0"}

    def make(engine: MadeUpEngine) -> None:
        engine.versions = stale if engine.node == A.id else engine.versions

    scene.ray.make = make
    scene.passes(60)
    assert scene.at == ["node-b"]
    assert len(scene.said) == 1
    assert "node-a runs other versions (torch: 1.0 there" in scene.said[0]
    assert "doctor" in scene.said[0]
    greeted = [name for name in scene.ray.killed if A.id in name]
    assert len(greeted) == 1  # it is not tried again and again


def test_another_model_under_the_same_name_is_refused(scene: Scene) -> None:
    scene.ray.up.append(C)
    scene.trials = 6
    scene.ray.make = lambda engine: setattr(engine, "model", {"fingerprint": "0" * 64})
    scene.passes(10)
    assert scene.at == ["node-a", "node-b"]
    assert "node-c has another base model" in scene.said[0]


def test_a_model_that_cannot_be_used_is_the_searchs_end(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [A])
    scene.ray.make = lambda engine: setattr(engine, "model", BaseModelError("no such model"))
    scene.passes(3)
    with pytest.raises(BaseModelError, match="no such model"):
        scene.fleet.wait()


def test_it_waits_for_a_gpu_only_where_one_can_come(tmp_path: Path) -> None:
    bare = [Node("h", "head", 4, 0, is_head=True)]
    alone = Scene(tmp_path, bare, can_grow=False)
    alone.passes(1)
    with pytest.raises(ClusterError, match="no engine can be started: no node has the 1 GPUs"):
        alone.fleet.wait()
    growing = Scene(tmp_path, bare)
    growing.passes(1)
    growing.fleet.gives_up = lambda: True
    with pytest.raises(NoEngineError):
        growing.fleet.wait()


def test_nothing_runs_nothing_stays(scene: Scene) -> None:
    scene.trials = 2
    scene.engine(B).pulse = Pulse(trials={"s-1": "s"})
    scene.passes(60)
    assert scene.at == ["node-b"]
    scene.engine(B).pulse = Pulse(trials={})
    scene.trials = 0
    scene.passes(60)
    assert scene.ray.engines == {}
    assert scene.fleet.gpus == 0


def test_a_driver_that_lost_its_search_leaves_engines_and_roster_to_the_next(scene: Scene) -> None:
    """Both have one name on leases, and one roster."""
    scene.fleet.is_taken_over = True
    scene.fleet.close()
    assert scene.ray.killed == []
    assert scene.engine(A).leases == {"s"}
    assert scene.at == ["node-a", "node-b"]


def test_a_fleet_is_told_that_its_driver_lost_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class Told(Fleet):
        def close(self, *, keep: bool = False) -> None:
            closed.append(self.is_taken_over)
            super().close(keep=keep)

    ray = MadeUpRay([A])
    for name, stub in {
        "Fleet": Told, "alive_nodes": ray.nodes, "autoscaler": lambda: None,
        "own_node": lambda: A.id, "own_environment": dict, "RayHost": lambda *_: ray,
    }.items():  # fmt: skip
        monkeypatch.setattr(ray_fleet, name, stub)
    config = search_config()
    for error in (SearchLockedError, LedgerError):
        with (
            pytest.raises(error),
            ray_fleet.open_fleet(config, engine_options(config), {}, tmp_path),
        ):
            raise error
    assert closed == [True, False]


def test_a_roster_that_another_driver_left_or_removed_is_written_again(scene: Scene) -> None:
    folder = scene.fleet.plan.folder
    write_roster(folder, Roster(holder="s", halting=True))
    scene.passes(1)
    assert scene.at == ["node-a", "node-b"]
    remove_roster(folder)
    scene.passes(1)
    assert scene.at == ["node-a", "node-b"]


def test_a_close_leaves_nothing_unless_it_is_kept(scene: Scene) -> None:
    scene.fleet.close(keep=True)
    assert len(scene.ray.engines) == 2
    assert not read_roster(scene.fleet.plan.folder).engines
    other = Scene(scene.fleet.plan.folder, [A, B])
    other.ray.engines, before = scene.ray.engines, dict(scene.ray.engines)
    other.passes(3)
    assert other.ray.engines == before  # adopted
    assert other.at == ["node-a", "node-b"]
    other.fleet.close()
    assert other.ray.engines == {}
    assert other.ray.demanded[-1] == 0


def test_gpu_seconds_are_those_of_engines_that_were_there(scene: Scene) -> None:
    before = scene.fleet.gpu_s
    scene.passes(10)
    assert scene.fleet.gpu_s - before == pytest.approx(20.0)
    scene.ray.lose_node(B)
    scene.passes(3)
    before = scene.fleet.gpu_s
    scene.passes(10)
    assert scene.fleet.gpu_s - before == pytest.approx(10.0)


def test_pauses_reach_engines_that_come_later(scene: Scene) -> None:
    scene.fleet.unpause(["s-1", "s-2"])
    scene.fleet.pause(["s-1"])
    assert ("pause", ["s-1"], "s") in scene.engine(A).calls
    assert read_roster(scene.fleet.plan.folder).paused == ["s-1"]
    scene.ray.kill(scene.engine(A))
    scene.passes(8)
    assert ("unpause", ["s-1", "s-2"], "s") in scene.engine(A).calls
    assert ("pause", ["s-1"], "s") in scene.engine(A).calls


def test_a_halted_fleet_starts_nothing(scene: Scene) -> None:
    scene.fleet.halt()
    assert read_roster(scene.fleet.plan.folder).halting
    scene.ray.kill(scene.engine(A))
    scene.passes(10)
    assert scene.at == ["node-b"]


def test_a_smaller_gpu_gets_fewer_trials(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [A, B], trials_each=8)
    scene.trials = 16
    scene.passes(3)
    assert scene.fleet.room == 16
    scene.engine(A).pulse = Pulse(trials={}, tokens_at_once=8192)
    scene.engine(B).pulse = Pulse(trials={}, tokens_at_once=32768)
    scene.passes(5)
    rooms = {one.node: one.room for one in read_roster(tmp_path).engines}
    assert rooms == {"node-a": 2, "node-b": 8}


def test_what_smaller_gpus_cannot_take_is_what_another_engine_is_for(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [A, B], trials_each=8)
    scene.trials = 16
    tokens = {A.id: 8192, B.id: 32768, C.id: 32768}

    def make(engine: MadeUpEngine) -> None:
        engine.pulse = Pulse(trials={}, tokens_at_once=tokens[engine.node])

    scene.ray.make = make
    scene.passes(30)
    waiting = scene.fleet.waiting
    assert waiting is not None and waiting.kind == "full"
    assert "all 2 engines are full (10 trials in all)" in waiting.detail
    assert "6 trials wait" in waiting.detail
    assert scene.ray.demanded[-1] == 1
    scene.ray.up.append(C)
    scene.passes(10)
    assert scene.at == ["node-b", "node-c"]  # which is room for all
    assert scene.fleet.room == 16 and scene.fleet.waiting is None


def test_trials_stay_where_they_are_when_a_larger_gpu_comes(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [A, B, C], trials_each=8)
    scene.ray.make = lambda engine: setattr(engine, "pulse", pulse(engine.node))
    there = {A.id: (8, 8192), B.id: (8, 32768), C.id: (0, 32768)}

    def pulse(node: str) -> Pulse:
        count, tokens = there[node]
        trials = {f"{node}-{i}": "s" for i in range(count)}
        return Pulse(trials=trials, tokens_at_once=tokens)

    scene.trials = 16
    scene.passes(60)
    assert scene.at == ["node-a", "node-b"]  # all 16 run: another engine would stand idle
    assert scene.fleet.room == 16
    scene.engine(A).pulse = Pulse(trials={}, tokens_at_once=8192)
    scene.passes(10)
    assert scene.at == ["node-a", "node-b", "node-c"]


def test_a_call_goes_to_another_engine_where_one_is_lost(scene: Scene) -> None:
    scene.engine(A).dead = True
    assert scene.fleet.ask("check", "rows") is True
    assert ("check", "rows") in scene.engine(B).calls


def test_a_call_whose_engines_are_all_lost_can_be_given_up(scene: Scene) -> None:
    for node in (A, B):
        scene.ray.lose_node(node)
    scene.fleet.gives_up = lambda: True
    with pytest.raises(NoEngineError):
        scene.fleet.ask("check", "rows")


def test_time_behind_others_is_that_without_an_engine_that_is_to_come(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [A])
    other = scene.ray.start("engine/other/0", Place(A.id, 0))
    scene.passes(10)
    assert 9 <= scene.fleet.take_behind_s() <= 10
    scene.ray.kill(other)
    scene.passes(20)
    assert scene.at == ["node-a"]
    assert scene.fleet.take_behind_s() <= 3


def test_a_clock_adds_all_engines_up(scene: Scene) -> None:
    pulse = Pulse(trials={}, train_s=3.0, evaluate_s=1.0, idle_s=0.5, trial_steps=7)
    for node in (A, B):
        scene.engine(node).pulse = pulse
    scene.passes(5)
    scene.ray.kill(scene.engine(A))
    scene.passes(1)
    assert scene.fleet.clock == {
        "train_s": 6.0,
        "evaluate_s": 2.0,
        "idle_s": 1.0,
        "trial_steps": 14.0,
    }


def test_what_an_autoscaler_does_in_words() -> None:
    assert from_report({}).doing is None
    report = {
        "pending_launches": {"gpu": 2},
        "pending_nodes": [["1", "gpu", "setting-up"], ["2", "gpu", "setting-up"]],
        "failed_nodes": [["3", "spot"]],
    }
    assert from_report(report).doing == (
        "the autoscaler starts nodes: 2 gpu asked of the cloud, 2 gpu setting-up, 1 spot failed"
    )
