"""What Ray knows of the cluster: nodes that are alive, and what its autoscaler does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import state
from ray.experimental import internal_kv

from orchestrator.engines.placement import Node

HEAD_RESOURCE = "node:__internal_head__"
_STATUS_KEY = b"__autoscaling_status"  # where `ray status` reads it


@dataclass(frozen=True)
class Autoscaler:
    """What adds and removes nodes, if anything does.

    Args:
        doing: in words; None where it does nothing.
        promised_gpus: of the largest node that it could add.
    """

    doing: str | None = None
    promised_gpus: float = 0.0


def alive_nodes() -> list[Node]:
    """The machines of the cluster."""
    found: list[Mapping[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    free: Mapping[str, Any] = state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return [as_node(node, free.get(node["NodeID"])) for node in found if node["Alive"]]


def as_node(found: Mapping[str, Any], free: Mapping[str, float] | None = None) -> Node:
    """A line of `ray.nodes()`, with what is free there; what is used up is not listed."""
    resources = found["Resources"]
    return Node(
        id=found["NodeID"],
        name=found.get("NodeManagerHostname") or found["NodeManagerAddress"],
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        is_head=HEAD_RESOURCE in resources,
        free_cpus=None if free is None else free.get("CPU", 0.0),
        free_gpus=None if free is None else free.get("GPU", 0.0),
    )


def own_node() -> str:
    """The id of this process's node."""
    return str(ray.get_runtime_context().get_node_id())


def own_environment() -> dict[str, Any]:
    """Ray's runtime environment of this job, which its actors are started in."""
    return dict(ray.get_runtime_context().runtime_env)


def own_node_resource() -> dict[str, float]:
    """A resource that this process's node alone has: what needs its disk asks for some of it."""
    here = own_node()
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["NodeID"] == here:
            resources = node["Resources"]
            named = [name for name in resources if name.startswith("node:")]
            head = [name for name in named if name == HEAD_RESOURCE]
            return dict.fromkeys((head or named)[:1], 0.001)
    return {}


def autoscaler() -> Autoscaler | None:
    """The cluster's autoscaler; None where there is none, or where it has not said anything.

    Both kinds of autoscaler are asked: the first leaves its status as JSON in Ray's store, the
    second answers a call.
    """
    status = internal_kv._internal_kv_get(_STATUS_KEY)
    told = json.loads(status).get("autoscaler_report") if status else None
    if told is not None:
        return from_report(told)
    return _second_kind()


def from_report(report: Mapping[str, Any]) -> Autoscaler:
    """What the first kind of autoscaler reports."""
    launching = Counter(report.get("pending_launches") or {})
    pending = [(kind, state) for _, kind, state in report.get("pending_nodes") or []]
    failed = [kind for _, kind in report.get("failed_nodes") or []]
    return Autoscaler(in_words(launching, pending, failed))


def in_words(
    launching: Mapping[str, int], pending: Iterable[tuple[str, str]], failed: Iterable[str]
) -> str | None:
    """What an autoscaler does, for people.

    Args:
        launching: type of node to how many were asked of the cloud.
        pending: type and state of nodes that exist and have not joined: `setting-up` is where an
            image is pulled.
        failed: types of nodes that could not be started.
    """
    parts = [f"{count} {kind} asked of the cloud" for kind, count in sorted(launching.items())]
    states = Counter(pending)
    parts += [f"{count} {kind} {state}" for (kind, state), count in sorted(states.items())]
    parts += [f"{count} {kind} failed" for kind, count in sorted(Counter(failed).items())]
    return f"the autoscaler starts nodes: {', '.join(parts)}" if parts else None


def _second_kind() -> Autoscaler | None:
    config: Any = state.state.get_cluster_config()
    if config is None or not config.node_group_configs:
        return None
    from ray.autoscaler.v2.sdk import get_cluster_status

    found = get_cluster_status(ray.get_runtime_context().gcs_address)
    launching = Counter[str]()
    for request in found.pending_launches:
        launching[request.ray_node_type_name] += request.count
    pending = [
        (node.ray_node_type_name, str(node.details or node.node_status or "pending"))
        for node in found.pending_nodes
    ]
    groups = [group for group in config.node_group_configs if group.max_count]
    promised = max((group.resources.get("GPU", 0.0) for group in groups), default=0.0)
    failed = [node.ray_node_type_name for node in found.failed_nodes]
    return Autoscaler(in_words(launching, pending, failed), promised)
