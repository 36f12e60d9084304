"""Look at every node of a cluster: a small task on each says what it is like there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.doctor import checks
from orchestrator.doctor.facts import Facts, facts_of
from orchestrator.doctor.findings import Finding
from orchestrator.engines.cluster import alive_nodes
from orchestrator.engines.placement import Node
from orchestrator.errors import ClusterError

NODE_FOLDERS = ["~/.cache/latentune"]
_ANSWERS_S = 120.0
_POLL_S = 1.0


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to a cluster, for as long as this lasts.

    Raises:
        ClusterError: if there is none to be had.
    """
    try:
        ray.init(
            address=address,
            namespace="latentune",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, RayError, ValueError) as error:
        raise ClusterError(str(error).strip().splitlines()[0]) from error
    try:
        yield
    finally:
        ray.shutdown()


def cluster_findings(
    client: Facts, model: str, expected: int | None, deadline_s: float
) -> tuple[int, list[Finding]]:
    """How many nodes have joined, and what is found on them."""
    nodes, waited_s = wait_for_nodes(alive_nodes, expected, deadline_s)
    findings = [checks.check_joined(len(nodes), expected, waited_s)]
    asked = {node.id: (node, time.time(), _ask(node, model)) for node in nodes}
    silent = []
    for node, began, call in asked.values():
        try:
            facts: Facts = ray.get(call, timeout=_ANSWERS_S)
        except (GetTimeoutError, RayError):
            silent.append(node.name)
            continue
        findings += node_findings(client, node, facts, model, began, time.time())
    return len(nodes), [*findings, *checks.check_answers(silent)]


def node_findings(
    client: Facts, node: Node, facts: Facts, model: str, began: float, ended: float
) -> list[Finding]:
    """What is found on one node, from what it said between two moments of the client's clock."""
    ahead_s = facts.time - (began + ended) / 2
    return [
        checks.check_same_versions(client, facts),
        checks.check_clock(facts.name, ahead_s, ended - began),
        *checks.check_folders(facts),
        checks.check_disk(facts),
        checks.check_gpu(facts, int(node.gpus), in_use=_in_use(node)),
        checks.check_model(facts, model, is_sent=_is_sent(model)),
    ]


def wait_for_nodes(
    nodes: Callable[[], list[Node]],
    expected: int | None,
    deadline_s: float,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[list[Node], float]:
    """The nodes, once as many have joined as are expected, or the deadline is over."""
    began = now()
    found = nodes()
    while expected is not None and len(found) < expected and now() - began < deadline_s:
        sleep(_POLL_S)
        found = nodes()
    return found, now() - began


def _ask(node: Node, model: str) -> Any:
    """Begin to look at a node; its GPU is tried where one is free."""
    try_gpu = node.gpus > 0 and not _in_use(node)
    look: Any = facts_of  # ray's types know only what takes nothing
    return (
        ray.remote(look)
        .options(
            num_cpus=0,
            num_gpus=int(try_gpu),
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        .remote(
            node.name,
            NODE_FOLDERS,
            None if _is_sent(model) else model,
            try_gpu=try_gpu,
        )
    )


def _in_use(node: Node) -> bool:
    """Whether a node has GPUs and none of them is free to be tried."""
    return bool(node.gpus) and node.free_gpus is not None and node.free_gpus < 1


def _is_sent(model: str) -> bool:
    """Whether a model is a folder of this machine's."""
    return Path(model).is_dir()
