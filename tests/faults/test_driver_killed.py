"""The driver is killed at twenty instants that a seed draws, and the search is run again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.fault_names import Fault
from orchestrator.config import SearchConfig
from orchestrator.driver import run
from orchestrator.events import read_events
from orchestrator.ledger import read_study
from orchestrator.tracking import default_uri
from tests.faults.aftermath import Aftermath, Scores, chaos_config
from tests.faults.doomed import AT, INSTANTS
from tests.faults.drivers import kill_driver, kill_on_the_clock
from tests.faults.tally import Tally

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
    pytest.mark.usefixtures("warm_engine"),
]

SEED = 6
KILLS = 20
LONGEST_INTERVAL = 4  # steps between two reports
NOTED_S = 1.0  # between two notes of the time, of each run
LONGEST_MS = 4000  # about what the trials of a chaos search take
CHECKED = (
    "trials, ends, runs, points exactly once; configurations and scores of a run without faults"
)
EARLY_STOPPED = [("before-tell", 3), ("after-tell", 5), ("result", 7), (AT, 1500)]
CHECKED_DECISIONS = "every recorded decision replayed from the recorded reports"
CHECKED_BUDGET = "steps at most one report interval over; time counted once"
# How often a search of four trials and three reports comes to an instant, at least.
OFTEN = {"before-ask": 4, "during-ask": 4, "after-ask": 4, "artifact": 4, "shipping": 1}


def drawn_instants(seed: int = SEED) -> list[tuple[str, int]]:
    """Every named instant once, and moments on the clock."""
    chance = random.Random(seed)  # noqa: S311 - faults, no secrets
    named = [(name, chance.randint(1, OFTEN.get(name, 12))) for name in INSTANTS]
    return named + [(AT, chance.randrange(LONGEST_MS)) for _ in range(KILLS - len(named))]


def killed(
    named: Callable[[str], SearchConfig], folder: Path, instant: str, count: int
) -> tuple[SearchConfig, Path]:
    """A search whose driver was killed, at a named instant or at a moment on the clock."""
    if instant == AT:
        return kill_on_the_clock(named, folder, [count])
    config, home = named("0"), folder / "home-0"
    assert kill_driver(config, home, instant, count), "the instant never came"
    return config, home


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("instant", "count"), drawn_instants())
def test_what_a_killed_driver_left_is_finished(
    instant: str,
    count: int,
    tmp_path: Path,
    mlflow_url: str,
    reference: Scores,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)

    def named(ending: str) -> SearchConfig:
        return chaos_config(f"killed-{instant}-{count}-{ending}")

    with tally.trying(Fault.DRIVER, CHECKED) as row:
        config, home = killed(named, tmp_path, instant, count)
        assert run(config, home=home).state == "complete"
        row.steps_again += Aftermath(home, config, mlflow_url).check(reference)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("instant", "count"), EARLY_STOPPED)
def test_decisions_follow_from_the_recorded_order_of_reports(
    instant: str,
    count: int,
    tmp_path: Path,
    mlflow_url: str,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)

    def named(ending: str) -> SearchConfig:
        return chaos_config(
            f"stopped-{instant}-{count}-{ending}", budget={"trials": 6, "steps": 8},
            stopping={"kind": "asha", "min_steps": 2, "factor": 2, "metric": "val_id/nll"},
            sampler={"kind": "tpe", "startup_trials": 2},
        )  # fmt: skip

    with tally.trying(Fault.DRIVER_STOPPING, CHECKED_DECISIONS) as row:
        config, home = killed(named, tmp_path, instant, count)
        assert run(config, home=home).state == "complete"
        row.steps_again += Aftermath(home, config, mlflow_url).check()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_again_and_again(
    tmp_path: Path,
    mlflow_url: str,
    reference: Scores,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    chance = random.Random(SEED + 1)  # noqa: S311 - faults, no secrets
    moments_ms = [chance.randrange(LONGEST_MS // 2) for _ in range(5)]
    with tally.trying(Fault.DRIVER_AGAIN, CHECKED) as row:
        config, home = kill_on_the_clock(
            lambda ending: chaos_config(f"killed-again-{ending}"), tmp_path, moments_ms
        )
        assert run(config, home=home).state == "complete"
        row.steps_again += Aftermath(home, config, mlflow_url).check(reference)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("instant", "count"), [("after-tell", 2), ("before-tell", 4)])
def test_a_budget_is_spent_once(
    instant: str,
    count: int,
    tmp_path: Path,
    mlflow_url: str,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    budget = {"trials": 4, "steps": 8, "total_steps": 20}
    config = chaos_config(f"budget-{instant}", budget=budget)
    home = tmp_path / "home"
    with tally.trying(Fault.DRIVER_BUDGET, CHECKED_BUDGET):
        began = time.monotonic()
        assert kill_driver(config, home, instant, count)
        result = run(config, home=home)
        assert result.state == "spent"
        took_s = time.monotonic() - began
        left = Aftermath(home, config, mlflow_url)
        spent = sum(trial.step for trial in left.trials())
        assert 20 <= spent <= 20 + LONGEST_INTERVAL, f"{spent} steps of a budget of 20"
        counted_s = read_study(left.folder.path, config.name).user_attrs["spent_s"]
        assert counted_s <= took_s, f"{counted_s} s counted of {took_s}"
        told_s = _told_s(left.folder.events)
        assert counted_s >= told_s - 2 * NOTED_S, f"{counted_s} s counted of {told_s} told"
        assert run(config, home=home).state == "spent"
        assert sum(trial.step for trial in left.trials()) == spent


def _told_s(log: Path) -> float:
    """Seconds between the first and the last event of each run, added up."""
    total = first = last = 0.0
    for event in read_events(log):
        if event.type == "search_started":
            total, first = total + last - first, event.time
        last = event.time
    return total + last - first


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("instant", "count"), [("during-ask", 2), ("before-tell", 3)])
def test_a_killed_driver_costs_nothing(
    instant: str,
    count: int,
    tmp_path: Path,
    reference: Scores,
    tally: Tally,
) -> None:
    config, home = chaos_config("killed"), tmp_path / "home"
    with tally.trying(Fault.DRIVER, CHECKED) as row:
        assert kill_driver(config, home, instant, count)
        assert run(config, home=home).state == "complete"
        row.steps_again += Aftermath(home, config, default_uri(home)).check(reference)
