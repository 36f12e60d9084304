"""What a fleet is to be, and what it asks of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.engines.cluster import Autoscaler
from orchestrator.engines.parcels import Parcel
from orchestrator.engines.placement import Node
from orchestrator.engines.queue import Ticket, Turn

MOST_ENGINES = 16  # of one search: their trials' processes are all on the driver's machine


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """What a fleet is to be.

    Args:
        holder: the search's name on leases and on its trials: NAME@ID, because two folders may
            have a search of one name.
        folder: the search's; the roster goes there.
        pool: the first part of its engines' names; see `pool_name`.
        gpus: of an engine.
        trials_each: that an engine takes.
        most: engines; None for as many as there is work for.
        step_timeout_s: `engine.step_timeout_s`.
        parcels: files of this machine that engines need.
    """

    holder: str
    folder: Path
    pool: str
    gpus: int
    trials_each: int
    most: int | None = None
    step_timeout_s: float | None = None
    parcels: Mapping[str, Parcel] = field(default_factory=dict)

    @property
    def most_trials(self) -> int:
        """The most trials that may ever run at once: each is a small process of the driver's."""
        return self.trials_each * min(self.most or MOST_ENGINES, MOST_ENGINES)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a fleet asks of the cluster; Ray, or a test's own.

    Args:
        nodes: those that are alive.
        autoscaler: what it does; None where there is none.
        demand: ask for so many more engines' resources; called with 0 to take that back.
        depot: where engines fetch parcels, by the id of their node; None on our own.
        turn: what this search may do now, among all that share the cluster; see `Queue`.
        leave: give a ticket back, by its id.
        can_grow: whether a node may join that is not there.
    """

    nodes: Callable[[], list[Node]]
    autoscaler: Callable[[], Autoscaler | None]
    demand: Callable[[int], None]
    depot: Callable[[str], Any]
    turn: Callable[[Ticket, Sequence[Node]], Turn]
    leave: Callable[[str], None]
    can_grow: bool
