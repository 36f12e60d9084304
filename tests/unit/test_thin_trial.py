"""A thin trial: rung by rung, past lost engines, and from where it was cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError, RayTaskError

from orchestrator import thin_trial
from orchestrator.assignment import TrialReport
from orchestrator.checkpoints import load_state, save_state
from orchestrator.engines import berth
from orchestrator.engines.berth import MOST_LOSSES, Berth, by_load
from orchestrator.engines.roster import EngineRecord, Roster, read_roster, write_roster
from orchestrator.engines.watchdog import Pulse
from orchestrator.errors import EngineLostError
from orchestrator.thin_trial import ThinTrial
from trainable.errors import DiskFullError, NumericError, StateError

RUNGS = [2, 4, 8]


class FakeBerth(Berth):
    """A berth whose engines are a list of answers: an exception, a step, or None for success.

    "full" is no room anywhere, "forgotten" an engine that does not know the trial, "moved" one
    that is vacated while the trial is half-way.
    """

    def script(self, answers: list[Any], goals: list[int]) -> FakeBerth:
        self.answers, self.goals = answers, goals
        return self

    def _try(self, roster: Roster, step: int, goal: int) -> dict[str, Any] | None:
        self.goals.append(goal)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if answer == "moved":
            at, told = (step + goal) // 2, {"metrics": {}, "paused": True, "moves": True}
            return {"step": at, "state": str(at).encode(), "curve": [(at, 1.0)], **told}
        if isinstance(answer, str):
            self._engine = None if answer == "forgotten" else self._engine
            return None
        self._engine = "engine"
        at = goal if answer is None else answer
        metrics = {"m": 0.5} if answer is None else {}
        told = {"curve": [(at, 1.0)], "metrics": metrics, "paused": answer is not None}
        return {"step": at, "state": str(at).encode(), "moves": False, **told}


class FakeTrial(ThinTrial):
    def __init__(
        self,
        search: Path,
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
                "folder": str(search / "trials" / "tiny-0"),
                "reported": reported,
            }
        )

    def _find_berth(self) -> Berth:
        found = super()._find_berth()
        berth = FakeBerth(found._assignment, found._search)
        return berth.script(self.answers, self.goals)

    def told(self) -> TrialReport:
        report: TrialReport = self.step()["report"]
        return report

    def saved(self, step: int) -> bytes | None:
        return load_state(Path(self._assignment.folder), step)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(berth, "_RETRY_S", 0.0)


def test_each_step_is_a_rung_and_saves_its_state(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path)
    for rung in RUNGS:
        assert trial.told() == TrialReport("tiny-0", 0, 1, rung, {"m": 0.5}, [(rung, 1.0)])
        assert trial.saved(rung) == str(rung).encode()
    assert trial.goals == RUNGS


def test_a_pause_is_reported_where_it_stands(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path, answers=(3,))
    report = trial.told()
    assert (report.step, report.paused, report.metrics) == (3, True, {})
    assert trial.saved(3) == b"3"


@pytest.mark.parametrize(
    ("start", "goals"),
    [(0, [2, 4, 8]), (1, [2, 4, 8]), (2, [2, 4, 8]), (3, [4, 8]), (8, [8])],
)
def test_it_goes_on_from_its_step_and_repeats_a_rung(
    tmp_path: Path, start: int, goals: list[int]
) -> None:
    """The driver may have died before it judged the rung where the trial goes on from."""
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


def test_it_goes_on_past_lost_engines_and_full_ones(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path, answers=(RayActorError(), "full", "forgotten", RayActorError()))
    assert trial.told().step == RUNGS[0]
    assert trial.goals == [RUNGS[0]] * 5


def test_a_trial_of_a_vacated_engine_goes_on_from_where_it_stands(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path, 4, answers=("moved", "full", RayActorError()), reported=True)
    report = trial.told()
    assert (report.step, report.curve, report.paused) == (8, [(6, 1.0), (8, 1.0)], False)
    assert trial._berth._carried == b"6"
    assert trial.saved(6) is None  # the last two states that are kept are reports
    assert trial.saved(8) == b"8"


def test_one_that_finds_no_room_any_more_stops_where_it_stands(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path, 4, answers=("moved", "full"), reported=True)
    write_roster(tmp_path, Roster(paused=["tiny-0"]))
    trial._berth._engine = "engine"  # of its last step
    report = trial.told()
    assert (report.step, report.curve, report.paused) == (6, [(6, 1.0)], True)
    assert trial.saved(6) == b"6"


class Joined:
    """An engine that takes note of who joins it."""

    def __init__(self) -> None:
        self.join, self.told = self, list[Any]()

    def remote(self, *arguments: Any) -> None:
        self.told.append(arguments)


def test_it_joins_with_the_state_that_it_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get", lambda call: call)
    trial, engine = FakeTrial(tmp_path, 4), Joined()
    save_state(Path(trial._assignment.folder), 4, b"4")
    for carried, expected in ((None, b"4"), (b"6", b"6")):
        trial._berth._carried = carried
        trial._berth._join(engine, 4, "tiny", 2)
        assert engine.told.pop() == (trial._assignment, expected, "tiny", 2)


def test_it_waits_as_long_as_it_takes_for_room(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path, answers=("full",) * 1000)
    assert trial.told().step == RUNGS[0]


def test_one_lost_engine_after_another_is_its_end(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path, answers=(RayActorError(),) * (MOST_LOSSES - 1))
    assert trial.told().step == RUNGS[0]
    given_up = FakeBerth(trial._assignment, tmp_path).script([RayActorError()] * 100, [])
    with pytest.raises(EngineLostError, match=f"lost machine: {MOST_LOSSES} engines"):
        given_up.train(0, 2)


def test_a_trial_that_waits_gives_up_when_the_driver_halts(tmp_path: Path) -> None:
    for roster in (Roster(halting=True), Roster(paused=["tiny-0"])):
        write_roster(tmp_path, roster)
        report = FakeTrial(tmp_path, 2).told()
        assert (report.step, report.paused) == (2, True)
    write_roster(tmp_path, Roster(paused=["tiny-1"]))
    assert not FakeTrial(tmp_path, 2).told().paused


def test_its_own_fault_is_reported_not_tried_again(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path, 2, answers=(NumericError("lower optim.lr"),))
    report = trial.told()
    assert (report.step, report.failed, report.failure) == (2, "lower optim.lr", "numeric")
    assert trial.goals == [2]


def raised_in_engine(error: Exception) -> Exception:
    """As it comes out of an actor's method."""
    task_error: Any = RayTaskError  # its types know nothing
    raised: Exception = task_error("train", "its traceback", error).as_instanceof_cause()
    return raised


def test_a_bug_in_the_engine_is_reported_once_and_its_traceback_kept(tmp_path: Path) -> None:
    trial = FakeTrial(tmp_path, answers=(raised_in_engine(ZeroDivisionError("by zero")),))
    report = trial.told()
    assert (report.failed, report.failure) == ("ZeroDivisionError: by zero", "bug")
    assert trial.goals == [2]
    assert "its traceback" in (tmp_path / "trials" / "tiny-0" / "error.txt").read_text()


def test_memory_that_ran_out_is_tried_once_more(tmp_path: Path) -> None:
    out = raised_in_engine(MemoryError("no room"))
    trial = FakeTrial(tmp_path, answers=(out,))
    assert (trial.told().step, trial.goals) == (2, [2, 2])
    trial = FakeTrial(tmp_path, answers=(out, out))
    report = trial.told()
    assert (report.failed, report.failure) == ("MemoryError: no room", "out_of_memory")
    assert trial.goals == [2, 2]


def test_a_broken_device_is_a_lost_engine(tmp_path: Path) -> None:
    broken = raised_in_engine(RuntimeError("CUDA error: ECC"))
    trial = FakeTrial(tmp_path, answers=(broken,))
    assert (trial.told().step, trial.goals) == (2, [2, 2])
    report = FakeTrial(tmp_path, answers=(broken,) * 100).told()
    assert report.failure == "lost_machine"
    assert report.failed is not None and report.failed.startswith("lost machine: ")


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

    def remote(self, _: object, state: bytes | None, *__: object) -> None:
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
    trial, engine = FakeTrial(tmp_path, 4), Remote(*refused)
    folder = Path(trial._assignment.folder)
    save_state(folder, 2, b"two")
    save_state(folder, 4, b"four")
    monkeypatch.setattr(berth, "_open_engines", lambda _: [(EngineRecord(
        name="e", node="n", state="ready", room=8), engine)])  # fmt: skip
    monkeypatch.setattr("orchestrator.engines.berth.ray.get", lambda answer: answer)
    assert trial._berth._enter(read_roster(tmp_path), 4)
    assert engine.states == tried
    problems = trial.told().problems
    assert bool(problems) == bool(refused)
    assert not trial.told().problems  # said once
    assert len(list(folder.glob("*.damaged"))) == len(refused)


def test_the_engine_that_is_through_first_is_asked_first() -> None:
    def record(name: str) -> EngineRecord:
        return EngineRecord(name=name, node="n", state="ready", room=8)

    def pulse(trials: int, speed: float | None) -> Pulse:
        return Pulse(trials={str(n): "s" for n in range(trials)}, slots_per_s=speed)

    records = [record("slow"), record("fast"), record("new")]
    order = by_load(records, [pulse(2, 100.0), pulse(5, 400.0), pulse(3, None)])
    assert [one.name for one in order] == ["fast", "new", "slow"]
    assert by_load([], []) == []
