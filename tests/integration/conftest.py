"""One Ray for the tests that search: to start it takes longer than to search."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.small_search import environment


@pytest.fixture(scope="module")
def ray_session(ray_scratch: Path) -> Iterator[None]:
    """A Ray of four processors, and the settings that its searches' processes need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in environment(ray_scratch).items():
            patch.setenv(name, value)
        import ray

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(
                namespace="latentune",
                num_cpus=4,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=100 * 2**20,
            )
        try:
            yield
        finally:
            ray.shutdown()
