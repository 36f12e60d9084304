"""Saved states that a disk has damaged: the last sound one is used, and it is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.fault_names import Fault
from orchestrator.driver import run
from orchestrator.ledger import TrialStatus
from tests.faults.aftermath import Aftermath, Scores, chaos_config
from tests.faults.tally import Tally
from tests.integration.small_search import Interrupt, Watching

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # seconds each on a quiet machine
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
    pytest.mark.usefixtures("warm_engine"),
]


def flip(path: Path) -> None:
    """Turn over one bit of the last number in it."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "all zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_never_used(
    damage: str,
    tmp_path: Path,
    mlflow_url: str,
    reference: Scores,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    config = chaos_config(f"damaged-{damage.replace(' ', '-')}")
    interrupt = Interrupt()
    fault = Fault(f"saved states of running trials: {damage}")
    with tally.trying(fault, "said; an earlier state used; scores of a run without faults") as row:
        watcher = Watching(interrupt.press)
        first = run(config, home=tmp_path, watcher=watcher, interrupt=interrupt)
        assert first.state == "interrupted"
        left = Aftermath(tmp_path, config, mlflow_url)
        hit = [_hit(left, trial.number, damage) for trial in left.trials()
               if trial.status is TrialStatus.RUNNING and trial.step]  # fmt: skip
        assert hit, "no trial had a state"
        assert run(config, home=tmp_path).state == "complete"
        said = {event.trial_uid for event in left.events("state_damaged")}
        assert said == set(hit), f"said of {said}, done to {hit}"
        row.steps_again += left.check(reference)


def _hit(left: Aftermath, number: int, damage: str) -> str:
    uid = left.folder.uid(number)
    states = left.folder.trial(uid).glob("*.safetensors")
    DAMAGE[damage](max(states, key=lambda path: path.stat().st_mtime_ns))
    return uid
