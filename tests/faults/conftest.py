"""What the fault tests share: a standing cluster with a warm engine, an MLflow server, a tally."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.opening import engine_options
from tests.faults.aftermath import Aftermath, Scores, chaos_config
from tests.faults.nodes import Standing
from tests.faults.standing import standing_cluster
from tests.faults.tally import RESULTS_VARIABLE, Tally
from tests.integration.mlflow_server import free_port, server


@pytest.fixture(scope="session")
def whole_tally() -> Tally:
    """What all faults of this run did."""
    return Tally()


@pytest.fixture
def tally(whole_tally: Tally) -> Iterator[Tally]:
    """The whole tally, stored after every test where that was asked for.

    Ray ends a process that it believes lost, without a word and without any fixture's end.
    """
    yield whole_tally
    if path := os.environ.get(RESULTS_VARIABLE):
        whole_tally.store(Path(path))


@pytest.fixture(scope="package")
def standing(ray_scratch: Path) -> Iterator[Standing]:
    """A cluster that outlives the drivers of a module's tests."""
    with standing_cluster(ray_scratch) as standing:
        yield standing


@pytest.fixture(scope="package")
def warm_engine(standing: Standing, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A lease that keeps the engine of all chaos searches loaded between them."""
    from orchestrator.engines.ray_fleet import open_fleet

    config = chaos_config("warm")
    with open_fleet(config, engine_options(config), {}, tmp_path_factory.mktemp("warm")) as fleet:
        fleet.wait()
        yield


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server that stays up."""
    with server(tmp_path_factory.mktemp("mlflow"), free_port(), proxied=True) as url:
        yield url


@pytest.fixture(scope="package")
def reference(warm_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """What the chaos search reaches when nothing is done to it."""
    from orchestrator.driver import run
    from orchestrator.tracking import default_uri

    home = tmp_path_factory.mktemp("reference")
    config = chaos_config("reference")
    assert run(config, home=home).state == "complete"
    left = Aftermath(home, config, default_uri(home))
    assert left.check() == 0
    return left.scores()
