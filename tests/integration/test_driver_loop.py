"""The benchmark of the driver's loop through Ray Tune, with a few trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.driver_loop import Loop, run_with_tune
from orchestrator.ray_session import ray_session
from orchestrator.study.audit import audit_search


@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")
def test_trials_that_nobody_trains_go_through_tune(tmp_path: Path) -> None:
    ended: list[None] = []
    loop = Loop(tmp_path, 6, lambda: ended.append(None))
    with ray_session(loop.folder.path) as scratch:
        run_with_tune(loop, scratch)
    loop.close()
    assert len(ended) == 6
    assert audit_search(loop.folder) == []
