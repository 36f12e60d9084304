"""A fleet on the Ray that this process is connected to."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from orchestrator.engines.cluster import alive_nodes, autoscaler, own_environment, own_node
from orchestrator.engines.fleet import Fleet
from orchestrator.engines.fleet_plan import Cluster, FleetPlan
from orchestrator.engines.handshake import code_digest
from orchestrator.engines.host import RayHost, start_depot
from orchestrator.engines.parcels import Parcel
from orchestrator.engines.placement import engine_gpus
from orchestrator.engines.ray_queue import RayQueue
from orchestrator.errors import SearchLockedError
from orchestrator.search_config import SearchConfig
from orchestrator.study.place import folder_id

logger = logging.getLogger(__name__)

# Of a runtime environment: what brings a search and its code, which `code_digest` tells apart.
_CARRIERS = ("working_dir", "py_modules", "excludes", "config")
_SETTLES_S = 20.0  # after a node came: its engine starts before more nodes are asked for


class Demand:
    """Ask the autoscaler for engines' resources, by tasks that wait for them and do nothing.

    They belong to this driver: one that dies asks for nothing any more. One that is placed ends at
    once, and keeps from nobody what an engine, of this search or of another, is to have.

    Args:
        gpus: of an engine.
        now: seconds on a clock that never goes back.
    """

    def __init__(self, gpus: int, now: Callable[[], float] = time.monotonic) -> None:
        self._gpus = gpus
        self._now = now
        self._asking: list[Any] = []
        self._quiet_until = 0.0

    def __call__(self, count: int) -> None:
        """Have so many ask."""
        placed = [one for one in self._asking if ray.wait([one], timeout=0)[0]]
        if placed:
            self._quiet_until = self._now() + _SETTLES_S
        self._asking = [one for one in self._asking if one not in placed]
        if len(self._asking) > count:  # all, because Ray goes on asking for those of one kind
            for one in self._asking:
                ray.cancel(one)
            self._asking = []
        quiet = self._now() < self._quiet_until
        asked: Any = ray.remote(_placed).options(num_cpus=1, num_gpus=self._gpus, max_retries=0)
        for _ in range(0 if quiet else count - len(self._asking)):
            self._asking.append(asked.remote())


def _placed() -> None:
    """There is room for an engine."""


def pool_name(
    base: Mapping[str, Any],
    options: Mapping[str, Any],
    code: str,
    environment: Mapping[str, Any],
) -> str:
    """The first part of the names of engines with this model, in this way, code and environment.

    Args:
        code: from `code_digest`: searches of different code never meet each other's engines.
        environment: Ray's, of this job; an engine runs in that of the job that has started it.
    """
    asked = {key: value for key, value in environment.items() if key not in _CARRIERS and value}
    variables = {**(asked.pop("env_vars", None) or {})}
    variables.pop("RAY_JOB_STOP_WAIT_TIME_S", None)  # `submit` sets it
    key = [dict(base), dict(options), code, asked, variables]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode())
    return f"engine/{digest.hexdigest()[:16]}"


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
    code = code_digest()
    plan = FleetPlan(
        holder=f"{config.name}@{folder_id(folder)[:12]}",
        folder=folder,
        pool=pool_name(base, options, code, own_environment()),
        gpus=gpus,
        trials_each=config.engine.concurrent_trials,
        most=most or config.engine.count,
        step_timeout_s=config.engine.step_timeout_s,
        parcels=parcels_of(base, task),
    )
    can_grow = scaler is not None or bool(os.environ.get("RAY_ADDRESS"))
    cluster = _cluster(plan, RayQueue(code), can_grow=can_grow)
    fleet = Fleet(plan, RayHost(base, options, gpus, plan.holder), cluster, say)
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


def _cluster(plan: FleetPlan, queue: RayQueue, *, can_grow: bool) -> Cluster:
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
        nodes=alive_nodes,
        autoscaler=autoscaler,
        demand=ask_for,
        depot=depot,
        turn=queue.turn,
        leave=queue.leave,
        can_grow=can_grow,
    )
