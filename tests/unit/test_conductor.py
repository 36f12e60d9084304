"""The driver's decisions: assignments out, reports in, events and artifacts on disk."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.assignment import Assignment, DataSource, TrialReport
from orchestrator.checkpoints import save_state
from orchestrator.conductor import Conductor, EngineInfo
from orchestrator.events import Event, EventLog
from orchestrator.ledger import Ledger, LedgerTrial, TrialStatus
from orchestrator.manifest import manifest_sha256
from orchestrator.results import DataRecord, Estimate
from orchestrator.spending import Meter, Spending
from tests.unit.ledgers import NAME, OBJECTIVE, RUNGS, open_ledger, search_config, search_folder
from trainable.artifact import Artifact
from trainable.state import TrialState
from trainable.trial import TrialConfig

BASE = {"path": "bundled", "revision": None, "fingerprint": "f" * 64, "dtype": "float32"}
SOURCE = DataSource(
    task={"kind": "generation"}, seed=0, max_tokens=None, long_rows="refuse", cache="/nowhere"
)


class Seen:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.reported: list[tuple[int, int, str]] = []

    def data_read(self, data: DataRecord) -> None:
        pass

    def planned(self, found: Estimate, warnings: Sequence[str], *, going_on: bool) -> None:
        pass

    def search_opened(self, trials: Sequence[LedgerTrial]) -> None:
        pass

    def trial_started(self, trial: LedgerTrial) -> None:
        self.started.append(trial.number)

    def trial_reported(self, trial: LedgerTrial, status: TrialStatus) -> None:
        self.reported.append((trial.number, trial.step, str(status)))


class Search:
    """A search under `home` whose trials are reported by hand."""

    def __init__(self, home: Path, config: dict[str, Any] | None = None, **options: Any) -> None:
        self.folder = search_folder(home)
        self.ledger: Ledger = open_ledger(self.folder.path, **options)
        self.log = EventLog(self.folder.events)
        self.seen = Seen()
        self.conductor = Conductor(
            search_config(**(config or {})),
            self.folder,
            self.ledger,
            self.log,
            EngineInfo("e", BASE),
            SOURCE,
            self.seen,
        )

    def assign(self) -> Assignment:
        assignment = self.conductor.assign()
        assert assignment is not None
        return assignment

    def report(self, given: Assignment, step: int, score: float = 0.5, **fields: Any) -> bool:
        """Save a state and report it, as a thin trial does."""
        if not fields.get("failed"):
            save_state(Path(given.folder), step, state(step, given.number).to_bytes())
            fields = {"metrics": {OBJECTIVE: score}, "curve": [(step, 1.0)]} | fields
        report = TrialReport(given.uid, given.number, given.attempt, step, **fields)
        return self.conductor.on_report(report)

    def events(self, *types: str) -> list[Event]:
        return [event for event in self.log.read() if event.type in types]

    def ended(self) -> dict[str | None, dict[str, Any]]:
        return {event.trial_uid: event.payload for event in self.events("trial_ended")}


def state(step: int, number: int) -> TrialState:
    latents = np.full((2, 3), 100 * number + step, dtype=np.float32)
    return TrialState(step, latents, np.zeros_like(latents), np.zeros_like(latents))


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    search = Search(tmp_path)
    with search.log:
        yield search


def test_an_assignment_holds_all_that_a_thin_trial_needs(search: Search) -> None:
    given = search.assign()
    assert (given.uid, given.number, given.attempt, given.start_step) == (f"{NAME}-0", 0, 1, 0)
    assert given.rungs == list(RUNGS)
    assert given.splits == ["val_id", "val_ood"]
    assert given.config == search.ledger.trial(0).config.to_dict()
    assert DataSource(**given.data) == SOURCE
    assert Path(given.folder) == search.folder.trial(f"{NAME}-0")
    assert given.engine == "e"


def test_a_trial_s_story_is_told_in_events(search: Search) -> None:
    given = search.assign()
    assert [search.report(given, step, step / 10) for step in RUNGS] == [True, True, False]
    started, *reports, ended = search.log.read()
    assert [e.type for e in (started, *reports, ended)] == [
        "trial_started",
        *["trial_report"] * 3,
        "trial_ended",
    ]
    assert all(e.trial_uid == f"{NAME}-0" and e.attempt == 1 for e in search.log.read())
    assert started.payload == {
        "number": 0,
        "name": "start2",
        "role": "search",
        "params": dict(search.ledger.trial(0).params),
        "config": given.config,
        "about": "2 latent tokens at the start of the query.",
    }
    assert reports[1].payload == {"step": 4, "metrics": {OBJECTIVE: 0.4}, "curve": [[4, 1.0]]}
    assert ended.payload == {
        "state": "complete",
        "step": 8,
        "metrics": {OBJECTIVE: 0.8},
        "reason": None,
        "failure": None,
        "artifact": f"artifacts/{NAME}-0",
        "manifest_sha256": manifest_sha256(search.folder.artifact(f"{NAME}-0")),
    }
    assert search.seen.started == [0]
    assert search.seen.reported == [(0, 2, "running"), (0, 4, "running"), (0, 8, "complete")]


def test_an_ended_trial_s_artifact_holds_its_last_latents(search: Search) -> None:
    first, second = search.assign(), search.assign()
    for given, score in ((first, 0.9), (second, 0.1)):
        search.report(given, RUNGS[0], score)
    search.report(first, RUNGS[-1], 0.9)
    for uid, value, step, status in ((first.uid, 8, 8, "complete"), (second.uid, 102, 2, "pruned")):
        assert search.ended()[uid]["state"] == status
        artifact = Artifact.load(search.folder.path / search.ended()[uid]["artifact"])
        assert (artifact.latents == value).all()
        assert artifact.base_model == BASE
        assert artifact.task["data_seed"] == 0
        assert (artifact.provenance["trial_uid"], artifact.provenance["step"]) == (uid, step)
        assert OBJECTIVE in artifact.metrics
    # And all that are cut leave files of the same names.
    assert sorted(path.name for path in (search.folder.path / "artifacts").iterdir()) == [
        f"{NAME}-0",
        f"{NAME}-1",
    ]


def test_a_state_that_was_lost_costs_the_artifact_alone(
    search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    given = search.assign()
    report = TrialReport(given.uid, given.number, 1, RUNGS[-1], {OBJECTIVE: 0.5})
    assert not search.conductor.on_report(report)
    assert search.ended()[given.uid]["artifact"] is None
    assert search.ended()[given.uid]["state"] == "complete"
    assert "no usable state at step 8" in caplog.text


def test_a_damaged_state_costs_the_artifact_alone(search: Search) -> None:
    given = search.assign()
    save_state(Path(given.folder), RUNGS[-1], b"no tensors")
    search.conductor.on_report(TrialReport(given.uid, 0, 1, RUNGS[-1], {OBJECTIVE: 0.5}))
    assert search.ended()[given.uid]["artifact"] is None


def test_a_failed_trial_tells_why_and_hands_nothing_over(search: Search) -> None:
    given = search.assign()
    assert not search.report(given, 0, failed="lower optim.lr")
    assert search.ended()[given.uid] == {
        "state": "failed",
        "step": 0,
        "metrics": {},
        "reason": "lower optim.lr",
        "failure": "bug",
        "artifact": None,
        "manifest_sha256": None,
    }
    assert not search.events("trial_report")


def test_a_report_without_the_objective_fails_the_trial(search: Search) -> None:
    assert not search.report(search.assign(), RUNGS[0], metrics={"train/loss": 1.0})
    assert search.seen.reported == [(0, 0, "failed")]
    assert OBJECTIVE in search.ended()[f"{NAME}-0"]["reason"]


def test_a_duplicate_of_the_last_report_ends_nothing_twice(search: Search) -> None:
    given = search.assign()
    for _ in range(3):
        assert not search.report(given, RUNGS[-1])
    search.conductor.on_error(given.number, "late news")
    assert len(search.events("trial_ended")) == 1
    assert search.ledger.trial(0).status is TrialStatus.COMPLETE


def test_a_process_that_died_for_good_fails_its_trial(search: Search) -> None:
    given = search.assign()
    search.report(given, RUNGS[0])
    search.conductor.on_error(given.number, "its process died")
    ended = search.ended()[given.uid]
    assert (ended["state"], ended["reason"], ended["step"]) == ("failed", "its process died", 2)
    assert search.conductor.halt("interrupt") == []


def test_a_trial_that_is_put_back_is_the_next_and_nobody_is_told_of_an_end(
    search: Search,
) -> None:
    given, other = search.assign(), search.assign()
    assert search.report(given, RUNGS[0])
    search.conductor.put_back(given.number)
    assert search.conductor.owes
    assert search.conductor.running == 1
    again = search.assign()
    assert (again.number, again.start_step, again.attempt) == (given.number, RUNGS[0], 2)
    assert not search.conductor.owes
    assert search.ended() == {}
    search.conductor.on_error(other.number, "its process died")
    search.conductor.put_back(other.number)  # it has ended
    assert not search.conductor.owes
    search.conductor.put_back(again.number)
    search.conductor.halt("interrupt")
    assert not search.conductor.owes


def test_a_lost_process_begins_another_attempt_and_its_late_report_is_an_orphan(
    search: Search,
) -> None:
    given = search.assign()
    assert search.report(given, RUNGS[0])
    assert search.conductor.on_lost(given.number) == 2
    again = dataclasses.replace(given, attempt=2, start_step=RUNGS[0], reported=True)
    for late in ({"score": 0.9}, {"failed": "it burned"}):
        assert not search.report(given, RUNGS[1], **late)
    assert search.ledger.trial(0).status is TrialStatus.RUNNING
    assert search.ledger.trial(0).reports == {RUNGS[0]: 0.5}
    assert search.report(again, RUNGS[1], 0.7)
    assert not search.report(again, RUNGS[-1], 0.8)
    assert search.conductor.on_lost(given.number) is None, "it has ended"
    told = [(e.type, e.attempt) for e in search.log.read() if e.type != "trial_report"]
    assert told == [
        ("trial_started", 1),
        ("trial_lost", 1),
        ("trial_orphan", 1),
        ("trial_orphan", 1),
        ("trial_ended", 2),
    ]
    assert [e.payload["step"] for e in search.events("trial_report")] == list(RUNGS)


def test_what_does_not_fit_into_the_memory_is_infeasible_and_counts_as_a_trial(
    tmp_path: Path,
) -> None:
    search = Search(tmp_path, trials=1)
    with search.log:
        given = search.assign()
        assert not search.report(given, 0, failed="a row of 9", failure="out_of_memory")
        trial = search.ledger.trial(0)
        assert (trial.status, trial.failure) == (TrialStatus.INFEASIBLE, "out_of_memory")
        assert (trial.reason, trial.attempts) == ("a row of 9", 1)
        assert search.ended()[given.uid]["failure"] == "out_of_memory"
        assert search.conductor.assign() is None, "nothing would ever fit, and nothing end"


def test_a_rung_that_was_told_is_not_asked_for_again(tmp_path: Path) -> None:
    first = Search(tmp_path)
    with first.log:
        one, two = first.assign(), first.assign()
        first.report(one, RUNGS[0])
        first.report(two, RUNGS[0], metrics={}, paused=True)  # on the rung, and not scored
    second = Search(tmp_path)
    with second.log:
        given = [second.assign(), second.assign()]
        assert [(g.start_step, g.reported) for g in given] == [(2, True), (2, False)]


def test_halting_begins_nothing_and_pauses_what_runs(search: Search) -> None:
    given = [search.assign() for _ in range(3)]
    search.report(given[2], RUNGS[-1])
    assert search.conductor.halt("interrupt") == [f"{NAME}-0", f"{NAME}-1"]
    assert search.conductor.assign() is None
    for one, step in zip(given[:2], (1, 3), strict=True):
        assert not search.report(one, step, metrics={}, paused=True)
    assert search.conductor.halt("interrupt") == []
    assert [(t.status, t.step) for t in search.ledger.all()[:2]] == [
        (TrialStatus.RUNNING, 1),
        (TrialStatus.RUNNING, 3),
    ]
    assert list(search.ended()) == [f"{NAME}-2"]


def test_a_paused_trial_goes_on_in_the_next_run(tmp_path: Path) -> None:
    first = Search(tmp_path)
    with first.log:
        given = first.assign()
        first.conductor.halt("interrupt")
        first.report(given, 3, metrics={}, paused=True)
    second = Search(tmp_path)
    with second.log:
        given = second.assign()
        assert (given.number, given.start_step, given.attempt) == (0, 3, 2)
        second.report(given, RUNGS[-1])
        assert [(e.type, e.attempt) for e in second.log.read()] == [
            ("trial_started", 1),
            ("trial_report", 1),
            ("trial_started", 2),
            ("trial_report", 2),
            ("trial_ended", 2),
        ]


def test_the_time_budget_pauses_what_runs(search: Search) -> None:
    given = search.assign()
    assert search.conductor.halt("time") == [given.uid]
    assert not search.report(given, 1, metrics={}, paused=True)
    assert search.ended() == {}  # a raised budget goes on with it
    assert search.ledger.trial(0).status is TrialStatus.RUNNING
    assert search.ledger.trial(0).step == 1


def test_one_trial_is_stopped_where_it_stands(search: Search) -> None:
    first, second = search.assign(), search.assign()
    assert search.conductor.stop_trial(0) == first.uid
    assert not search.report(first, 1, metrics={}, paused=True)
    assert search.ended()[first.uid]["state"] == "stopped"
    assert search.report(second, RUNGS[0])
    assert search.conductor.assign() is not None


def test_a_report_that_crosses_the_wish_to_stop_ends_the_trial_too(search: Search) -> None:
    given = search.assign()
    search.conductor.stop_trial(0)
    assert not search.report(given, RUNGS[0])
    ended = search.ended()[given.uid]
    assert (ended["state"], ended["reason"], ended["step"]) == ("stopped", "stopped by hand", 2)
    assert search.seen.reported == [(0, 2, "stopped")]


def test_stopping_a_trial_that_is_not_there_stops_nobody(search: Search) -> None:
    assert search.conductor.stop_trial(7) is None
    assert search.report(search.assign(), RUNGS[0])


def test_a_trial_that_begins_while_the_search_halts_is_paused_or_not_begun(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ask` takes a while, and the halt comes from another thread in the middle of it."""
    asking, halting = threading.Event(), threading.Event()
    ask = search.ledger.ask

    def slow_ask() -> LedgerTrial | None:
        asking.set()
        halting.wait(0.5)
        return ask()

    monkeypatch.setattr(search.ledger, "ask", slow_ask)
    to_pause: list[str] = []

    def halt() -> None:
        asking.wait(10)
        halted = search.conductor.halt("interrupt")
        halting.set()
        to_pause.extend(halted)

    thread = threading.Thread(target=halt)
    thread.start()
    assignment = search.conductor.assign()
    thread.join(10)
    assert to_pause == ([] if assignment is None else [assignment.uid])


def test_what_a_dead_driver_had_not_told_is_told(tmp_path: Path) -> None:
    """It died between the ledger's learning of an end and the event that tells of it."""
    first = Search(tmp_path)
    with first.log:
        given = first.assign()
        save_state(Path(given.folder), RUNGS[-1], state(RUNGS[-1], 0).to_bytes())
        first.ledger.report(0, RUNGS[-1], {OBJECTIVE: 0.5})
    second = Search(tmp_path)
    with second.log:
        second.conductor.settle()
        second.conductor.settle()
        assert [event.payload for event in second.events("trial_ended")] == [
            {
                "state": "complete",
                "step": RUNGS[-1],
                "metrics": {OBJECTIVE: 0.5},
                "reason": None,
                "failure": None,
                "artifact": f"artifacts/{NAME}-0",
                "manifest_sha256": manifest_sha256(second.folder.artifact(f"{NAME}-0")),
            }
        ]
        assert (second.folder.artifact(given.uid) / "latents.safetensors").exists()


# --- budgets


def budgeted(home: Path, **budget: Any) -> Search:
    config = {"budget": {"trials": 4, "steps": RUNGS[-1], **budget}}
    return Search(home, config=config, stopping="none")


def test_steps_overshoot_by_less_than_one_report_interval(tmp_path: Path) -> None:
    search = budgeted(tmp_path, total_steps=7)
    with search.log:
        first, second = search.assign(), search.assign()  # both are bound to reach 2
        assert search.report(first, 2) is True  # 2 and 2 are spent or bound: it goes to 4
        assert search.report(second, 2) is True  # 4 and 2: it goes to 4
        assert search.conductor.assign() is None  # 8 are bound to be spent
        assert search.report(first, 4) is False
        assert search.report(second, 4) is False
        assert search.ledger.has_work()
        assert [trial.step for trial in search.ledger.all()] == [4, 4]
        assert [t.status for t in search.ledger.all()] == [TrialStatus.RUNNING] * 2
        assert search.ended() == {}


def test_what_a_trial_was_bound_to_spend_and_did_not_is_free_again(tmp_path: Path) -> None:
    search = budgeted(tmp_path, total_steps=3)
    with search.log:
        first, second = search.assign(), search.assign()
        assert search.conductor.assign() is None
        assert search.report(second, 0, failed="it burned") is False
        assert search.report(first, 2) is True


def test_a_budget_that_grew_goes_on_with_the_paused_trials(tmp_path: Path) -> None:
    search = budgeted(tmp_path, total_steps=2)
    with search.log:
        assert search.report(search.assign(), 2) is False
    again = budgeted(tmp_path, total_steps=8)
    with again.log:
        given = again.assign()
        assert (given.number, given.start_step, given.attempt) == (0, 2, 2)


def test_tokens_are_a_budget_too(tmp_path: Path) -> None:
    config = search_config(budget={"trials": 4, "steps": RUNGS[-1], "tokens": 100})
    spending = Spending(config.budget, [], lambda trial, begin, end: 20 * (end - begin))
    trial = TrialConfig()
    spending.commit(0, trial, 4)
    assert (spending.tokens, spending.is_open) == (80, True)
    spending.commit(1, trial, 1)
    assert (spending.tokens, spending.is_open) == (100, False)
    spending.commit(0, trial, 2)  # paused short of its rung
    assert (spending.tokens, spending.is_open) == (60, True)


class Account:
    """A ledger's memory of what was spent."""

    spent_s = spent_gpu_s = 0.0
    tokens: int | None = None

    def spent(self, kind: str) -> float:
        return {"spent_gpu_s": self.spent_gpu_s, "confirm_s": 5.0}.get(kind, 0.0)

    def add_spent(self, seconds: float, *, gpu_s: float, tokens: int | None) -> None:
        self.spent_s += seconds
        self.spent_gpu_s += gpu_s
        self.tokens = tokens


@pytest.mark.parametrize(
    ("budget", "gpus", "seconds"),
    [
        ({"time_s": 60.0}, 0, 60.0),
        ({"gpu_hours": 1.0}, 2, 1800.0),
        ({"gpu_hours": 1.0}, 0, math.inf),
        ({"money": 3.0, "price_per_hour": 6.0}, 0, 1795.0),  # the confirmation's are paid, too
        ({"time_s": 60.0, "money": 3.0, "price_per_hour": 6.0}, 1, 60.0),
        ({}, 1, math.inf),
    ],
)
def test_running_time_is_bounded_by_the_first_of_three_budgets(
    budget: dict[str, float], gpus: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("orchestrator.spending.time.monotonic", lambda: now[0])
    config, account = search_config(budget={"trials": 1, **budget}), Account()
    meter = Meter(account, config.budget, 100.0)  # type: ignore[arg-type]
    meter.gpu_clock = lambda: ((now[0] - 100.0) * gpus, gpus)
    assert meter.seconds_left() == seconds
    now[0] = 110.0
    assert meter.seconds_left() == seconds - 10
    meter.note(7)
    assert (account.spent_s, account.spent_gpu_s, account.tokens) == (10.0, 10.0 * gpus, 7)
    assert meter.seconds_left() == seconds - 10


def test_a_state_that_was_not_gone_on_from_is_logged_and_told(
    search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    given = search.assign()
    search.report(given, RUNGS[0], problems=["the saved state 60 is damaged"])
    assert "the saved state 60 is damaged" in caplog.text
    (event,) = search.events("state_damaged")
    assert event.trial_uid == f"{NAME}-0"
    assert event.payload == {"step": RUNGS[0], "problems": ["the saved state 60 is damaged"]}


def test_a_full_disk_leaves_the_trial_where_the_ledger_has_it_and_asks_no_more(
    search: Search,
) -> None:
    given = search.assign()
    assert search.report(given, RUNGS[0])
    lost = TrialReport(given.uid, 0, 1, RUNGS[0], disk_full="disk full: its state")
    assert not search.conductor.on_report(lost)
    assert search.conductor.full_disk == "disk full: its state"
    trial = search.ledger.trial(0)
    assert (trial.status, trial.step) == (TrialStatus.RUNNING, RUNGS[0])
    assert search.conductor.assign() is None
    assert not search.events("trial_ended")
