"""A Ray cluster that outlives the drivers that are killed on it.

To start one takes longer than a search of these tests.

this process ── Cluster ──► head node, more nodes
     └── RAY_ADDRESS, token ──► doomed drivers, each a process of its own
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.small_search import environment

OBJECT_STORE_BYTES = 100 * 2**20
HEAD_CPUS = 2  # Ray starts so many workers before anybody asks


class Standing:
    """A cluster whose nodes can be taken away and added.

    Args:
        cluster: a `ray.cluster_utils.Cluster`.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    @property
    def address(self) -> str:
        """For RAY_ADDRESS."""
        return str(self._cluster.address)

    def add(self, cpus: int) -> Any:
        """A further node, once it is alive."""
        return self._cluster.add_node(num_cpus=cpus, object_store_memory=OBJECT_STORE_BYTES)

    def remove(self, node: Any) -> None:
        """End a node and all that runs on it, at once."""
        self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def standing_cluster(scratch: Path) -> Iterator[Standing]:
    """A cluster of one node, this process connected to it, and the settings its drivers inherit.

    Args:
        scratch: a short path: Ray's sockets live there, and its token.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in environment(scratch).items():
            patch.setenv(name, value)
        patch.setenv("RAY_AUTH_MODE", "token")
        make_token(scratch)
        with bare_cluster(HEAD_CPUS) as standing:
            patch.setenv("RAY_ADDRESS", standing.address)
            import ray

            ray.init(namespace="latentune", log_to_driver=False)
            try:
                yield standing
            finally:
                ray.shutdown()


@contextmanager
def bare_cluster(head_cpus: int) -> Iterator[Standing]:
    """A cluster of one node, its files in RAY_TMPDIR; this process is not connected to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        from ray.cluster_utils import Cluster

        cluster: Any = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": head_cpus,
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
            },
        )
        try:
            yield Standing(cluster)
        finally:
            cluster.shutdown()


def make_token(home: Path) -> None:
    """The token that Ray reads in HOME; one that is there stays, for processes remember it."""
    path = home / ".ray" / "auth_token"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
