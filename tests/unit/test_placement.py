"""From a cluster's state to what engines there should be, and why trials wait."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engines.placement import (
    Decision,
    EngineView,
    Node,
    Place,
    Wish,
    decide,
    engine_gpus,
)
from orchestrator.engines.waiting import why_waiting

HEAD = Node("head", "head", 4, 0, is_head=True)
SMALL, LARGE = Node("a", "gpu-a", 8, 1), Node("b", "gpu-b", 32, 4)
CPU = [Node("c", "cpu-c", 8, 0), Node("d", "cpu-d", 8, 0)]
READY = EngineView("ready", trials=1)
IDLE = EngineView("ready", idle_s=100.0)


def wish(trials: int, gpus: int = 1, most: int | None = None) -> Wish:
    return Wish(gpus=gpus, trials=trials, trials_each=8, most=most)


def names(decision: Decision) -> list[str]:
    return [place.name for place in decision.start]


@pytest.mark.parametrize(
    ("trials", "most", "engines"),
    [(0, None, 0), (1, None, 1), (8, None, 1), (9, None, 2), (99, 3, 3)],
)
def test_as_many_engines_as_there_is_work_for(trials: int, most: int | None, engines: int) -> None:
    assert wish(trials, most=most).engines == engines


@pytest.mark.parametrize(
    ("trials", "rooms", "engines"),
    [
        (16, (2, 8), 3),
        (10, (2, 8), 2),
        (8, (2, 8), 1),
        (11, (2, 8), 3),
        (16, (8, 8), 2),
        (0, (8,), 0),
    ],
)
def test_engines_that_it_has_count_by_their_room(
    trials: int, rooms: tuple[int, ...], engines: int
) -> None:
    assert Wish(gpus=1, trials=trials, trials_each=8, rooms=rooms).engines == engines


def test_engines_start_on_every_gpu_spread_out() -> None:
    found = decide([HEAD, LARGE, SMALL], {}, wish(40))
    assert names(found) == ["a/0", "b/0", "b/1", "b/2", "b/3"]
    assert found.missing == 0


def test_what_no_place_is_free_for_is_missing() -> None:
    assert decide([HEAD], {}, wish(40)).missing == 5
    found = decide([SMALL], {"a/0": READY}, wish(24))
    assert (found.start, found.missing) == ((), 2)


def test_one_engine_per_node_on_a_cpu_away_from_the_head() -> None:
    assert names(decide([HEAD, *CPU], {}, wish(99, gpus=0))) == ["c/0", "d/0", "head/0"]
    assert names(decide([HEAD, *CPU], {}, wish(9, gpus=0))) == ["c/0", "d/0"]
    bare = Node("bare", "bare", 0, 0, is_head=True)
    assert names(decide([bare], {}, wish(1, gpus=0))) == []


def test_an_engine_of_several_gpus_goes_where_they_are() -> None:
    assert names(decide([SMALL, LARGE], {}, wish(99, gpus=2))) == ["b/0", "b/1"]
    assert names(decide([SMALL, LARGE], {}, wish(99, gpus=4))) == ["b/0"]
    assert names(decide([SMALL, LARGE], {}, wish(99, gpus=8))) == []


def test_what_others_use_is_left_to_them() -> None:
    busy = Node("b", "gpu-b", 32, 4, free_cpus=30, free_gpus=1.0)
    assert names(decide([busy], {}, wish(99))) == ["b/0"]
    no_cpu = Node("b", "gpu-b", 4, 4, free_cpus=0.5, free_gpus=4.0)
    assert names(decide([no_cpu], {}, wish(99))) == []


def test_a_place_or_a_node_can_be_avoided() -> None:
    assert names(decide([LARGE], {}, wish(99), avoid={"b/1"})) == ["b/0", "b/2", "b/3"]
    assert names(decide([SMALL, LARGE], {}, wish(99), avoid={"b"})) == ["a/0"]


def test_nothing_runs_nothing_stays() -> None:
    assert decide([LARGE], {"b/0": IDLE, "b/1": IDLE}, wish(0)).end == ("b/0", "b/1")
    fresh = EngineView("ready", idle_s=1.0)
    assert decide([LARGE], {"b/0": fresh}, wish(0)).end == ()


def test_engines_with_trials_stay_and_those_that_start_go_first() -> None:
    starting = EngineView("loading", idle_s=100.0)
    engines = {"b/0": IDLE, "b/1": starting, "b/2": READY}
    assert decide([LARGE], engines, wish(9)).end == ("b/1",)
    assert decide([LARGE], engines, wish(1)).end == ("b/1", "b/0")


def test_the_smallest_goes_first() -> None:
    rooms = {"a/0": 8, "b/0": 2}
    idle = {name: EngineView("ready", idle_s=100.0, room=room) for name, room in rooms.items()}
    wanted = Wish(gpus=1, trials=8, trials_each=8, rooms=tuple(rooms.values()))
    assert decide([SMALL, LARGE], idle, wanted).end == ("b/0",)


@pytest.mark.parametrize(
    ("base", "asked", "gpus"),
    [
        ({"device": "auto"}, None, 1),
        ({"device": "auto"}, 2, 2),
        ({"device": "cpu"}, 2, 0),
        ({"device": "auto", "device_map": "auto"}, None, 4),
        ({"device": "auto", "device_map": "auto"}, 2, 2),
        ({"device": "auto", "device_map": "cpu"}, None, 0),
        ({"device": "auto", "device_map": {"": "cpu"}}, None, 0),
        ({"device": "auto", "device_map": {"model": 0, "lm_head": 1}}, None, 4),
    ],
)
def test_an_engine_takes_the_gpus_that_its_model_is_spread_over(
    base: dict[str, Any], asked: int | None, gpus: int
) -> None:
    assert engine_gpus(base, asked, [HEAD, LARGE]) == gpus


def test_gpus_that_are_not_there_yet() -> None:
    assert engine_gpus({"device": "auto"}, None, [HEAD]) == 0
    assert engine_gpus({"device": "auto"}, None, [HEAD], promised=8) == 1
    assert engine_gpus({"device": "cuda"}, None, [HEAD]) == 1


def reason(
    nodes: list[Node], engines: dict[str, EngineView], wanted: Wish, **options: Any
) -> tuple[str, str] | None:
    found = why_waiting(nodes, engines, wanted, decide(nodes, engines, wanted), **options)
    return None if found is None else (found.kind, found.detail)


def test_nobody_waits_where_there_is_room() -> None:
    assert reason([SMALL], {"a/0": READY}, wish(8)) is None
    assert reason([], {}, wish(0)) is None


def test_why_trials_wait() -> None:
    assert reason([], {}, wish(1)) == ("no-node", "no node is alive")
    kind, detail = reason([HEAD], {}, wish(1)) or ("", "")
    assert kind == "no-gpu" and "none of the 1 has any" in detail
    kind, detail = reason([LARGE], {}, wish(1, gpus=8)) or ("", "")
    assert kind == "no-gpu" and "the 8 GPUs" in detail and "has 4" in detail
    kind, detail = reason([SMALL], {}, wish(1)) or ("", "")
    assert (kind, detail) == ("engine-starting", "engines start on gpu-a (starting)")
    loading = {"a/0": EngineView("loading")}
    kind, detail = reason([SMALL], loading, wish(1)) or ("", "")
    assert (kind, detail) == ("engine-starting", "engines start on gpu-a (loads the model)")
    busy = [Node("a", "gpu-a", 8, 1, free_gpus=0.0)]
    assert reason(busy, {}, wish(1)) == ("busy", "the GPUs of all 1 nodes are in use by others")
    told = reason(busy, {}, wish(1), refused={"a": "other versions"})
    assert told == ("refused", "other versions")
    doing = "the autoscaler starts nodes: 1 gpu setting-up"
    assert reason([HEAD], {}, wish(1), autoscaler=doing) == ("node-starting", doing)
    kind, detail = reason([SMALL], {"a/0": READY}, wish(20)) or ("", "")
    assert kind == "full" and "12 trials wait" in detail
    kind, detail = reason([LARGE], {"b/0": READY}, wish(20, most=1)) or ("", "")
    assert kind == "full" and "engine.count" in detail


def test_places_have_names() -> None:
    assert Place("node", 3).name == "node/3"
