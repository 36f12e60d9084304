"""A fleet on the Ray that this process is connected to."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from orchestrator.engines.cluster import alive_nodes, autoscaler, own_node
from orchestrator.engines.fleet import Cluster, Fleet, FleetPlan, pool_name
from orchestrator.engines.handshake import code_digest
from orchestrator.engines.host import RayHost, start_depot
from orchestrator.engines.parcels import Parcel
from orchestrator.engines.placement import engine_gpus
from orchestrator.errors import SearchLockedError
from orchestrator.search_config import SearchConfig

logger = logging.getLogger(__name__)

_SETTLES_S = 20.0  # after a node came: its engine starts before more nodes are asked for


class Demand:
    """Ask the autoscaler for engines' resources, by actors that wait for them.

    They belong to this driver: one that dies asks for nothing any more. One that is placed has
    done its work, and makes room for the engine.

    Args:
        gpus: of an engine.
        now: seconds on a clock that never goes back.
    """

    def __init__(self, gpus: int, now: Callable[[], float] = time.monotonic) -> None:
        self._gpus = gpus
        self._now = now
        self._asking: list[tuple[Any, Any]] = []
        self._quiet_until = 0.0

    def __call__(self, count: int) -> None:
        """Have so many ask."""
        placed = [one for one in self._asking if ray.wait([one[1]], timeout=0)[0]]
        if placed:
            self._quiet_until = self._now() + _SETTLES_S
        waiting = [one for one in self._asking if one not in placed]
        for actor, _ in [*placed, *waiting[count:]]:
            ray.kill(actor)
        self._asking = waiting[:count]
        quiet = self._now() < self._quiet_until
        for _ in range(0 if quiet else count - len(self._asking)):
            asking: Any = ray.remote(Asking).options(num_cpus=1, num_gpus=self._gpus).remote()
            self._asking.append((asking, asking.here.remote()))


class Asking:
    """An actor that is there to be waited for."""

    def here(self) -> bool:
        """It has been placed."""
        return True


def parcels_of(base: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Parcel]:
    """The files of this machine that a search's engines read: a model's folder, data files."""
    paths = [str(base["path"])] if Path(str(base["path"])).is_dir() else []
    digests = task.get("sha256") or {}
    paths += [path for files in digests.values() for path in files]
    return {path: Parcel.of(path) for path in dict.fromkeys(paths)}


@contextmanager
def open_fleet(
    config: SearchConfig,
    engine: tuple[Mapping[str, Any], Mapping[str, Any]],
    task: Mapping[str, Any],
    folder: Path,
    say: Callable[[str], None] = logger.warning,
    *,
    most: int | None = None,
) -> Iterator[Fleet]:
    """The engines of a search, kept while this context lasts.

    Args:
        engine: as `engine_options` returns it.
        task: the options of its task, with the digests of the files that it reads.
        folder: the search's.
        most: engines, in the place of `engine.count`.
    """
    base, options = engine
    nodes, scaler = alive_nodes(), autoscaler()
    promised = 0.0 if scaler is None else scaler.promised_gpus
    gpus = engine_gpus(base, config.engine.gpus, nodes, promised)
    plan = FleetPlan(
        holder=config.name,
        folder=folder,
        pool=pool_name(base, options, code_digest()),
        gpus=gpus,
        trials_each=config.engine.concurrent_trials,
        most=most or config.engine.count,
        step_timeout_s=config.engine.step_timeout_s,
        parcels=parcels_of(base, task),
    )
    cluster = _cluster(plan, can_grow=scaler is not None or bool(os.environ.get("RAY_ADDRESS")))
    fleet = Fleet(plan, RayHost(base, options, gpus, config.name), cluster, say)
    thread = threading.Thread(target=fleet.run, name="fleet", daemon=True)
    thread.start()
    try:
        yield fleet
    except SearchLockedError:
        fleet.is_taken_over = True
        raise
    finally:
        fleet.close(keep=fleet.is_kept)
        thread.join()


def _cluster(plan: FleetPlan, *, can_grow: bool) -> Cluster:
    here, depots = own_node(), list[Any]()
    demand = Demand(plan.gpus)

    def depot(node: str) -> Any:
        if node == here:
            return None
        if not depots:
            depots.append(start_depot(here, plan.parcels))
        return depots[0]

    def ask_for(count: int) -> None:
        demand(count if autoscaler() is not None else 0)

    return Cluster(
        nodes=alive_nodes, autoscaler=autoscaler, demand=ask_for, depot=depot, can_grow=can_grow
    )
