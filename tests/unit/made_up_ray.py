"""A cluster that is made up, and time that passes in beats: what tests of a fleet stand on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.engines.cluster import Autoscaler
from orchestrator.engines.fleet import Fleet
from orchestrator.engines.fleet_plan import Cluster, FleetPlan
from orchestrator.engines.handshake import own_versions
from orchestrator.engines.host import CallFailedError
from orchestrator.engines.placement import Node, Place
from orchestrator.engines.queue import Queue
from orchestrator.engines.roster import read_roster
from orchestrator.engines.watchdog import Pulse

VERSIONS = own_versions()
MODEL = {"fingerprint": "f" * 64}
A, B, C = (Node(name * 8, f"node-{name}", 4, 1) for name in "abc")


@dataclass
class MadeUpEngine:
    """What stands for an actor."""

    name: str
    node: str
    versions: dict[str, str] = field(default_factory=lambda: dict(VERSIONS))
    model: Any = field(default_factory=lambda: dict(MODEL))
    pulse: Pulse | None = field(default_factory=lambda: Pulse(trials={}))
    dead: bool = False
    leases: set[str] = field(default_factory=set)
    calls: list[tuple[Any, ...]] = field(default_factory=list)


@dataclass
class MadeUpCall:
    engine: MadeUpEngine
    method: str
    arguments: tuple[Any, ...]


class MadeUpRay:
    """A host and a cluster."""

    def __init__(self, nodes: list[Node]) -> None:
        self.now = 0.0
        self.up = nodes
        self.queue = Queue(now=lambda: self.now, clock=lambda: 1 + self.now)
        self.engines: dict[str, MadeUpEngine] = {}
        self.gpus: dict[str, int] = {}  # of an engine, by its pool
        self.killed: list[str] = []
        self.demanded: list[int] = []
        self.scaler: Autoscaler | None = None
        self.make: Callable[[MadeUpEngine], None] = lambda engine: None
        self.stuck: set[tuple[str, str]] = set()  # node and method of what is not answered

    def nodes(self) -> list[Node]:
        used = Counter[str]()
        for engine in self.engines.values():
            pool = engine.name.rsplit("/", 2)[0]
            used[engine.node] += 0 if engine.dead else self.gpus.get(pool, 1)
        return [replace(node, free_gpus=node.gpus - used[node.id]) for node in self.up]

    def start(self, name: str, place: Place) -> MadeUpEngine:
        if name not in self.engines:
            self.engines[name] = MadeUpEngine(name, place.node)
            self.make(self.engines[name])
        return self.engines[name]

    def find(self, name: str) -> MadeUpEngine | None:
        return self.engines.get(name)

    def names(self) -> list[str]:
        return list(self.engines)

    def begin(self, engine: MadeUpEngine, method: str, *arguments: Any) -> MadeUpCall:
        engine.calls.append((method, *arguments))
        if method in ("greet", "pulse"):
            engine.leases.add(*arguments)
        if method == "release":
            engine.leases.discard(*arguments)
        return MadeUpCall(engine, method, arguments)

    def is_done(self, call: MadeUpCall) -> bool:
        if (call.engine.node, call.method) in self.stuck:
            return call.engine.dead
        return call.engine.dead or not (call.method == "pulse" and call.engine.pulse is None)

    def answer(self, call: MadeUpCall, timeout_s: float | None = None) -> Any:
        engine = call.engine
        if engine.dead or not self.is_done(call):
            raise CallFailedError(None, "the actor died")
        if call.method == "describe" and isinstance(engine.model, Exception):
            raise CallFailedError(engine.model, str(engine.model))
        answers = {"greet": engine.versions, "describe": engine.model, "pulse": engine.pulse}
        answers["release"] = not engine.leases
        return answers.get(call.method, True)

    def kill(self, engine: MadeUpEngine) -> None:
        self.killed.append(engine.name)
        engine.dead = True
        self.engines.pop(engine.name, None)

    def lose_node(self, node: Node) -> None:
        self.up = [one for one in self.up if one.id != node.id]
        for engine in self.engines.values():
            engine.dead = engine.dead or engine.node == node.id


class Scene:
    """A fleet with its cluster, and time that passes in beats."""

    def __init__(
        self, folder: Path, nodes: list[Node], ray: MadeUpRay | None = None, **changed: Any
    ) -> None:
        self.ray = MadeUpRay(nodes) if ray is None else ray
        self.said: list[str] = []
        can_grow = changed.pop("can_grow", True)
        asked: dict[str, Any] = {"holder": "s", "gpus": 1, "trials_each": 2} | changed
        plan = FleetPlan(folder=folder, **{"pool": "engine/k"} | asked)
        self.ray.gpus[plan.pool] = plan.gpus
        cluster = Cluster(
            nodes=self.ray.nodes,
            autoscaler=lambda: self.ray.scaler,
            demand=self.ray.demanded.append,
            depot=lambda node: f"depot for {node}",
            turn=self.ray.queue.turn,
            leave=self.ray.queue.leave,
            can_grow=can_grow,
        )
        self.fleet = Fleet(plan, self.ray, cluster, self.said.append, lambda: self.ray.now)
        self.trials = 4
        self.fleet.work = lambda: self.trials

    def passes(self, seconds: float) -> None:
        end = self.ray.now + seconds
        while self.ray.now < end:
            self.ray.now += 0.5
            self.fleet.beat()

    @property
    def at(self) -> list[str]:
        """The nodes of engines that are ready."""
        return sorted(one.node for one in read_roster(self.fleet.plan.folder).ready)

    def engine(self, node: Node) -> MadeUpEngine:
        (found,) = [one for one in self.ray.engines.values() if one.node == node.id]
        return found
