"""What engines there should be, as a pure function of what there is.

    nodes ─► places: one per node on a CPU, one per so many GPUs on a GPU node
    wanted = those whose room is needed for the trials that are left, and more, by what an engine
             takes, where there is not room for all; at most as many as allowed
    fewer than wanted: start at free places, ask the autoscaler for the rest
    more than wanted:  end those without a trial

A place has a name of its own, and so has its engine: two drivers that want the same one find
the same one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

EngineState = Literal["starting", "loading", "ready", "leaving"]


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that is alive.

    Args:
        id: Ray's, hexadecimal.
        name: for people.
        is_head: whether the cluster's head is there; engines go elsewhere first.
        free_cpus, free_gpus: that nobody uses at the moment; None where all are free.
    """

    id: str
    name: str
    cpus: float
    gpus: float
    is_head: bool = False
    free_cpus: float | None = None
    free_gpus: float | None = None

    def room(self, gpus: int) -> int:
        """How many engines could start there now."""
        cpus, free_gpus = self._free
        by_cpu = int(cpus)
        return min(by_cpu, int(free_gpus // gpus)) if gpus else min(by_cpu, 1)

    def less(self, gpus: int) -> Node:
        """The same, with what one more engine would leave free."""
        cpus, free_gpus = self._free
        return replace(self, free_cpus=max(0.0, cpus - 1), free_gpus=max(0.0, free_gpus - gpus))

    def more(self, gpus: int) -> Node:
        """The same, with what an engine's end would leave free."""
        cpus, free_gpus = self._free
        return replace(self, free_cpus=cpus + 1, free_gpus=free_gpus + gpus)

    @property
    def _free(self) -> tuple[float, float]:
        return (
            self.cpus if self.free_cpus is None else self.free_cpus,
            self.gpus if self.free_gpus is None else self.free_gpus,
        )


@dataclass(frozen=True)
class Place:
    """Where one engine can be."""

    node: str
    index: int

    @property
    def name(self) -> str:
        """The last part of an engine's name."""
        return f"{self.node}/{self.index}"


@dataclass(frozen=True)
class EngineView:
    """An engine that this search uses.

    Args:
        trials: of this search, in it.
        idle_s: since when none was in it.
        room: trials of this search that it takes; None for as many as any.
    """

    state: EngineState
    trials: int = 0
    idle_s: float = 0.0
    room: int | None = None


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a search wants.

    Args:
        gpus: of an engine; 0 for one on a CPU.
        trials: that are not at their end.
        trials_each: that an engine takes, as far as is known.
        most: engines; None for as many as there is work for.
        rooms: trials that each engine takes that it has.
    """

    gpus: int
    trials: int
    trials_each: int
    most: int | None = None
    rooms: tuple[int, ...] = ()

    @property
    def engines(self) -> int:
        """How many engines it has work for: the largest of its own first, then new ones."""
        left, wanted = self.trials, 0
        for room in sorted(self.rooms, reverse=True):
            if left > 0:
                left, wanted = left - room, wanted + 1
        wanted += math.ceil(max(0, left) / self.trials_each)
        return wanted if self.most is None else min(wanted, self.most)


@dataclass(frozen=True)
class Decision:
    """What to do now.

    Args:
        start: places at which to start engines.
        end: names of places whose engines this search does not need.
        missing: engines that no place is free for; what an autoscaler is to bring.
    """

    start: tuple[Place, ...] = ()
    end: tuple[str, ...] = ()
    missing: int = 0


IDLE_S = 20.0  # an engine without a trial stays so long: the next trial may be about to come


def decide(
    nodes: Sequence[Node],
    engines: Mapping[str, EngineView],
    wish: Wish,
    avoid: Collection[str] = (),
    idle_s: float = IDLE_S,
) -> Decision:
    """Compare what there is with what is wanted.

    Args:
        engines: by the name of their place.
        avoid: names of places, and ids of nodes, at which none is to start.
        idle_s: how long an engine that is not needed stays.
    """
    here, wanted = len(engines), wish.engines
    if here > wanted:
        return Decision(end=_surplus(engines, here - wanted, idle_s))
    rooms = {node.id: node.room(wish.gpus) for node in nodes}
    start: list[Place] = []
    for place in _by_preference(nodes, engines, wish.gpus):
        taken = place.name in engines or place.name in avoid or place.node in avoid
        if not taken and rooms[place.node] > 0 and here + len(start) < wanted:
            rooms[place.node] -= 1
            start.append(place)
    return Decision(start=tuple(start), missing=wanted - here - len(start))


def places_of(node: Node, gpus: int) -> list[Place]:
    """The places of a node: one per `gpus` GPUs; one on a CPU."""
    count = int(node.gpus // gpus) if gpus else int(node.cpus >= 1)
    return [Place(node.id, index) for index in range(count)]


def engine_gpus(
    base: Mapping[str, object], asked: int | None, nodes: Iterable[Node], promised: float = 0.0
) -> int:
    """The GPUs of an engine: as many as asked; one where there is any; a whole node's.

    Args:
        base: keyword arguments of `load_base`; a model that is spread out takes all of a node.
        asked: `engine.gpus`.
        nodes: those that are there.
        promised: the most GPUs that an autoscaler's node would have.
    """
    device_map = base.get("device_map")
    places = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    if base["device"] == "cpu" or set(places) == {"cpu"}:
        return 0
    if asked is not None:
        return asked
    most = int(max((node.gpus for node in nodes), default=0.0)) or int(promised)
    if base["device"] == "cuda":
        most = max(1, most)  # it may join yet
    return min(1, most) if device_map is None else most


def _by_preference(
    nodes: Sequence[Node], engines: Mapping[str, EngineView], gpus: int
) -> list[Place]:
    """All places, the best first: away from the head, and from where engines are already."""
    begun = Counter(name.partition("/")[0] for name in engines)

    def rank(node: Node, place: Place) -> tuple[bool, int, str, int]:
        return node.is_head, begun[node.id] + place.index, node.id, place.index

    found = [(rank(node, place), place) for node in nodes for place in places_of(node, gpus)]
    return [place for _, place in sorted(found, key=lambda pair: pair[0])]


def _surplus(engines: Mapping[str, EngineView], count: int, idle_s: float) -> tuple[str, ...]:
    """Engines without a trial; those that are not ready first, then the smallest."""
    idle = [name for name, one in engines.items() if not one.trials and one.idle_s >= idle_s]

    def rank(name: str) -> tuple[bool, float, str]:
        one = engines[name]
        return one.state == "ready", math.inf if one.room is None else one.room, name

    return tuple(sorted(idle, key=rank)[:count])
