"""Whose turn it is where there is no room for all: by the queue alone, and with fleets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engines.placement import EngineView, Node, Wish
from orchestrator.engines.queue import TICKET_S, Queue, Ticket, Turn
from orchestrator.engines.roster import read_roster
from orchestrator.engines.watchdog import Pulse
from tests.unit.made_up_ray import A, B, C, MadeUpRay, Scene

READY = EngineView("ready", trials=1)
FREE = Node("a", "gpu-a", 8, 1, free_gpus=1)
FULL = Node("a", "gpu-a", 8, 1, free_gpus=0)
PAIR = Node("a", "gpu-a", 8, 2, free_gpus=2)
LARGE, HALF = (Node("b", "gpu-b", 32, 4, free_gpus=free) for free in (4, 2))


class Line:
    """Searches at a queue; each call is a search's look, a second after the one before."""

    def __init__(self) -> None:
        self.now = 1.0
        self.queue = self.another()

    def another(self) -> Queue:
        return Queue(now=lambda: self.now, clock=lambda: self.now)

    def look(
        self, name: str, nodes: Sequence[Node], wants: int = 1, gpus: int = 1, **changed: Any
    ) -> Turn:
        self.now += 1.0
        wish = Wish(gpus=gpus, trials=wants, trials_each=1)
        asked = {"holder": f"{name}@1", "pool": f"engine/{name}", "engines": {}} | changed
        ticket = Ticket(id=name, wish=wish, **asked)
        return self.queue.turn(ticket, nodes)

    def starts(self, *arguments: Any, **changed: Any) -> list[str]:
        return [place.name for place in self.look(*arguments, **changed).decision.start]


@pytest.fixture
def line() -> Line:
    return Line()


def test_the_first_that_came_is_served_first_whoever_looks_first(line: Line) -> None:
    assert [line.look(name, [FULL]).before for name in "xyz"] == [(), ("x",), ("x", "y")]
    assert [line.starts(name, [FREE]) for name in "zyx"] == [[], [], ["a/0"]]
    assert line.look("z", [FULL], engines={}).before == ("y",)  # x has its engine
    assert line.look("z", [FULL]).decision.missing == 1


def test_searches_of_one_name_in_two_homes_each_have_their_place(line: Line) -> None:
    looks = {"x": "demo@1", "y": "demo@2", "z": "other@1"}
    before = [line.look(id, [FULL], holder=holder).before for id, holder in looks.items()]
    assert before == [(), ("demo",), ("demo", "demo")]
    assert line.look("x", [FULL], holder="demo@1").before == ()
    assert line.look("y", [FULL], holder="demo@2").before == ("demo",)


def test_what_was_granted_is_taken_before_ray_has_counted_it(line: Line) -> None:
    assert line.starts("x", [FREE]) == ["a/0"]
    assert line.starts("y", [FREE]) == []  # x has not even looked again
    line.look("x", [FREE], engines={"a/0": EngineView("starting")})
    assert line.starts("y", [FREE]) == []
    line.look("x", [FULL], engines={"a/0": READY})
    line.queue.leave("x")
    assert line.starts("y", [FREE]) == ["a/0"]


def test_a_search_without_an_engine_goes_before_one_that_wants_another(line: Line) -> None:
    one = {"b/0": READY}
    line.look("x", [FULL], wants=9, engines=one)
    assert line.look("y", [FULL]).before == ()
    found = line.look("x", [FREE], wants=9, engines=one)
    assert (found.decision.start, found.before) == ((), ("y",))
    assert line.starts("y", [FREE]) == ["a/0"]


def test_all_have_one_engine_before_any_has_two(line: Line) -> None:
    for name in "xy":
        line.look(name, [FULL], wants=3)
    first = line.look("x", [PAIR], wants=3)
    assert [place.name for place in first.decision.start] == ["a/0"]
    assert first.decision.missing == 2
    assert line.starts("y", [PAIR], wants=3) == ["a/0"]  # of another name: of another model


def test_one_alone_has_all_at_once(line: Line) -> None:
    found = line.look("x", [PAIR, LARGE], wants=9)
    starts = [place.name for place in found.decision.start]
    assert starts[:2] == ["a/0", "b/0"]
    assert sorted(starts) == ["a/0", "a/1", "b/0", "b/1", "b/2", "b/3"]
    assert found.decision.missing == 3


def test_among_those_that_want_another_the_first_that_came_goes_first(line: Line) -> None:
    for name in "xy":
        line.look(name, [FULL], wants=2, engines={"b/0": READY})
    later = line.look("y", [FREE], wants=2, engines={"b/0": READY})
    assert (later.decision.start, later.before) == ((), ("x",))
    assert line.starts("x", [FREE], wants=2, engines={"b/0": READY}) == ["a/0"]


def test_one_that_no_node_can_carry_is_in_nobodys_way(line: Line) -> None:
    line.look("large", [FREE], gpus=8)
    found = line.look("x", [FREE])
    assert ([place.name for place in found.decision.start], found.before) == (["a/0"], ())
    line.look("other", [FULL], refused={"a"}, avoided={"a"})
    line.queue.leave("x")
    assert line.starts("y", [FREE]) == ["a/0"]


def test_a_large_one_keeps_what_is_free_on_one_node_and_no_more(line: Line) -> None:
    line.look("large", [FULL, HALF], gpus=4)
    assert line.look("x", [FULL, HALF]).before == ("large",)  # two are free, and kept
    assert line.starts("x", [FREE, HALF]) == ["a/0"]
    assert line.starts("large", [FULL, LARGE], gpus=4) == ["b/0"]


def test_one_that_wants_another_large_engine_keeps_nothing(line: Line) -> None:
    line.look("large", [FULL, HALF], gpus=4, wants=2, engines={"c/0": READY})
    line.look("x", [FULL], wants=2, engines={"a/0": READY})
    assert line.starts("x", [FULL, HALF], wants=2, engines={"a/0": READY}) == ["b/0"]


def test_a_place_that_is_used_again_in_a_moment_is_kept(line: Line) -> None:
    line.look("x", [FREE], avoided={"a/0"})  # its engine was lost just now
    assert line.starts("y", [FREE]) == []
    assert line.starts("x", [FREE]) == ["a/0"]


def test_a_cpu_is_no_gpu(line: Line) -> None:
    line.look("x", [FULL])
    assert line.starts("y", [FULL], gpus=0) == ["a/0"]


def test_a_killed_driver_is_in_nobodys_way(line: Line) -> None:
    line.look("x", [FULL])
    line.look("y", [FULL])
    line.now += TICKET_S - 5
    assert line.starts("y", [FREE]) == []
    line.now += 5
    assert line.starts("y", [FREE]) == ["a/0"]


def test_one_that_runs_again_is_behind_those_that_wait(line: Line) -> None:
    line.look("x", [FULL])
    line.look("y", [FULL])
    line.queue.leave("x")
    assert line.look("x again", [FULL]).before == ("y",)


def test_the_order_outlives_the_queue_and_a_driver_that_slept(line: Line) -> None:
    arrived = {name: line.look(name, [FULL]).arrived for name in "xy"}
    line.queue = line.another()
    line.look("y", [FULL], arrived=arrived["y"])
    assert line.look("x", [FULL], arrived=arrived["x"]).before == ()
    line.now += 2 * TICKET_S
    line.look("y", [FULL], arrived=arrived["y"])
    line.look("x", [FULL], arrived=arrived["x"])
    assert line.look("y", [FULL], arrived=arrived["y"]).before == ("x",)


def test_it_ends_when_nobody_is_there(line: Line) -> None:
    line.look("x", [FULL])
    line.now += TICKET_S + 1
    assert not line.queue.is_unused
    line.now += TICKET_S + 1
    assert line.queue.is_unused


class Searches:
    """Searches on one made-up cluster, each with a model of its own unless told; they look last
    first.
    """

    def __init__(self, folder: Path, nodes: list[Node]) -> None:
        self.folder, self.ray = folder, MadeUpRay(nodes)
        self.all: dict[str, Scene] = {}

    def add(self, name: str, trials: int = 2, **changed: Any) -> Scene:
        (self.folder / name).mkdir()
        plan = {"holder": name, "pool": f"engine/{name}"} | changed
        scene = self.all[name] = Scene(self.folder / name, [], self.ray, **plan)
        scene.trials = trials
        self.passes(3)
        return scene

    def passes(self, seconds: float) -> None:
        for _ in range(int(2 * seconds)):
            self.ray.now += 0.5
            for scene in reversed(list(self.all.values())):
                scene.fleet.beat()

    def end(self, name: str) -> None:
        self.all.pop(name).fleet.close()
        self.passes(5)

    @property
    def at(self) -> dict[str, list[str]]:
        return {name: scene.at for name, scene in self.all.items()}

    def waits(self, name: str) -> tuple[str, str]:
        found = read_roster(self.folder / name).waiting
        return ("", "") if found is None else (found.kind, found.detail)


@pytest.fixture
def searches(tmp_path: Path) -> Searches:
    made = Searches(tmp_path, [A])
    made.add("first")
    return made


def test_searches_of_other_models_are_served_as_they_came(searches: Searches) -> None:
    for name in ("second", "third", "fourth"):
        searches.add(name)
    assert searches.waits("second") == ("busy", "the GPUs of all 1 nodes are in use by others")
    assert searches.waits("third") == ("queued", "waits behind second (1 before it) for GPUs")
    assert searches.waits("fourth") == ("queued", "waits behind third (2 before it) for GPUs")
    searches.end("first")
    assert searches.at == {"second": ["node-a"], "third": [], "fourth": []}
    del searches.all["third"]  # killed: it gives nothing back
    searches.end("second")
    assert searches.at == {"fourth": []}
    searches.passes(TICKET_S)
    assert searches.at == {"fourth": ["node-a"]}


def test_one_that_may_share_an_engine_does_not_wait(searches: Searches) -> None:
    searches.add("second", pool="engine/first")
    searches.add("third")
    assert searches.at == {"first": ["node-a"], "second": ["node-a"], "third": []}


def test_an_engine_that_somebody_waits_for_takes_no_later_search(searches: Searches) -> None:
    searches.add("beside", pool="engine/first")
    searches.add("second")
    searches.add("late", pool="engine/first")
    searches.passes(600)
    shared = {"first": ["node-a"], "beside": ["node-a"]}
    assert searches.at == {**shared, "second": [], "late": []}
    assert searches.waits("late") == ("queued", "waits behind second (1 before it) for GPUs")
    searches.end("first")
    assert searches.at == {"beside": ["node-a"], "second": [], "late": []}
    searches.end("beside")
    assert searches.at == {"second": ["node-a"], "late": []}
    searches.add("later", pool="engine/second")  # for whom late waits
    searches.end("second")
    assert searches.at == {"late": ["node-a"], "later": []}


def test_an_engine_elsewhere_is_shared_whoever_waits(tmp_path: Path) -> None:
    searches = Searches(tmp_path, [Node("l" * 8, "large", 4, 4), A])
    searches.add("first", trials=10)
    searches.add("wide", gpus=4)
    searches.add("late", pool="engine/first")
    assert searches.waits("wide")[0] == "busy"
    assert searches.at["late"] == ["node-a"]


def test_a_confirmation_is_where_its_search_was(searches: Searches) -> None:
    searches.add("second")
    searches.all.pop("first").fleet.close(keep=True)
    searches.passes(3)
    searches.add("again", holder="first", pool="engine/first", most=1)
    assert searches.at == {"second": [], "again": ["node-a"]}
    searches.end("again")
    assert searches.at == {"second": ["node-a"]}


@pytest.fixture
def greedy(tmp_path: Path) -> Searches:
    """One search that has all nodes, with work for days; one of another model comes."""
    made = Searches(tmp_path, [A, B, C])
    made.add("first", trials=400)
    made.add("second")
    assert len(made.at["first"]) == 3
    return made


def test_a_search_with_several_engines_gives_one_to_a_search_without(greedy: Searches) -> None:
    greedy.passes(60)
    assert (len(greedy.at["first"]), len(greedy.at["second"])) == (2, 1)
    given = {"node-a", "node-b", "node-c"} - set(greedy.at["first"])
    assert greedy.at["second"] == sorted(given)
    greedy.passes(400)
    assert (len(greedy.at["first"]), len(greedy.at["second"])) == (2, 1)
    assert len(greedy.ray.killed) == 1
    greedy.add("third")
    greedy.passes(60)
    assert [len(at) for at in greedy.at.values()] == [1, 1, 1]
    greedy.add("fourth")
    greedy.passes(400)
    assert [len(at) for at in greedy.at.values()] == [1, 1, 1, 0]  # nobody's only one


def test_what_was_given_comes_back(greedy: Searches) -> None:
    greedy.passes(60)
    greedy.end("second")
    greedy.passes(600)
    assert len(greedy.at["first"]) == 3
    assert len(greedy.ray.killed) == 2  # of the first, given, and of the second, at its end


def test_its_trials_go_on_in_the_others_before_an_engine_ends(greedy: Searches) -> None:
    for engine in greedy.ray.engines.values():
        engine.pulse = Pulse(trials={f"first-{engine.node}": "first"})
    engines = dict(greedy.ray.engines)
    greedy.passes(20)
    roster = read_roster(greedy.folder / "first")
    (leaving,) = [one for one in roster.engines if one.state == "leaving"]
    assert len(roster.ready) == 2
    assert ("vacate", "first") in engines[leaving.name].calls
    assert leaving.name not in greedy.ray.killed
    assert "is given back to a search that has none" in greedy.all["first"].said[-1]
    engines[leaving.name].pulse = Pulse(trials={})
    greedy.passes(10)
    assert greedy.ray.killed == [leaving.name]
    assert len(greedy.at["second"]) == 1


def test_trials_that_do_not_go_are_waited_for_so_long(greedy: Searches) -> None:
    for engine in greedy.ray.engines.values():
        engine.pulse = Pulse(trials={f"first-{engine.node}": "first"})
    greedy.passes(100)
    assert len(greedy.ray.killed) == 1


def test_the_one_with_most_engines_gives_first(tmp_path: Path) -> None:
    nodes = [Node(name * 8, f"node-{name}", 4, 1) for name in "abcde"]
    searches = Searches(tmp_path, nodes)
    searches.add("few", trials=4)
    searches.add("many", trials=6)
    searches.add("third")
    searches.passes(60)
    assert {name: len(at) for name, at in searches.at.items()} == {"few": 2, "many": 2, "third": 1}


def test_all_who_share_an_engine_give_it_back(tmp_path: Path) -> None:
    searches = Searches(tmp_path, [A, B])
    searches.add("first", trials=4)
    searches.add("beside", trials=4, pool="engine/first")
    searches.add("third")
    searches.passes(60)
    assert {name: len(at) for name, at in searches.at.items()} == {
        "first": 1, "beside": 1, "third": 1,
    }  # fmt: skip
    assert searches.at["first"] == searches.at["beside"]


def test_an_engine_that_is_somebodys_only_one_is_not_given(tmp_path: Path) -> None:
    searches = Searches(tmp_path, [A, B])
    searches.add("first", trials=4)
    searches.add("beside", pool="engine/first")
    (only,) = searches.at["beside"]
    searches.add("third")
    searches.passes(60)
    assert searches.at["first"] == searches.at["beside"] == [only]
    assert searches.at["third"] == sorted({"node-a", "node-b"} - {only})


def test_as_many_are_given_as_a_large_one_takes_and_none_in_vain(tmp_path: Path) -> None:
    searches = Searches(tmp_path, [Node("l" * 8, "large", 8, 4), A])
    searches.add("first", trials=400)
    searches.add("whole", gpus=4)
    searches.passes(100)
    assert (searches.at["first"], searches.at["whole"]) == (["node-a"], ["large"])
    searches.end("whole")
    searches.passes(200)
    assert len(searches.at["first"]) == 5
    searches.ray.lose_node(A)
    searches.add("again", gpus=4)
    searches.passes(600)
    assert (len(searches.at["first"]), searches.at["again"]) == (4, [])


def test_one_that_may_begin_in_a_moment_is_given_nothing(tmp_path: Path) -> None:
    searches = Searches(tmp_path, [A, B, C])
    searches.add("first", trials=4)
    searches.add("other")
    searches.add("second")
    searches.end("other")
    searches.passes(60)
    assert [len(at) for at in searches.at.values()] == [2, 1]


def test_another_engine_waits_for_those_without_one(tmp_path: Path) -> None:
    searches = Searches(tmp_path, [A, B])
    for name in ("first", "other", "second"):
        searches.add(name)
    searches.all["first"].trials = 4
    searches.passes(3)
    assert searches.waits("first") == (
        "full",
        "all 1 engines are full (2 trials each), and another waits behind second (1 before it); "
        "2 trials wait",
    )
    searches.end("other")
    assert searches.at == {"first": ["node-a"], "second": ["node-b"]}


def test_a_halted_search_is_in_nobodys_way(searches: Searches) -> None:
    searches.add("second").fleet.halt()
    searches.add("third")
    searches.end("first")
    assert searches.at == {"second": [], "third": ["node-a"]}
