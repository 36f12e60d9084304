"""A whole confirmation over a made-up engine: controls, resumption, verdict, champion."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator import confirmation_work
from orchestrator.assignment import Assignment, DataSource
from orchestrator.config import SearchConfig
from orchestrator.confirmation import Confirmation
from orchestrator.confirmation_budget import ConfirmationMeter
from orchestrator.confirmation_estimate import most_members
from orchestrator.confirmation_record import (
    ConfirmationEstimate,
    ConfirmationRecord,
    read_confirmation,
)
from orchestrator.confirmation_work import Work
from orchestrator.errors import ConfirmationError, ConfirmationHaltedError, EngineLostError
from orchestrator.events import Event, EventLog, read_events
from orchestrator.folders import SearchFolder
from orchestrator.ledger import LedgerTrial
from orchestrator.members import Bench
from orchestrator.outbox import Outbox
from orchestrator.report.confirmed import shown
from orchestrator.report.summary import note
from orchestrator.results import DataRecord, SearchResult
from orchestrator.search_data import SearchData
from orchestrator.verdict_words import metric_of
from tests.unit.ledgers import open_ledger
from tests.unit.test_arms import COMMA, start, trial
from trainable.artifact import Artifact
from trainable.errors import DiskFullError, TaskError, UnknownTrialError
from trainable.item_scores import Insertion, ItemScores
from trainable.state import TrialState
from trainable.strategy import InsertionStrategy

STEPS = 11
SOURCE = DataSource(
    task={"kind": "generation"}, seed=0, max_tokens=None, long_rows="refuse", cache="/nowhere"
)
CONFIG = SearchConfig.model_validate(
    {
        "name": "tiny",
        "task": {"kind": "generation"},
        "space": "quick",
        "budget": {"trials": 4, "steps": STEPS},
        "stopping": {"min_steps": 2, "factor": 2},
        "confirm": {"seeds": 3, "top": 2, "members_at_once": 8},
    }
)
TRIALS = [trial(0, 0.9, {"comma": COMMA}), trial(1, 0.8, start(2))]


class MadeUpEngine:
    """Commas help as much as it is told; `end` with six latents does not fit."""

    def __init__(self, comma: float) -> None:
        self.comma = comma
        self.steps: Counter[tuple[str, int]] = Counter()
        self.losses = 0
        self.full = False
        self._at: dict[str, int] = {}
        self._configs: dict[str, dict[str, Any]] = {}

    def ask(self, method: str, *arguments: Any) -> Any:
        return getattr(self, f"_{method}")(*arguments)

    def begin(self, method: str, *arguments: Any) -> Any:
        return lambda: self.ask(method, *arguments)

    def ready(self, calls: Sequence[Any], timeout_s: float) -> list[Any]:
        return list(calls)

    def answer(self, call: Callable[[], Any]) -> Any:
        if self.losses:
            self.losses -= 1
            self._at.clear()
            raise EngineLostError("lost")
        return call()

    def has_latents(self, uid: str) -> bool:
        return bool(self._configs[uid]["strategy"]["triggers"])

    def _unpause(self, uids: Sequence[str], holder: str) -> None:
        pass

    def _join(self, assignment: Assignment, state: bytes | None, holder: str) -> None:
        triggers = assignment.config["strategy"]["triggers"]
        if triggers.get("end", {}).get("m") == 6:
            raise TaskError("too long")
        if self.full and triggers.get("end", {}).get("m") == 2:
            raise DiskFullError("no space left")
        step = 0 if state is None else TrialState.from_bytes(state).step
        assert step == assignment.start_step
        self._at[assignment.uid] = step
        self._configs[assignment.uid] = assignment.config

    def _train(self, uid: str, goal: int, splits: Sequence[str], holder: str) -> dict[str, Any]:
        if uid not in self._at:
            raise UnknownTrialError(uid)
        config = self._configs[uid]
        begin, self._at[uid] = self._at[uid], goal
        self.steps.update((uid, step) for step in range(begin + 1, goal + 1))
        latents = InsertionStrategy.from_dict(config["strategy"]).latent_count
        zeros = np.zeros((latents, 4), np.float32)
        better = latents + config["seed"] / 10_000 - abs(config["optim"]["lr"] - 0.06)
        scores = {"val_ood/exact_match": 0.1 + 0.01 * better, "val_ood/exact_match/8": 0.1}
        scores["val_ood/nll"] = 1.0 - 0.01 * better
        return {
            "step": goal,
            "metrics": scores if splits else {},
            "curve": [(step, 1.0) for step in range(begin + 1, goal + 1)],
            "state": TrialState(goal, zeros, zeros, zeros).to_bytes(),
            "paused": False,
        }

    def _insertions(
        self, source: DataSource, strategies: Sequence[Mapping[str, Any]], split: str
    ) -> list[Insertion]:
        dense = [s["triggers"].get("random", {}).get("rate") == 1.0 for s in strategies]
        return [Insertion(40.0, 40.0, 40.0) if d else Insertion(6.0, 3.0, 40.0) for d in dense]

    def _exact_matches(
        self,
        source: DataSource,
        members: Sequence[tuple[Mapping[str, Any], bytes]],
        split: str,
        rows: int | None,
        metric: str,
    ) -> ItemScores:
        luck_N, rng = np.random.default_rng(5).random(200), np.random.default_rng(6)
        chances = [self.comma if "comma" in s["triggers"] else 0.4 for s, _ in members]
        noise_MN = 0.05 * rng.normal(size=(len(members), 200))
        distances = np.repeat([8, 12] if split == "test_ood" else [3, 4], 100)
        right_MN = luck_N + noise_MN < np.array(chances)[:, None]
        values = {} if metric == "exact_match" else {metric: (~right_MN).astype(np.float64)}
        found = ItemScores(distances, np.arange(200), right_MN, values)
        if rows is None:
            return found
        kept = np.arange(200) % 100 < rows
        few = {name: value[:, kept] for name, value in values.items()}
        return ItemScores(distances[kept], np.arange(200)[kept], right_MN[:, kept], few)


class Shipped:
    """A shipper that has left."""

    def wait(self, timeout: float) -> int:
        return 0


def _tell_note(events: EventLog, folder: SearchFolder, result: SearchResult) -> None:
    """The report's event without its page, which a process of its own draws."""
    events.append("report", {"note": note(result, shown(result.confirmation)), "files": []})


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(confirmation_work, "start_shipper", lambda *_: Shipped())
    monkeypatch.setattr(confirmation_work, "finish_shipping", lambda *_, **__: True)
    monkeypatch.setattr(confirmation_work, "tell_report", _tell_note)
    yield


class Confirming:
    """A confirmation that can be stopped by what it says."""

    def __init__(self, home: Path, engine: MadeUpEngine) -> None:
        self.folder = SearchFolder.of(home, "tiny")
        self.folder.path.mkdir(parents=True)
        self.engine = engine
        self.ledger = open_ledger(self.folder.path)
        self.config = CONFIG
        self.meter = self.new_meter()

    def new_meter(self, planned_s: float | None = None) -> ConfirmationMeter:
        planned = ConfirmationEstimate(
            members=sum(most_members(self.config)),
            steps=330,
            train_tokens=1.0,
            score_tokens=1.0,
            gpus=0,
            seconds=planned_s,
        )
        return ConfirmationMeter(self.ledger, self.config, planned)

    def run(
        self,
        stop_at: str | None = None,
        trials: Sequence[LedgerTrial] = TRIALS,
        config: SearchConfig | None = None,
    ) -> ConfirmationRecord:
        config, stop = config or self.config, threading.Event()

        def say(line: str) -> None:
            if stop_at is not None and stop_at in line:
                stop.set()

        with EventLog(self.folder.events) as events:
            data = SearchData(SOURCE, DataRecord(rows={}), digests={})
            of = Confirmation(config, self.folder, data, events, "sqlite://", stop, say, self.meter)
            candidates = of._candidates(trials)
            bench = Bench(
                engine=self.engine,
                name="engine",
                data=SOURCE,
                splits=config.task.splits(),
                steps=STEPS,
                at_once=config.confirm.members_at_once,
                folder=self.folder,
                events=events,
                halt=of.halted,
                say=say,
                metric=metric_of(config.objective),
                note=self.meter.note,
            )
            base = {"path": "bundled", "fingerprint": "f"}
            work = Work(of, bench, base, trials, candidates, of._inputs(candidates))
            with self.meter.running():
                return work.run()

    def is_whole(self, record: ConfirmationRecord) -> bool:
        """Whether `latentune confirm` would have nothing to do."""
        data = SearchData(SOURCE, DataRecord(rows={}), digests={})
        with EventLog(self.folder.events) as events:
            of = Confirmation(
                CONFIG, self.folder, data, events, "sqlite://", None, print, self.meter
            )
            return of._is_whole(record)

    def events(self, kind: str) -> list[Event]:
        return [event for event in read_events(self.folder.events) if event.type == kind]


@pytest.fixture
def confirming(tmp_path: Path) -> Iterator[Confirming]:
    confirming = Confirming(tmp_path, MadeUpEngine(comma=0.8))
    yield confirming
    confirming.ledger.close()


def test_a_better_strategy_becomes_champion_with_its_confirmed_numbers(
    confirming: Confirming,
) -> None:
    record = confirming.run()
    assert record.state == "confirmed"
    champion = record.arm(record.champion)
    assert champion is not None
    assert (champion.strategy, champion.rank) == ("comma2", 1)
    assert read_confirmation(confirming.folder.confirmation) == record
    assert record.artifact is not None
    artifact = Artifact.load(confirming.folder.path / record.artifact)
    assert artifact.confirmation["seeds"] == 3
    card = (confirming.folder.path / record.artifact / "README.md").read_text()
    assert "## What was confirmed" in card
    assert "better than start6 (prompt tuning, equal inserted tokens)" in card
    assert record.champion_uid is not None
    assert record.champion_uid.endswith("-1002")  # the seed that validation data prefer


def test_a_control_has_the_learning_rate_that_validation_data_prefer(
    confirming: Confirming,
) -> None:
    record = confirming.run()
    lr = {arm.strategy: arm.config["optim"]["lr"] for arm in record.arms}
    assert lr["start6"] == pytest.approx(0.06)  # three times the leader's
    assert lr["comma2"] == lr["start2"] == pytest.approx(0.02)  # candidates keep theirs


def test_what_does_not_fit_is_left_out_and_said(confirming: Confirming) -> None:
    record = confirming.run()
    assert [arm.strategy for arm in record.arms if arm.left_out] == ["end6"]
    assert "end6 is left out: too long" in record.notes


def test_nothing_is_confirmed_where_nothing_is_better(tmp_path: Path) -> None:
    confirming = Confirming(tmp_path, MadeUpEngine(comma=0.4))
    record = confirming.run()
    assert (record.state, record.champion, record.artifact) == ("nothing confirmed", None, None)
    assert record.verdict[-1].startswith("Nothing is confirmed")
    assert confirming.events("champion") == []
    confirming.ledger.close()


def test_a_stopped_confirmation_pays_nothing_twice(confirming: Confirming) -> None:
    for stop_at in ("training 8 of 12", "training 8 of 19", "scoring 8 of 16"):
        with pytest.raises(ConfirmationHaltedError):
            confirming.run(stop_at)
    record = confirming.run()
    assert record.state == "confirmed"
    assert set(confirming.engine.steps.values()) == {1}
    ended = Counter(event.trial_uid for event in confirming.events("trial_ended"))
    assert set(ended.values()) == {1}
    states = [event.payload["state"] for event in confirming.events("confirm_ended")]
    assert states == ["interrupted"] * 3 + ["confirmed"]


def test_a_lost_engine_costs_the_steps_since_the_last_state_alone(confirming: Confirming) -> None:
    confirming.engine.losses = 3
    record = confirming.run()
    assert record.state == "confirmed"
    curves = Counter(
        (event.trial_uid, step)
        for event in confirming.events("trial_report")
        for step, _ in event.payload["curve"]
    )
    assert set(curves.values()) == {1}


def test_the_same_confirmation_again_registers_the_same_files(confirming: Confirming) -> None:
    first, second = confirming.run(), confirming.run()
    assert first == second
    manifests = {e.payload["manifest_sha256"] for e in confirming.events("champion")}
    assert len(manifests) == 1


def test_the_report_is_told_with_the_verdict_before_the_end(confirming: Confirming) -> None:
    record = confirming.run()
    told = [e for e in read_events(confirming.folder.events) if e.trial_uid is None]
    assert [event.type for event in told] == ["confirm_started", "report", "confirm_ended"]
    assert "Not confirmed" not in told[1].payload["note"]
    found = shown(read_confirmation(confirming.folder.confirmation))
    assert found is not None
    assert (found.champion_uid, list(found.verdict)) == (record.champion_uid, record.verdict)
    assert [arm.strategy for arm in found.arms] == [arm.strategy for arm in record.arms]
    champion = record.arm(record.champion)
    assert champion is not None
    [one] = [arm for arm in found.arms if arm.words == champion.words]
    assert found.champion == one
    assert one.search_trials == ("tiny-0",)
    assert [tuple(score) for score in one.scores.values()] == [
        (score.mean, score.low, score.high) for score in champion.scores
    ]


def test_the_outbox_sets_the_alias_and_keeps_the_best_so_far(confirming: Confirming) -> None:
    confirming.run()
    started = {"search": "tiny", "experiment": "e", "objective": "val_ood/exact_match"}
    first = Event(
        seq=0, time=1.0, trial_uid=None, attempt=0, type="search_started",
        payload={**started, "config": {"budget": {"steps": STEPS}}},
    )  # fmt: skip
    outbox = Outbox()
    outbox.add([first, *read_events(confirming.folder.events)])
    batch = outbox.take()
    assert batch is not None
    assert [candidate.alias for candidate in batch.candidates] == ["champion"]
    assert batch.parent.tags["confirmation"] == "confirmed"
    assert batch.parent.files == ["confirm/items.parquet"]
    assert "confirmation.json" in batch.parent.documents
    assert batch.parent.points == []  # the search's best so far is the search's
    stages = {run.tags["stage"] for run in batch.children.values()}
    assert stages == {"confirm"}
    assert {run.status for run in batch.children.values()} == {"FINISHED", "FAILED"}


def test_scores_of_more_rows_are_told_again(confirming: Confirming) -> None:
    def with_rows(rows: int | None) -> SearchConfig:
        section = CONFIG.confirm.model_copy(update={"rows": rows})
        return CONFIG.model_copy(update={"confirm": section})

    confirming.run(config=with_rows(10))
    record = confirming.run(config=with_rows(None))
    uid = record.champion_uid
    assert uid is not None
    metric = "test_ood/exact_match/12"
    told = [e.payload["metrics"] for e in confirming.events("trial_ended") if e.trial_uid == uid]
    assert len(told) == 2
    assert told[0][metric] != told[1][metric]
    card = Artifact.load(confirming.folder.artifact(uid))
    assert card.metrics[metric] == told[1][metric]
    tuned = [e for e in confirming.events("trial_ended") if "-90" in str(e.trial_uid)]
    assert len({e.trial_uid for e in tuned}) == len(tuned)  # nothing new is known of those
    count = len(confirming.events("trial_ended"))
    confirming.run(config=with_rows(None))
    assert len(confirming.events("trial_ended")) == count


def test_what_failed_of_the_machine_is_tried_again(confirming: Confirming) -> None:
    confirming.engine.full = True
    record = confirming.run()
    out = {arm.strategy: arm.try_again for arm in record.arms if arm.left_out}
    assert out == {"end2": True, "end6": False}
    assert "end2 is left out: no space left; the next `latentune confirm` tries it again" in (
        record.notes
    )
    assert not confirming.is_whole(record)
    confirming.engine.full = False
    again = confirming.run()
    assert confirming.is_whole(again)
    assert [arm.strategy for arm in again.arms if arm.left_out] == ["end6"]


def test_the_objective_s_metric_is_what_is_judged(confirming: Confirming) -> None:
    config = CONFIG.model_copy(update={"objective": "val_ood/nll"})
    nll = {"val_ood/nll": 0.5}
    trials = [
        trial(0, 0.0, {"comma": COMMA}, metrics=nll),
        trial(1, 0.0, start(2), metrics={"val_ood/nll": 0.6}),
    ]
    record = confirming.run(trials=trials, config=config)
    assert record.judged == "nll"
    assert {c.metric for arm in record.arms for c in arm.comparisons} == {
        "test_id/nll", "test_ood/nll/8", "test_ood/nll/12",
    }  # fmt: skip
    champion = record.arm(record.champion)
    assert champion is not None
    assert champion.strategy == "comma2"
    assert "Judged by nll, the objective's metric, of which less is better." in record.verdict


def test_what_it_takes_is_in_the_ledger_whatever_stopped_it(confirming: Confirming) -> None:
    with pytest.raises(ConfirmationHaltedError):
        confirming.run("training 8 of 19")
    so_far = confirming.ledger.spent("confirm_steps")
    assert so_far > 0
    confirming.run()
    engine = confirming.engine
    trained = sum(n for (uid, _), n in engine.steps.items() if engine.has_latents(uid))
    assert 0 < trained < engine.steps.total()
    assert confirming.ledger.spent("confirm_steps") == trained
    assert confirming.ledger.spent("confirm_s") == pytest.approx(confirming.meter.seconds)
    assert confirming.ledger.spent_s == 0.0  # the search's own is as it was


@pytest.mark.parametrize(
    ("money", "done", "refused"),
    [(1.1, 0, False), (0.5, 0, True), (0.5, 40, False), (0.1, 90, False)],
)
def test_it_is_not_begun_where_money_does_not_cover_it(
    confirming: Confirming, money: float, done: int, refused: bool
) -> None:
    budget = CONFIG.budget.model_copy(update={"money": money, "price_per_hour": 1.0})
    confirming.config = CONFIG.model_copy(update={"budget": budget})
    meter = confirming.new_meter(planned_s=3000.0)
    if not refused:
        meter.check(done)
        return
    with pytest.raises(ConfirmationError, match=r"budget\.money=0\.5 leaves 30 min, .*raise it"):
        meter.check(done)


def test_it_pauses_where_money_is_over_and_goes_on_with_more(confirming: Confirming) -> None:
    budget = CONFIG.budget.model_copy(update={"money": 1.0, "price_per_hour": 1.0})
    confirming.config = CONFIG.model_copy(update={"budget": budget})
    confirming.ledger.add_spent(3600.0)
    confirming.meter = confirming.new_meter()
    with pytest.raises(ConfirmationError, match=r"budget\.money=1 leaves 0 s"):
        confirming.meter.check(0)
    with pytest.raises(ConfirmationHaltedError):
        confirming.run()
    more = budget.model_copy(update={"money": 2.0})
    confirming.config = CONFIG.model_copy(update={"budget": more})
    confirming.meter = confirming.new_meter()
    assert confirming.run().state == "confirmed"
    assert set(confirming.engine.steps.values()) == {1}


def test_its_wait_behind_other_searches_costs_nothing(confirming: Confirming) -> None:
    behind: Any = SimpleNamespace(take_behind_s=iter([50.0, 0.0]).__next__)
    meter = confirming.meter
    with EventLog(confirming.folder.events) as events, meter.running():
        data = SearchData(SOURCE, DataRecord(rows={}), digests={})
        of = Confirmation(CONFIG, confirming.folder, data, events, "", None, print, meter)
        assert meter._noted is not None
        meter._noted -= 60
        gives_up = of._waiting(behind)
        assert not gives_up()
        assert not gives_up()  # left out once
    assert 10 <= confirming.ledger.spent("confirm_s") < 11
