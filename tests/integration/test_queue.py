"""Searches of several models that wait for one processor: first come, first served."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from orchestrator.engines.actor import NAMESPACE
from orchestrator.engines.cluster import alive_nodes
from orchestrator.engines.fleet import Fleet
from orchestrator.engines.fleet_plan import FleetPlan
from orchestrator.engines.host import RayHost
from orchestrator.engines.ray_fleet import _cluster
from orchestrator.engines.ray_queue import RayQueue, start_queue
from orchestrator.engines.roster import Roster, read_roster
from tests.integration.small_search import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own
TICKET_S = 5.0


class Others:
    """Whoever has a processor."""

    def here(self) -> bool:
        return True


class Claimant:
    """The engines of a search; they look when they are told to, and load no model."""

    def __init__(self, folder: Path, name: str, queue: str) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        plan = FleetPlan(
            holder=name, folder=self.folder, pool=f"engine/{name}", gpus=0, trials_each=1
        )
        host = RayHost({"path": name}, {"threads": 1}, 0, name)
        looks = itertools.count(step=3)  # the clock: each beat is a look
        cluster = _cluster(plan, RayQueue(queue), can_grow=True)
        self.fleet = Fleet(plan, host, cluster, now=lambda: float(next(looks)))

    def look(self) -> Roster:
        self.fleet.beat()
        return read_roster(self.folder)


@pytest.fixture
def last(ray_session: None) -> Iterator[Any]:
    """Who has the last processor until it is killed; the others are taken for good."""
    free_at_first = free()
    actors: list[Any] = [
        ray.remote(Others).options(num_cpus=cpus).remote() for cpus in (free_at_first - 1, 1)
    ]
    ray.get([actor.here.remote() for actor in actors])
    wait_until(lambda: free() == 0)
    yield actors[1]
    for actor in actors:
        ray.kill(actor)
    wait_until(lambda: free() == free_at_first)


def lose_queue(name: str, claimants: list[Claimant]) -> None:
    """What a fleet's thread does then: it looks again."""
    ray.kill(ray.get_actor(f"queue/{name}", namespace=NAMESPACE))
    for claimant in claimants:
        with pytest.raises(RayError):
            claimant.look()
        claimant.look()


def free() -> float:
    (node,) = alive_nodes()
    return node.free_cpus or 0.0


def test_the_next_place_is_the_firsts_though_the_second_looks_first(
    last: Any, tmp_path: Path
) -> None:
    first, second = (Claimant(tmp_path, name, tmp_path.name) for name in ("first", "second"))
    try:
        assert not first.look().engines and not second.look().engines
        told = second.look().waiting
        assert told is not None
        assert (told.kind, told.detail) == ("queued", "waits behind first (1 before it) for CPUs")
        lose_queue(tmp_path.name, [second, first])
        ray.kill(last)
        wait_until(lambda: free() == 1)
        assert not second.look().engines
        assert len(first.look().engines) == 1
        first.fleet.close()
        wait_until(lambda: len(second.look().engines) == 1)
    finally:
        first.fleet.close()
        second.fleet.close()


def test_a_killed_one_is_in_nobodys_way(last: Any, tmp_path: Path) -> None:
    killed: Any = ray.remote(Claimant).options(num_cpus=0).remote(tmp_path, "killed", tmp_path.name)
    ray.get(killed.__ray_ready__.remote())
    start_queue(f"queue/{tmp_path.name}", TICKET_S)  # it ends where nobody comes for so long
    ray.get(killed.look.remote())
    second = Claimant(tmp_path, "second", tmp_path.name)
    try:
        told = second.look().waiting
        assert told is not None and told.detail.startswith("waits behind killed (1 before it)")
        ray.kill(killed)
        ray.kill(last)
        wait_until(lambda: len(second.look().engines) == 1, 10 * TICKET_S)
    finally:
        second.fleet.close()
