"""Two people on one Ray, each with a home of their own and a search of the same name."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from orchestrator.assignment import Assignment
from orchestrator.config import SearchConfig
from orchestrator.engines import ray_fleet
from orchestrator.engines.actor import EngineActor
from orchestrator.errors import EngineFullError
from orchestrator.folders import SearchFolder
from orchestrator.opening import engine_options
from orchestrator.search_data import read_data
from orchestrator.study.place import STORAGE_VARIABLE, claim_place, folder_id
from tests.integration.small_search import NAME, small_config
from tests.unit.made_up_ray import A, MadeUpRay
from trainable.data import Split
from trainable.state import TrialState

SPLITS: list[Split] = ["val_id"]


@dataclass(frozen=True)
class Person:
    """A search in a home, and its first trial."""

    holder: str
    assignment: Assignment

    def join(self, engine: EngineActor, attempt: int = 1, room: int | None = None) -> None:
        engine.join(replace(self.assignment, attempt=attempt), None, self.holder, room)

    def train(self, engine: EngineActor, step: int) -> tuple[int, int]:
        """The step that it is at then, and how many latents it has."""
        found = engine.train(self.assignment.uid, step, SPLITS, self.holder)
        return found["step"], len(TrialState.from_bytes(found["state"]).latents)


def person(home: Path, config: SearchConfig, latents: int) -> Person:
    folder = SearchFolder.of(home, config.name)
    folder.path.mkdir(parents=True)
    with ray_fleet.open_fleet(config, engine_options(config), {}, folder.path) as fleet:
        plan = fleet.plan
    assert plan.holder.startswith(f"{config.name}@")
    uid = folder.uid(0)
    trial = {"strategy": {"triggers": {"s": {"kind": "start", "m": latents}}}}
    assignment = Assignment(
        uid=uid, number=0, attempt=1, config=trial, data=asdict(read_data(config, home).source),
        start_step=0, rungs=[8], splits=list(SPLITS), engine=plan.pool,
        folder=str(folder.trial(uid)),
    )  # fmt: skip
    return Person(plan.holder, assignment)


@pytest.fixture
def config(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> SearchConfig:
    ray = MadeUpRay([A])
    for name, stub in {
        "alive_nodes": ray.nodes, "autoscaler": lambda: None, "own_node": lambda: A.id,
        "RayHost": lambda *_: ray, "RayQueue": lambda _: ray.queue, "own_environment": dict,
    }.items():  # fmt: skip
        monkeypatch.setattr(ray_fleet, name, stub)
    return SearchConfig.model_validate(small_config(tiny_folder))


@pytest.fixture
def engine(config: SearchConfig) -> EngineActor:
    return EngineActor(*engine_options(config))


def test_searches_of_one_name_in_two_homes_leave_each_other_alone(
    config: SearchConfig, engine: EngineActor, tmp_path: Path
) -> None:
    ann, bob = person(tmp_path / "ann", config, 2), person(tmp_path / "bob", config, 7)
    assert ann.assignment.uid == bob.assignment.uid == f"{NAME}-0"
    engine.greet(ann.holder)
    ann.join(engine, room=1)
    assert ann.train(engine, 2) == (2, 2)
    engine.greet(bob.holder)  # nobody leaves
    bob.join(engine, room=1)
    engine.pause([bob.assignment.uid], bob.holder)
    assert ann.train(engine, 4) == (4, 2)
    assert bob.train(engine, 4) == (0, 7)
    engine.unpause([bob.assignment.uid], bob.holder)
    ann.join(engine, attempt=2)
    bob.join(engine)  # which is Bob's first, whatever Ann's is
    with pytest.raises(EngineFullError):
        ann.join(engine)
    engine.leave(ann.assignment.uid, ann.holder)
    assert bob.train(engine, 4) == (4, 7)
    assert not engine.release(bob.holder)
    assert engine.release(ann.holder)


def test_a_folder_keeps_its_id_and_a_copy_has_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    first = folder_id(folder)
    assert folder_id(folder) == first
    shutil.copytree(folder, tmp_path / "two")
    assert folder_id(tmp_path / "two") != first
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 'shared.db'}")
    claim_place(folder)
    shutil.copytree(folder, tmp_path / "mounted")  # its lease, which names the id, is one
    assert folder_id(tmp_path / "mounted") == folder_id(folder) != first
