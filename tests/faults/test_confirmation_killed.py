"""A driver that is killed while it confirms: run again, it pays nothing twice and says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fault_names import Fault
from orchestrator.confirmation_record import ConfirmationRecord, read_confirmation
from orchestrator.driver import run
from tests.faults.aftermath import Aftermath, chaos_config
from tests.faults.drivers import kill_driver
from tests.faults.tally import Tally

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
    pytest.mark.usefixtures("warm_engine"),
]

CHECKED = "members, ends, runs, points exactly once; the verdict of a run without faults"
CONFIRM = {"top": 1, "seeds": 2, "control_lr_factors": [1.0]}
CONFIG = chaos_config("confirmed", confirm=CONFIRM)
ROUNDING = 1e-4  # as of the searches' scores


@pytest.fixture(scope="module")
def unharmed(warm_engine: None, tmp_path_factory: pytest.TempPathFactory) -> ConfirmationRecord:
    """What a confirmation says to which nothing is done."""
    home = tmp_path_factory.mktemp("unharmed")
    record = run(CONFIG, home=home).confirmation
    assert record is not None
    return record


@pytest.mark.parametrize(("instant", "count"), [("member-told", 3), ("items", 2), ("verdict", 1)])
def test_a_confirmation_goes_on_where_its_driver_was_killed(
    instant: str,
    count: int,
    tmp_path: Path,
    mlflow_url: str,
    unharmed: ConfirmationRecord,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    told = {"experiment": f"confirmed-{instant}", "report": False}
    config = chaos_config("confirmed", confirm=CONFIRM, tracking=told)
    home = tmp_path / "home"
    with tally.trying(Fault.DRIVER_CONFIRMING, CHECKED) as row:
        assert kill_driver(config, home, instant, count), "the instant never came"
        result = run(config, home=home)
        assert result.state == "complete"
        left = Aftermath(home, config, mlflow_url)
        row.steps_again += left.check()
        record = result.confirmation
        assert record is not None
        assert record == read_confirmation(left.folder.confirmation)
        assert (record.state, record.verdict) == (unharmed.state, unharmed.verdict)
        assert [arm.key for arm in record.arms] == [arm.key for arm in unharmed.arms]
        for arm, other in zip(record.arms, unharmed.arms, strict=True):
            assert arm.uids == other.uids
            assert arm.validation == pytest.approx(other.validation, abs=ROUNDING)
            means = [score.mean for score in other.scores]
            assert [score.mean for score in arm.scores] == pytest.approx(means, abs=ROUNDING)
