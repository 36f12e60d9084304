"""A Ray cluster that outlives the drivers that are killed on it.

To start one takes longer than a search of these tests.

another process ── Cluster ──► head node, more nodes
this process ── RAY_ADDRESS, token ──► doomed drivers, each a process of its own
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.nodes import Standing, bare_cluster
from tests.integration.small_search import environment

HEAD_CPUS = 2  # Ray starts so many workers before anybody asks


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


def make_token(home: Path) -> None:
    """The token that Ray reads in HOME; one that is there stays, for processes remember it."""
    path = home / ".ray" / "auth_token"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
