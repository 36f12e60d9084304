"""A thin trial: rung by rung, past lost engines, and from where it was cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError

from orchestrator import thin_trial
from orchestrator.assignment import TrialReport
from orchestrator.checkpoints import load_state, save_state
from orchestrator.thin_trial import ThinTrial
from trainable.errors import DiskFullError, NumericError, StateError, UnknownTrialError

RUNGS = [2, 4, 8]


class FakeTrial(ThinTrial):
    """A thin trial whose engine is a list of answers: an exception, or None for success."""

    def __init__(
        self,
        folder: Path,
        start_step: int = 0,
        answers: tuple[Any, ...] = (),
        reported: bool = False,
    ) -> None:
        self.answers = list(answers)
        self.goals: list[int] = []
        self.setup(
            {
                "uid": "tiny-0",
                "number": 0,
                "attempt": 1,
                "config": {},
                "data": {},
                "start_step": start_step,
                "rungs": RUNGS,
                "splits": ["val_id"],
                "engine": "e",
                "folder": str(folder),
                "reported": reported,
            }
        )

    def _ask_engine(self, goal: int) -> dict[str, Any]:
        self.goals.append(goal)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        self._joined = True
        step = goal if answer is None else answer
        metrics = {"m": 0.5} if answer is None else {}
        told = {"curve": [(step, 1.0)], "metrics": metrics, "paused": answer is not None}
        return {"step": step, "state": str(step).encode(), **told}

    def told(self) -> TrialReport:
        report: TrialReport = self.step()["report"]
        return report


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thin_trial, "_RETRY_S", 0.0)


def test_each_step_is_a_rung_and_saves_its_state(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path)
    for rung in RUNGS:
        assert trial.told() == TrialReport("tiny-0", 0, 1, rung, {"m": 0.5}, [(rung, 1.0)])
        assert load_state(tmp_path, rung) == str(rung).encode()
    assert trial.goals == RUNGS


def test_a_pause_is_reported_where_it_stands(tmp_path: Path) -> None:
    report = FakeTrial(tmp_path, answers=(3,)).told()
    assert (report.step, report.paused, report.metrics) == (3, True, {})
    assert load_state(tmp_path, 3) == b"3"


@pytest.mark.parametrize(
    ("start", "goals"),
    [(0, [2, 4, 8]), (1, [2, 4, 8]), (2, [2, 4, 8]), (3, [4, 8]), (8, [8])],
)
def test_it_goes_on_from_its_step_and_repeats_a_rung(
    tmp_path: Path, start: int, goals: list[int]
) -> None:
    """It was paused on the rung where it goes on from, or its report was lost."""
    trial = FakeTrial(tmp_path, start)
    for _ in goals:
        trial.told()
    assert trial.goals == goals


@pytest.mark.parametrize(("start", "goals"), [(2, [4, 8]), (4, [8])])
def test_a_rung_that_the_ledger_knows_is_not_paid_again(
    tmp_path: Path, start: int, goals: list[int]
) -> None:
    trial = FakeTrial(tmp_path, start, reported=True)
    for _ in goals:
        trial.told()
    assert trial.goals == goals


def test_it_waits_for_a_lost_engine(tmp_path: Path) -> None:
    lost = (RayActorError(), UnknownTrialError("forgotten"), RayActorError())
    trial = FakeTrial(tmp_path, answers=lost)
    assert trial.told().step == RUNGS[0]
    assert trial.goals == [RUNGS[0]] * 4


def test_it_gives_up_when_no_engine_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thin_trial, "_ENGINE_WAIT_S", 0.05)
    with pytest.raises(RayActorError):
        FakeTrial(tmp_path, answers=(RayActorError(),) * 100_000).told()


def test_the_wait_begins_with_the_loss_not_with_the_rung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rung of a large model takes longer than an engine needs to restart."""
    clock = [0.0]
    monkeypatch.setattr("orchestrator.thin_trial.time.monotonic", lambda: clock[0])
    trial = FakeTrial(tmp_path, answers=(RayActorError(),))
    answer = trial._ask_engine

    def slow(goal: int) -> dict[str, Any]:
        clock[0] += 1000.0
        return answer(goal)

    trial._ask_engine = slow  # type: ignore[method-assign]
    assert trial.told().step == RUNGS[0]


def test_its_own_fault_is_reported_not_tried_again(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path, 2, answers=(NumericError("lower optim.lr"),))
    report = trial.told()
    assert (report.step, report.failed, report.failure) == (2, "lower optim.lr", "numeric")
    assert trial.goals == [2]


def raised_in_engine(error: Exception) -> Exception:
    """As it comes out of an actor's method."""
    raised: Exception = RayTaskError("train", "its traceback", error).as_instanceof_cause()
    return raised


def test_a_bug_in_the_engine_is_reported_once_and_its_traceback_kept(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path, answers=(raised_in_engine(ZeroDivisionError("by zero")),))
    report = trial.told()
    assert (report.failed, report.failure) == ("ZeroDivisionError: by zero", "bug")
    assert trial.goals == [2]
    assert "its traceback" in (tmp_path / "error.txt").read_text()


def test_memory_that_ran_out_is_tried_once_more(tmp_path: Path) -> None:
    out = raised_in_engine(MemoryError("no room"))
    trial = FakeTrial(tmp_path, answers=(out,))
    assert (trial.told().step, trial.goals) == (2, [2, 2])
    trial = FakeTrial(tmp_path, answers=(out, out))
    report = trial.told()
    assert (report.failed, report.failure) == ("MemoryError: no room", "out_of_memory")
    assert trial.goals == [2, 2]


def test_a_broken_device_is_raised_for_tune_to_start_again(tmp_path: Path) -> None:
    broken = raised_in_engine(RuntimeError("CUDA error: ECC"))
    with pytest.raises(RuntimeError) as caught:
        FakeTrial(tmp_path, answers=(broken,)).told()
    assert caught.value is broken


def test_a_bug_of_the_trial_s_own_is_raised_for_tune_to_see(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        FakeTrial(tmp_path, answers=(ZeroDivisionError(),)).told()


def test_a_process_takes_the_next_trial(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path)
    trial.told()
    config = vars(trial._assignment) | {"uid": "tiny-1", "number": 1, "start_step": 4}
    assert trial.reset_config(config)
    report = trial.told()
    assert (report.uid, report.number, report.step) == ("tiny-1", 1, 4)


def test_a_full_disk_is_told_with_the_last_state_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskFullError("disk full: the state")

    trial = FakeTrial(tmp_path)
    trial.told()
    with monkeypatch.context() as patch:
        patch.setattr(thin_trial, "save_state", full)
        report = trial.told()
    assert (report.step, report.disk_full, report.failed) == (2, "disk full: the state", None)
    assert trial.told().step == 4  # and it goes on from there once there is space


class Remote:
    """An engine's `join`, as Ray shows it, that refuses some states."""

    def __init__(self, *refused: bytes) -> None:
        self.join = self
        self.states: list[bytes | None] = []
        self._refused = refused

    def remote(self, _: object, state: bytes | None) -> None:
        self.states.append(state)
        if state in self._refused:
            raise StateError("it has another shape")


@pytest.mark.parametrize(
    ("refused", "tried"),
    [
        ((), [b"four"]),
        ((b"four",), [b"four", b"two"]),
        ((b"four", b"two"), [b"four", b"two", None]),
    ],
)
def test_a_state_that_the_engine_refuses_leads_to_the_one_before(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: tuple[bytes, ...],
    tried: list[bytes | None],
) -> None:
    save_state(tmp_path, 2, b"two")
    save_state(tmp_path, 4, b"four")
    engine, trial = Remote(*refused), FakeTrial(tmp_path, 4)
    monkeypatch.setattr("orchestrator.thin_trial.ray.get", lambda answer: answer)
    trial._join(engine)
    assert engine.states == tried
    problems = trial.told().problems
    assert bool(problems) == bool(refused)
    assert not trial.told().problems  # said once
    assert len(list(tmp_path.glob("*.damaged"))) == len(refused)
