"""Confirmation: is the search's winner really better, on data that the search never saw?

    ledger ─► top configurations ─► controls ─► members with fresh seeds, trained on one engine
                                                     │
    champion ◄── verdict ◄── intervals, tests ◄── yes or no per item of test_id and test_ood

A search picks the best of many noisy scores, which flatter it. So its best configurations are
trained again and judged beside their controls on the test splits. Only what is better there than
the best control becomes `champion`; that nothing is, is an answer too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.arms import Arm, top_arms
from orchestrator.config import SearchConfig, load_search
from orchestrator.confirmation_budget import ConfirmationMeter, planned_confirmation
from orchestrator.confirmation_estimate import tested_split
from orchestrator.confirmation_record import (
    ConfirmationRecord,
    read_confirmation,
)
from orchestrator.confirmation_work import Work
from orchestrator.control import Requests
from orchestrator.disk import naming_any_full_disk
from orchestrator.driver_lock import driver_lock
from orchestrator.engines.calls import FleetCalls
from orchestrator.engines.fleet import Fleet
from orchestrator.engines.ray_fleet import open_fleet
from orchestrator.errors import ConfirmationError
from orchestrator.events import EventLog
from orchestrator.files import write_atomic
from orchestrator.folders import SearchFolder, home_folder
from orchestrator.ledger import LedgerTrial, read_ledger
from orchestrator.members import Bench, count_reports
from orchestrator.opening import open_ledger
from orchestrator.ray_session import ray_session
from orchestrator.results import SearchResult, spent_record
from orchestrator.search_data import SearchData, data_differences, read_data
from orchestrator.tracking import tracking_uri
from orchestrator.verdict_words import metric_of, retold
from trainable.data import TEST_SPLITS, Split

logger = logging.getLogger(__name__)


Say = Callable[[str], None]


def confirm(
    name: str,
    overrides: Sequence[str] = (),
    *,
    home: str | Path | None = None,
    interrupt: threading.Event | None = None,
    say: Say = logger.info,
) -> ConfirmationRecord:
    """Confirm a search, or go on with that.

    Args:
        name: the search's.
        overrides: `confirm.key=value`.
        home: LATENTUNE_HOME.
        interrupt: when set, members save their state and ConfirmationHaltedError is raised.
        say: what goes on, for a person.

    Raises:
        SearchNotFoundError: if there is no such search.
        SearchLockedError: if a driver runs it.
        ConfirmationError: where there is nothing to confirm, or nothing to test on, or a budget
            does not cover it.
        ConfirmationHaltedError: if it was stopped.
    """
    folder = SearchFolder.existing(home_folder(home), name)
    for override in overrides:
        if not override.strip().startswith("confirm."):
            raise ConfirmationError(
                f"--set {override}: a search that has run keeps its configuration; only fields of "
                "`confirm` can be changed, for example --set confirm.seeds=8"
            )
    config = load_search(folder.config, overrides)
    uri = tracking_uri(home_folder(home), config.tracking.uri)
    with naming_any_full_disk(folder.path), driver_lock(folder) as fence:
        Requests(folder).forget_search()
        if changed := data_differences(config, folder):
            listed = "\n".join(f"  {line}" for line in changed)
            raise ConfirmationError(
                f"search {name!r} was run on other rows:\n{listed}\nbring these files back"
            )
        data = read_data(config, home_folder(home))
        with (
            EventLog(folder.events, fence) as events,
            closing(open_ledger(config, folder, fence=fence)) as ledger,
        ):
            meter = ConfirmationMeter(ledger, config, planned_confirmation(events))
            record = Confirmation(config, folder, data, events, uri, interrupt, say, meter).go()
            spent = spent_record(config, ledger.all(), ledger.study)
        if folder.result.exists():
            result = SearchResult.model_validate_json(folder.result.read_text())
            told = result.model_copy(update={"confirmation": record, "spent": spent})
            write_atomic(folder.result, told.model_dump_json(indent=1).encode())
    return record


@dataclass
class Confirmation:
    """One confirmation, under the search's lock.

    Args:
        config: the search's, with its `confirm` section.
        folder: the search's.
        data: its rows.
        events: its event log.
        uri: where tracking goes.
        interrupt: when set, everything stops.
        say: what goes on, for a person.
        meter: counts what it takes, and knows what it may.
    """

    config: SearchConfig
    folder: SearchFolder
    data: SearchData
    events: EventLog
    uri: str
    interrupt: threading.Event | None
    say: Say
    meter: ConfirmationMeter

    def go(self) -> ConfirmationRecord:
        """Do what is not done yet, and say what came of it.

        Raises:
            ConfirmationError: where it cannot be, or a budget does not cover it.
            ConfirmationHaltedError: if it was stopped, or a budget is over.
        """
        trials = read_ledger(self.folder.path, self.config.name)
        candidates = self._candidates(trials)
        inputs = self._inputs(candidates)
        known = read_confirmation(self.folder.confirmation)
        if known is not None and known.inputs == inputs and self._is_whole(known):
            return retold(known, self.config.task.distance_unit) or known
        self.meter.check(count_reports(self.folder))
        with (
            self.meter.running(),
            ray_session(self.folder.path),
            self._bench() as (bench, base_model),
        ):
            return Work(self, bench, base_model, trials, candidates, inputs).run()

    def _is_whole(self, known: ConfirmationRecord) -> bool:
        """Whether the last confirmation got to its end, and left nothing out that may go now.

        A kill after the record was written leaves its end open.
        """
        if any(arm.try_again for arm in known.arms):
            return False
        ends = [e for e in self.events.read() if e.type == "confirm_ended"]
        return bool(ends) and ends[-1].payload["state"] != "interrupted"

    def halted(self) -> bool:
        """Whether somebody wants it to stop, or a budget that bounds it is over."""
        pressed = self.interrupt is not None and self.interrupt.is_set()
        return pressed or Requests(self.folder).search() or self.meter.seconds_left() <= 0

    @property
    def test_splits(self) -> list[Split]:
        """The splits that it is judged on."""
        return [split for split in TEST_SPLITS if split in self.config.task.splits()]

    def _candidates(self, trials: Sequence[LedgerTrial]) -> list[Arm]:
        objective = self.config.objective
        needed = tested_split(objective)
        if needed not in self.test_splits:
            raise ConfirmationError(
                f"the objective is {objective}, but the task has no {needed} to confirm it on: "
                f"give task.{needed} a file or task.split.test a share, in a search of its own"
            )
        candidates = top_arms(trials, objective, self.config.confirm.top)
        if not candidates:
            raise ConfirmationError(
                f"search {self.config.name!r} has no trial with latents and a score that could be "
                "confirmed: run it first"
            )
        return candidates

    def _inputs(self, candidates: Sequence[Arm]) -> str:
        section = self.config.confirm.model_dump(
            mode="json", exclude={"enabled", "members_at_once"}
        )
        asked = [[arm.key for arm in candidates], section, self.config.objective]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    @contextmanager
    def _bench(self) -> Iterator[tuple[Bench, Mapping[str, Any]]]:
        from orchestrator.opening import engine_options

        config = self.config
        with open_fleet(
            config,
            engine_options(config),
            self.data.source.task,
            self.folder.path,
            self.say,
            most=1,
        ) as fleet:
            fleet.gives_up = self._waiting(fleet)
            calls = FleetCalls(fleet)
            calls.wait()
            self.meter.gpu_clock = lambda: (fleet.gpu_s, fleet.gpus)
            bench = Bench(
                engine=calls,
                name=fleet.plan.pool,
                holder=fleet.plan.holder,
                data=self.data.source,
                splits=config.task.splits(),
                steps=config.budget.steps,
                at_once=config.confirm.members_at_once,
                folder=self.folder,
                events=self.events,
                halt=self.halted,
                say=self.say,
                metric=metric_of(config.objective),
                note=self.meter.note,
            )
            yield bench, fleet.base_model

    def _waiting(self, fleet: Fleet) -> Callable[[], bool]:
        """Whether it stops while it waits for an engine; a wait behind others costs nothing."""

        def gives_up() -> bool:
            self.meter.skip(fleet.take_behind_s())
            return self.halted()

        return gives_up
