"""A confirmation on a real Ray: at a search's end, again, and after it was stopped."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.cli import main
from orchestrator.config import SearchConfig
from orchestrator.confirmation import confirm
from orchestrator.confirmation_record import ConfirmationRecord
from orchestrator.driver import run
from orchestrator.errors import ConfirmationError, ConfirmationHaltedError
from orchestrator.results import read_result
from tests.integration.small_search import EXPERIMENT, Left, small_config

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
    pytest.mark.usefixtures("ray_session"),
]


def confirming(base_model: Path, **changed: Any) -> SearchConfig:
    section = {"top": 2, "seeds": 2, "control_lr_factors": [1.0, 2.0]}
    return SearchConfig.model_validate(small_config(base_model, confirm=section, **changed))


class StopAt:
    """An interrupt that is pressed when the confirmation says a certain thing."""

    def __init__(self, word: str) -> None:
        self.event = threading.Event()
        self._word = word

    def say(self, line: str) -> None:
        if self._word in line:
            self.event.set()


def test_a_search_is_confirmed_at_its_end_and_once(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = confirming(tiny_folder)
    result = run(config, home=tmp_path)
    record = result.confirmation
    assert result.state == "complete"
    assert record is not None
    left = Left(tmp_path, config)
    assert left.events("confirm_ended")[-1].payload["state"] == record.state
    controls = [arm.control or "" for arm in record.arms]
    assert "no latents" in controls
    assert any(control.startswith("as many sites, at random (no. ") for control in controls)
    assert all(arm.left_out is None for arm in record.arms)
    assert "test_ood has what val_ood lacked: 4 (equations)" in record.notes
    _every_item_is_kept(left, record)
    _every_member_is_told_once(left)

    written = left.folder.events.read_bytes()
    assert run(config, home=tmp_path).confirmation == record
    assert confirm(config.name, home=tmp_path) == record
    monkeypatch.setenv("LATENTUNE_HOME", str(tmp_path))
    for arguments in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["latentune", "confirm", config.name, *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    assert ConfirmationRecord.model_validate_json(capsys.readouterr().out) == record
    assert left.folder.events.read_bytes() == written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "there is no search 'nowhere'"),
        (["small", "--set", "budget.trials=9"], "only fields of `confirm`"),
        (["small", "--set", "confirm.seeds=1"], "expected greater than or equal to 2"),
    ],
)
def test_the_command_refuses(
    arguments: list[str],
    words: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = confirming(tiny_folder)
    folder = Left(tmp_path, config).folder
    folder.path.mkdir(parents=True)
    folder.study.touch()
    folder.config.write_text(config.to_yaml())
    monkeypatch.setenv("LATENTUNE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["latentune", "confirm", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert words in err


def _every_item_is_kept(left: Left, record: Any) -> None:
    items = pq.read_table(left.folder.confirm / "items.parquet")
    per_member = 2 * 2 + 2  # rows of test_id at two lengths, and of test_ood at one
    uids = [uid for arm in record.arms for uid in arm.uids]
    assert Counter(items["member"].to_pylist()) == Counter(dict.fromkeys(uids, per_member))


def _every_member_is_told_once(left: Left) -> None:
    ended = [e for e in left.events("trial_ended") if e.payload.get("stage") == "confirm"]
    uids = [e.trial_uid for e in ended]
    assert len(uids) == len(set(uids))
    for uid in uids:
        assert left.runs()[str(uid)] == 1
    assert any("test_ood/exact_match/4" in e.payload["metrics"] for e in ended)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["training", "scoring"])
def test_a_stopped_confirmation_goes_on(tiny_folder: Path, tmp_path: Path, word: str) -> None:
    config = confirming(tiny_folder)
    run(config.model_copy(update={"confirm": config.confirm.model_copy(
        update={"enabled": False})}), home=tmp_path)  # fmt: skip
    override = ["confirm.top=2", "confirm.seeds=2", "confirm.control_lr_factors=[1.0]"]
    stop = StopAt(word)
    with pytest.raises(ConfirmationHaltedError):
        confirm(config.name, override, home=tmp_path, interrupt=stop.event, say=stop.say)
    left = Left(tmp_path, config)
    assert left.events("confirm_ended")[-1].payload["state"] == "interrupted"
    record = confirm(config.name, override, home=tmp_path)
    _every_item_is_kept(left, record)
    _every_member_is_told_once(left)
    steps = Counter(
        (e.trial_uid, step)
        for e in left.events("trial_report")
        for step, _ in e.payload["curve"]
        if e.trial_uid is not None and "-confirm-" in e.trial_uid
    )
    assert set(steps.values()) == {1}  # no step is paid twice


def test_only_the_confirm_section_can_be_changed(tiny_folder: Path, tmp_path: Path) -> None:
    config = confirming(tiny_folder)
    folder = Left(tmp_path, config).folder
    folder.path.mkdir(parents=True)
    folder.study.touch()
    with pytest.raises(ConfirmationError, match="only fields of `confirm`"):
        confirm(config.name, ["budget.trials=9"], home=tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_budget_that_ends_a_search_is_an_end_with_report_and_confirmation(
    tiny_folder: Path, tmp_path: Path
) -> None:
    budget = {"trials": 5, "steps": 6, "total_steps": 7, "money": 100.0, "price_per_hour": 1.0}
    told = {"experiment": EXPERIMENT, "report": True}
    stopping = {"kind": "none"}

    def config(**changed: Any) -> SearchConfig:
        return confirming(
            tiny_folder, budget=budget | changed, tracking=told, stopping=stopping,
        )  # fmt: skip

    first = run(config(), home=tmp_path)
    left = Left(tmp_path, config())
    assert (first.state, left.events("search_ended")[-1].payload["state"]) == ("spent", "spent")
    assert len(first.trials) == 2  # a third would have begun above the budget
    assert first.confirmation is not None
    assert (left.folder.path / "report" / "report.html").exists()
    cost, spent = first.confirm_cost, first.spent
    assert cost is not None and cost.estimate is not None and spent is not None
    assert 0 < cost.steps <= cost.estimate.steps
    assert cost.estimate.seconds is not None
    assert spent.confirm_steps == cost.steps
    assert spent.time_s >= spent.confirm_s == pytest.approx(cost.seconds)
    assert spent.over == ["total_steps"]
    read = read_result(left.folder, "sqlite:///x.db")
    assert (read.state, read.spent) == ("spent", spent)

    written = left.folder.events.read_bytes()
    again = run(config(), home=tmp_path)
    assert (again.state, again.confirmation) == ("spent", first.confirmation)
    assert left.folder.events.read_bytes() == written  # nothing was confirmed twice

    whole = run(config(total_steps=100), home=tmp_path)
    assert (whole.state, len(whole.trials)) == ("complete", 5)
    assert whole.confirmation is not None
    ended = [e.trial_uid for e in left.events("trial_ended")]
    assert len(ended) == len(set(ended))
