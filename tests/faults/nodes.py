"""A Ray cluster in a process of its own, whose nodes come and go as that process is told.

    tests ── Standing ── pipe ──► serve ── ray.cluster_utils.Cluster ──► head, more nodes

A process has one client of Ray's key-value store, and a second `Cluster` takes it from the first:
the fleet of a warm engine then asks the store of a cluster that is gone, and Ray ends a process, by
`_exit`, whose store has not answered for 60 s. So the tests' process makes no cluster itself.
"""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

OBJECT_STORE_BYTES = 100 * 2**20
ENDED_S = 60.0


class Standing:
    """A cluster whose nodes can be taken away and added.

    Args:
        cluster: the pipe to the process that has it.
    """

    def __init__(self, cluster: Connection) -> None:
        self._cluster = cluster
        self._address = str(cluster.recv())

    @property
    def address(self) -> str:
        """For RAY_ADDRESS."""
        return self._address

    def add(self, cpus: int) -> int:
        """A further node, once it is alive; its number."""
        return self._told("add", cpus)

    def remove(self, node: int) -> None:
        """End a node and all that runs on it, at once."""
        self._told("remove", node)

    def _told(self, order: str, number: int) -> int:
        self._cluster.send((order, number))
        return int(self._cluster.recv())


@contextmanager
def bare_cluster(head_cpus: int) -> Iterator[Standing]:
    """A cluster of one node, its files in RAY_TMPDIR; this process is not connected to it."""
    spawn = multiprocessing.get_context("spawn")  # without this process's threads and modules
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(there, head_cpus))
    process.start()
    there.close()
    try:
        yield Standing(here)
    finally:
        here.close()
        process.join(ENDED_S)
        process.kill()
        process.join()


def serve(orders: Connection, head_cpus: int) -> None:
    """Have a cluster, and add and remove nodes, until the pipe ends with whoever gives orders."""
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the tests, which then end this
    warnings.simplefilter("ignore")  # Ray's own
    from ray.cluster_utils import Cluster

    head = {"num_cpus": head_cpus, "include_dashboard": False}
    memory = {"object_store_memory": OBJECT_STORE_BYTES}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head | memory)
    nodes: list[Any] = []
    try:
        orders.send(cluster.address)
        with suppress(EOFError, OSError):
            while True:
                order, number = orders.recv()
                if order == "add":
                    nodes.append(cluster.add_node(num_cpus=number, **memory))
                    number = len(nodes) - 1
                else:
                    cluster.remove_node(nodes[number], allow_graceful=False)
                orders.send(number)
    finally:
        cluster.shutdown()
