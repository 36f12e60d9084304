"""The members of a confirmation: configurations with fresh seeds, trained and scored.

    members ─► one engine, in one fused batch, in rounds where they are too many
       │ after each stretch: state, event          at the end: report, yes or no per test item
       └─► trials/UID/STEP-….safetensors           └─► confirm/members/UID.json, UID-ROWS.parquet

What is on disk is not done again: a confirmation that was killed goes on from the members'
last states. Each start of a member is an attempt, and the fence is asked before each file: a
driver that hung, and lost the search, pushes nobody out and writes nothing. Seed i decides the
init and the order of examples of the i-th member of every configuration, so that members of a
seed are pairs.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.assignment import Assignment, DataSource
from orchestrator.checkpoints import last_step, load_state, save_state
from orchestrator.engines.calls import EngineCalls
from orchestrator.errors import (
    ClusterError,
    ConfirmationHaltedError,
    EngineFullError,
    EngineLostError,
)
from orchestrator.events import EventLog
from orchestrator.files import write_atomic
from orchestrator.folders import SearchFolder
from orchestrator.item_tables import item_table, write_items
from orchestrator.safety.redaction import Redaction
from trainable.data import SEARCH_SPLITS, TEST_SPLITS, Split
from trainable.errors import DiskFullError, LatentuneError, UnknownTrialError
from trainable.item_scores import ItemScores
from trainable.metrics import EXACT_MATCH
from trainable.trial import TrialConfig

STRETCHES = 5  # states are saved so often
_POLL_S = 0.25
_RETRY_S = 1.0
_SCORED_AT_ONCE = 8  # members; what a kill in between costs
_PASSING = (ClusterError, DiskFullError)  # of the machine, not of the configuration


@dataclass(frozen=True, kw_only=True)
class Member:
    """One configuration with one seed.

    Args:
        uid: NAME-confirm-KEY-SEED.
        config: with its seed.
        stage: `confirm`, or `tune` for one that only tries a control's learning rate.
    """

    uid: str
    config: TrialConfig
    stage: str = "confirm"


@dataclass(frozen=True)
class MemberReport:
    """What a member reached on validation data, or why it could not.

    Args:
        again: whether what it failed of may pass, so that the next confirmation tries it again.
    """

    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    failed: str | None = None
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where members are trained.

    Args:
        engine: how it is called.
        name: the engine's.
        holder: whose members they are there, as in `FleetPlan`.
        data: what they read.
        splits: those that the task has.
        steps: optimiser steps of each.
        at_once: members in one fused batch.
        folder: the search's.
        events: its event log.
        halt: whether to stop at once; asked all the time.
        say: what goes on, for a person.
        metric: what items are scored by besides exact match, where it can be said of one item.
        note: told of optimiser steps that were made, and of time that passed.
    """

    engine: EngineCalls
    name: str
    data: DataSource
    splits: Sequence[Split]
    steps: int
    at_once: int
    folder: SearchFolder
    events: EventLog
    halt: Callable[[], bool]
    say: Callable[[str], None]
    metric: str = EXACT_MATCH
    note: Callable[[int], None] = lambda _: None
    holder: str = ""

    def train(self, members: Sequence[Member]) -> dict[str, MemberReport]:
        """Train what is not trained yet.

        Raises:
            ConfirmationHaltedError: when halted; states are saved.
            SearchLockedError: where another driver took the search over.
        """
        known = {member.uid: self._sound_report(member.uid) for member in members}
        waiting = [member for member in members if known[member.uid] is None]
        for begin in range(0, len(waiting), self.at_once):
            chosen = waiting[begin : begin + self.at_once]
            self.say(f"confirm: training {len(chosen)} of {len(waiting)} members")
            _Round(self, chosen).run()
        return {
            member.uid: report
            for member in members
            if (report := self._report(member.uid)) is not None
        }

    def score(self, members: Sequence[Member], rows: int | None) -> None:
        """Score trained members on the test splits, item by item, where that is not done yet."""
        waiting = [m for m in members if not self.items_path(m.uid, rows).exists()]
        for begin in range(0, len(waiting), _SCORED_AT_ONCE):
            if self.halt():
                raise ConfirmationHaltedError("the confirmation was stopped")
            chosen = waiting[begin : begin + _SCORED_AT_ONCE]
            self.say(f"confirm: scoring {begin + len(chosen)} of {len(waiting)} on test splits")
            self._score(chosen, rows)
            self.note(0)

    def items_path(self, uid: str, rows: int | None) -> Path:
        """Where a member's items are."""
        metric = "" if self.metric == EXACT_MATCH else f"-{self.metric}"
        return self.folder.confirm / "members" / f"{uid}-{rows or 'all'}{metric}.parquet"

    def save_report(self, uid: str, report: MemberReport) -> None:
        """Write what a member reached. Raises as `train`."""
        self.events.fence()
        path = self._report_path(uid)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(asdict(report)).encode())

    def last_step(self, uid: str) -> int:
        """The step of a member's last sound state; 0 without one."""
        return last_step(self.folder.trial(uid))

    def _score(self, members: Sequence[Member], rows: int | None) -> None:
        trained = []
        for member in members:
            state = load_state(self.folder.trial(member.uid), self.steps)
            assert state is not None, "a trained member has a state"
            trained.append((member.config.strategy.to_dict(), state))
        tables: list[list[pa.Table]] = [[] for _ in members]
        for split in (s for s in TEST_SPLITS if s in self.splits):
            found: ItemScores = self.engine.ask(
                "exact_matches", self.data, trained, split, rows, self.metric
            )
            for place, member in enumerate(members):
                tables[place].append(item_table(member.uid, member.config, split, found, place))
        self.events.fence()
        for member, parts in zip(members, tables, strict=True):
            write_items(self.items_path(member.uid, rows), parts)

    def _sound_report(self, uid: str) -> MemberReport | None:
        """What a member reached; None where it is to be trained, for the first time or again."""
        report = self._report(uid)
        if report is None or report.failed is not None:
            return None if report is None or report.again else report
        sound = load_state(self.folder.trial(uid), report.step) is not None
        if not sound:
            self.say(f"confirm: the state of {uid} is damaged or missing; it is trained again")
        return report if sound else None

    def _report(self, uid: str) -> MemberReport | None:
        path = self._report_path(uid)
        return MemberReport(**json.loads(path.read_text())) if path.exists() else None

    def _report_path(self, uid: str) -> Path:
        return self.folder.confirm / "members" / f"{uid}.json"


def count_reports(folder: SearchFolder) -> int:
    """How many members of a search have come to their end, in whatever was confirmed of it."""
    return sum(1 for _ in (folder.confirm / "members").glob("*.json"))


def begun(events: EventLog) -> Counter[str | None]:
    """How often each trial, or member, was begun, by uid: its last attempt."""
    return Counter(event.trial_uid for event in events.read() if event.type == "trial_started")


class _Round:
    """Some members together, from their last states to the end."""

    def __init__(self, bench: Bench, members: Sequence[Member]) -> None:
        self._bench = bench
        self._members = {member.uid: member for member in members}
        self._steps = {uid: bench.last_step(uid) for uid in self._members}
        self._joined: set[str] = set()
        before = begun(bench.events)
        self._attempts = {uid: before[uid] + 1 for uid in self._members}

    def run(self) -> None:
        """Train them all. Raises as `Bench.train`."""
        uids = list(self._members)
        self._bench.engine.ask("unpause", uids, self._bench.holder)
        for uid in uids:
            self._tell_start(self._members[uid])
        calls = dict(self._calls(uids))
        halted = False
        while calls:
            # All of them, or those that are there by then: what goes on, goes on together.
            done = self._bench.engine.ready(list(calls), _POLL_S)
            again = [uid for call in done if self._goes_on(uid := calls.pop(call), call)]
            if self._bench.halt() and not halted:
                halted = True
                self._bench.engine.begin("pause", list(calls.values()), self._bench.holder)
            calls |= {} if halted else dict(self._calls(again))
        if halted:
            raise ConfirmationHaltedError("the confirmation was stopped")

    def _calls(self, uids: Sequence[str]) -> Iterator[tuple[Any, str]]:
        """A call of `train` for each, after all have joined."""
        for uid in uids:
            if uid not in self._joined and self._join(uid):
                self._joined.add(uid)
        for uid in uids:
            if uid in self._joined:
                goal = self._goal(self._steps[uid])
                splits = self._search_splits() if goal == self._bench.steps else []
                train = ("train", uid, goal, splits, self._bench.holder)
                yield self._bench.engine.begin(*train), uid

    def _goal(self, step: int) -> int:
        steps = self._bench.steps
        stretch = math.ceil(steps / STRETCHES)
        return min(steps, (step // stretch + 1) * stretch)

    def _search_splits(self) -> list[Split]:
        return [split for split in SEARCH_SPLITS if split in self._bench.splits]

    def _join(self, uid: str) -> bool:
        """Bring a member into the engine; one that it refuses has failed."""
        bench, member = self._bench, self._members[uid]
        assignment = Assignment(
            uid=uid,
            number=-1,
            attempt=self._attempts[uid],
            config=member.config.to_dict(),
            data=asdict(bench.data),
            start_step=self._steps[uid],
            rungs=[bench.steps],
            splits=list(self._search_splits()),
            engine=bench.name,
            folder=str(bench.folder.trial(uid)),
            stream_seed=member.config.seed,
        )
        state = load_state(bench.folder.trial(uid), self._steps[uid])
        while True:
            bench.events.fence()
            try:
                bench.engine.ask("join", assignment, state, bench.holder)
                return True
            except EngineLostError:  # the next call waits for the next engine
                time.sleep(_RETRY_S)
            except EngineFullError:  # a later attempt is there: another driver's, says the fence
                if bench.halt():
                    raise ConfirmationHaltedError("stopped while it waited for room") from None
                time.sleep(_RETRY_S)
            except LatentuneError as error:
                self._fail(member, error)
                return False

    def _goes_on(self, uid: str, call: Any) -> bool:
        """Take in an answer; whether the member has more to train."""
        member = self._members[uid]
        try:
            answer: dict[str, Any] = self._bench.engine.answer(call)
        except (EngineLostError, UnknownTrialError):  # it joins again, with its last saved state
            self._joined.discard(uid)
            return True
        except LatentuneError as error:
            self._fail(member, error)
            return False
        return self._saved(member, answer)

    def _saved(self, member: Member, answer: Mapping[str, Any]) -> bool:
        bench, uid, step = self._bench, member.uid, int(answer["step"])
        bench.events.fence()
        save_state(bench.folder.trial(uid), step, answer["state"])
        trains = member.config.strategy.latent_count > 0
        bench.note((step - self._steps[uid]) * trains)
        self._steps[uid] = step
        payload = {"step": step, "metrics": answer["metrics"], "curve": answer["curve"]}
        attempt = self._attempts[uid]
        bench.events.append("trial_report", payload, trial_uid=uid, attempt=attempt)
        if step < bench.steps or answer["paused"]:
            return True
        bench.save_report(uid, MemberReport(step, dict(answer["metrics"])))
        bench.engine.begin("leave", uid, bench.holder)
        return False

    def _fail(self, member: Member, error: LatentuneError) -> None:
        told = Redaction.of_environment().of_text(str(error))  # it goes into reports
        again = isinstance(error, _PASSING)
        report = MemberReport(self._steps[member.uid], failed=told, again=again)
        self._bench.save_report(member.uid, report)

    def _tell_start(self, member: Member) -> None:
        self._bench.events.append(
            "trial_started",
            {
                "number": None,
                "name": member.config.strategy.short_name,
                "role": member.stage,
                "stage": "confirm",
                "params": {"optim.lr": member.config.optim.lr, "seed": member.config.seed},
                "config": member.config.to_dict(),
            },
            trial_uid=member.uid,
            attempt=self._attempts[member.uid],
        )
