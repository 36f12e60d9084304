"""Look at every node of a cluster: small tasks on each say what it is like there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.doctor import checks
from orchestrator.doctor.facts import Facts, Gpu, facts_of, gpus_here
from orchestrator.doctor.findings import Finding
from orchestrator.engines.cluster import alive_nodes
from orchestrator.engines.placement import Node

_ANSWERS_S = 120.0
_POLL_S = 1.0


@dataclass(kw_only=True)
class Visit:
    """A node that is asked, and what it says.

    Args:
        began, ended: moments of the client's clock, between which it said it.
        problem: what it answered instead.
        gpus: those of its free GPUs that torch sees.
    """

    node: Node
    began: float
    ended: float = 0.0
    facts: Facts | None = None
    problem: str | None = None
    gpus: tuple[Gpu, ...] | None = None

    def hear(self, call: Any, at: float) -> None:
        """Note an answer, or why there is none."""
        try:
            answer = ray.get(call)
        except RayTaskError as error:
            self.problem = (str(error.cause).splitlines() or [type(error.cause).__name__])[0]
        except RayError:
            return  # its node is gone, or its process
        else:
            if isinstance(answer, Facts):
                self.facts, self.ended = answer, at
            else:
                self.gpus = answer


def cluster_findings(
    client: Facts, model: str, expected: int | None, deadline_s: float
) -> tuple[int, list[Finding]]:
    """How many nodes have joined, and what is found on them."""
    nodes, waited_s = wait_for_nodes(alive_nodes, expected, deadline_s)
    findings = [checks.check_joined(len(nodes), expected, waited_s)]
    visits = visit(nodes, model)
    for one in visits:
        findings += node_findings(client, one, model)
    silent = [one for one in visits if one.facts is None]
    return len(nodes), [
        *findings,
        *(checks.check_answer(one.node.name, one.problem) for one in silent),
    ]


def visit(nodes: Sequence[Node], model: str) -> list[Visit]:
    """Ask all nodes at once, and note each answer as it comes."""
    calls: dict[Any, Visit] = {}
    for node in nodes:
        begun = Visit(node=node, began=time.time())
        calls[_ask(node, model)] = begun
        if _free_gpus(node):
            calls[_ask_gpus(node)] = begun
    waiting, deadline = list(calls), time.monotonic() + _ANSWERS_S
    while waiting and (left_s := deadline - time.monotonic()) > 0:
        come, waiting = ray.wait(waiting, timeout=left_s)
        at = time.time()
        for call in come:
            calls[call].hear(call, at)
    return list({one.node.id: one for one in calls.values()}.values())


def node_findings(client: Facts, visit: Visit, model: str) -> list[Finding]:
    """What is found on one node; nothing if it did not say how it is."""
    facts, node = visit.facts, visit.node
    if facts is None:
        return []
    ahead_s = facts.time - (visit.began + visit.ended) / 2
    return [
        checks.check_same_versions(client, facts),
        checks.check_clock(facts.name, ahead_s, visit.ended - visit.began),
        *checks.check_folders(facts),
        *checks.check_disks(facts),
        checks.check_node_gpus(
            facts.name, int(node.gpus), _free_gpus(node), visit.gpus, visit.problem
        ),
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
    """Begin to look at a node."""
    return _task(node, facts_of).remote(node.name, None if _is_sent(model) else model)


def _ask_gpus(node: Node) -> Any:
    """Begin to try all GPUs of a node that are free."""
    return _task(node, gpus_here, num_gpus=_free_gpus(node)).remote()


def _task(node: Node, function: Callable[..., Any], num_gpus: int = 0) -> Any:
    """A task on one node; its process, and what that holds of a GPU, ends with it."""
    remote: Any = ray.remote  # its types know no affinity to a node
    return remote(
        num_cpus=0,
        num_gpus=num_gpus,
        max_retries=0,
        max_calls=1,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
    )(function)


def _free_gpus(node: Node) -> int:
    """How many whole GPUs of a node nobody uses."""
    return int(node.gpus if node.free_gpus is None else node.free_gpus)


def _is_sent(model: str) -> bool:
    """Whether a model is a folder of this machine's."""
    return Path(model).is_dir()
