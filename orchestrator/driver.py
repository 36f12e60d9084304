"""Run a search: the one function behind `latentune run`.

    lock ─► ledger, event log, shipper ─► Ray, engine ─► Tune runs thin trials ─► result

Running the same search again goes on where it stood. What stops a run early (Ctrl-C, a
request under control/, the time budget) pauses its trials: each saves its state where it
stands, and the ledger knows. A search that a budget ended is reported on and confirmed like one
that is complete; where the budget is raised, it goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.conductor import Conductor, EngineInfo, Quiet, Watcher
from orchestrator.config import SearchConfig, load_search
from orchestrator.confirmation_record import ConfirmationCost
from orchestrator.control import Requests
from orchestrator.costs import LayoutCosts, open_costs
from orchestrator.disk import check_space, check_writable, disk_need, naming_any_full_disk
from orchestrator.driver_lock import driver_lock
from orchestrator.errors import ConfirmationError, ConfirmationHaltedError, NoEngineError
from orchestrator.events import EventLog
from orchestrator.files import write_atomic
from orchestrator.first_trials import learn_from_earlier
from orchestrator.folders import SearchFolder, home_folder
from orchestrator.halting import Watch
from orchestrator.ledger import Ledger, TrialStatus
from orchestrator.opening import (
    check_base_model,
    check_same,
    engine_options,
    has_begun,
    is_over,
    leaving_nothing_unbegun,
    open_ledger,
    refuse_differences,
    state_told,
)
from orchestrator.results import (
    DataRecord,
    Estimate,
    SearchResult,
    SearchState,
    TimeSplit,
    spent_record,
)
from orchestrator.safety.floors import check_floors
from orchestrator.safety.ray_token import keep_ray_at_home
from orchestrator.search_data import SearchData, data_differences, read_data
from orchestrator.search_end import SearchEnd
from orchestrator.service.on_end import tell_end
from orchestrator.spending import Meter, Spending
from orchestrator.study.storage import Fence
from orchestrator.tracking import ShipperKeeper, tracking_uri
from orchestrator.work_left import estimate_left
from trainable.artifact import versions
from trainable.errors import DiskFullError

if TYPE_CHECKING:
    from orchestrator.engines.fleet import Fleet

logger = logging.getLogger(__name__)


def run(
    config: SearchConfig | str | Path,
    *,
    home: str | Path | None = None,
    watcher: Watcher | None = None,
    interrupt: threading.Event | None = None,
    say: Callable[[str], None] = logger.info,
) -> SearchResult:
    """Run a search to its end, or go on with one that was interrupted.

    At its end, and where a budget ends it, the winner is confirmed, unless `confirm.enabled` is
    false.

    Args:
        config: the search, or the path of its YAML file.
        home: LATENTUNE_HOME.
        watcher: sees trials begin and report.
        interrupt: when set, running trials save their state and the run ends; the same call
            goes on later.
        say: what the confirmation does, for a person.

    Returns:
        How the search stands: `complete`, `spent` where a budget ended it, `interrupted`, or
        `failed` if every trial failed.

    Raises:
        ConfigError: for a file that cannot be used.
        SearchExistsError: if the search exists with another configuration.
        SearchLockedError: if another driver runs it.
        LedgerError: for a ledger that cannot be used, or that a newer version wrote.
        BaseModelError, TaskError: for a base model or task that cannot be used; nothing has
            been written then.
        HomeError: for a LATENTUNE_HOME that cannot be written.
        DiskFullError: where the disk is, or would become, full; the same call goes on later.
    """
    began = time.monotonic()
    check_floors()
    keep_ray_at_home()
    if not isinstance(config, SearchConfig):
        config = load_search(config)
    folder = SearchFolder.of(home_folder(home), config.name)
    folder.check_own()
    check_writable(home_folder(home))
    check_base_model(config)
    check_same(config, folder)
    refuse_differences(config.name, data_differences(config, folder))
    data = read_data(config, home_folder(home))
    uri = tracking_uri(home_folder(home), config.tracking.uri)
    with (
        naming_any_full_disk(folder.path),
        driver_lock(folder) as fence,
        leaving_nothing_unbegun(folder, fence),
        ExitStack() as opened,
    ):
        Requests(folder).forget_search()
        write_atomic(folder.config, config.to_yaml().encode())
        if not folder.data.exists():
            write_atomic(folder.data, data.record.model_dump_json(indent=1).encode())
        costs = open_costs(config, home_folder(home))
        ledger = open_ledger(config, folder, costs, fence)
        opened.callback(ledger.close)
        learn_from_earlier(ledger.study, config, home_folder(home))
        seen = watcher or Quiet()
        run = _Run(config, folder, data, ledger, fence, costs, uri, seen, began, say)
        return run.told(interrupt)


@dataclass
class _Run:
    """One run of a search, from the lock to the result."""

    config: SearchConfig
    folder: SearchFolder
    data: SearchData
    ledger: Ledger
    fence: Fence
    costs: LayoutCosts | None
    uri: str
    watcher: Watcher
    began: float
    say: Callable[[str], None]
    estimate: Estimate | None = None

    def __post_init__(self) -> None:
        self._meter = Meter(self.ledger, self.config.budget, self.began)
        counts = self.costs is not None and self.config.budget.tokens is not None
        tokens = self.costs.tokens if self.costs is not None and counts else None
        self._spending = Spending(self.config.budget, self.ledger.all(), tokens)

    def told(self, interrupt: threading.Event | None) -> SearchResult:
        """Run what is left, and tell the user's command how that ended."""
        command, folder = self.config.tracking.on_end, self.folder.path
        try:
            with naming_any_full_disk(folder):
                result = self.go(interrupt or threading.Event())
        except DiskFullError:
            tell_end(command, folder, "interrupted")
            raise
        tell_end(command, folder, result.state)
        return result

    def go(self, interrupt: threading.Event) -> SearchResult:
        """Run what is left, then hand over."""
        self.watcher.search_opened(self.ledger.all())
        with EventLog(self.folder.events, self.fence) as events:
            end = SearchEnd(
                config=self.config,
                folder=self.folder,
                data=self.data,
                ledger=self.ledger,
                events=events,
                uri=self.uri,
            )
            if self._is_spent() and self._has_work():
                return self._confirmed(events, interrupt, self._finish_spent(end))
            if not self._has_work() and is_over(events):
                return self._confirmed(events, interrupt, end.finish("complete"))
            # Ray and its parts take a second to import; a search that is over needs none.
            from orchestrator.ray_session import ray_session

            with ray_session(self.folder.path) as ray_scratch:
                result = self._execute(end, interrupt, ray_scratch)
                return self._confirmed(events, interrupt, result)

    def _confirmed(
        self, events: EventLog, interrupt: threading.Event, result: SearchResult
    ) -> SearchResult:
        """The result with what came of confirming it, where that is wanted and possible."""
        if not self.config.confirm.enabled or result.state not in ("complete", "spent"):
            return result
        from orchestrator.confirmation import Confirmation  # it imports Ray
        from orchestrator.confirmation_budget import ConfirmationMeter, planned_confirmation

        meter = ConfirmationMeter(self.ledger, self.config, planned_confirmation(events))
        work = Confirmation(
            self.config, self.folder, self.data, events, self.uri, interrupt, self.say, meter
        )
        found: dict[str, Any] = {}
        try:
            found["confirmation"] = work.go()
        except ConfirmationError as error:
            self.say(f"not confirmed: {error}")
        except ConfirmationHaltedError:
            found["state"] = "spent" if meter.seconds_left() <= 0 else "interrupted"
        if meter.seconds:
            found["confirm_cost"] = ConfirmationCost(
                seconds=meter.seconds, steps=meter.steps, estimate=meter.planned
            )
        found["spent"] = spent_record(self.config, self.ledger.all(), self.ledger.study)
        result = result.model_copy(update=found)
        self.fence()
        write_atomic(self.folder.result, result.model_dump_json(indent=1).encode())
        return result

    def _finish_spent(self, end: SearchEnd) -> SearchResult:
        """A budget ended the search before anything was trained in this run."""
        untold = state_told(end.events) != "spent" and has_begun(self.folder)
        return end.finish("spent", tells=untold)

    def _is_spent(self) -> bool:
        """Whether a budget lets no trial go on."""
        return self._meter.seconds_left() <= 0 or not self._spending.is_open

    def _state(self, conductor: Conductor, interrupt: threading.Event) -> SearchState:
        """How the trials ended: none is left, a budget is spent, or something came between."""
        if not self._has_work():
            return "complete"
        came_between = conductor.halted not in (None, "time") or conductor.full_disk is not None
        stopped = came_between or interrupt.is_set()
        return "spent" if self._is_spent() and not stopped else "interrupted"

    def _has_work(self) -> bool:
        """Whether a trial is unfinished or still to be asked."""
        running = any(t.status is TrialStatus.RUNNING for t in self.ledger.all())
        return running or self.ledger.has_work()

    def _execute(self, end: SearchEnd, interrupt: threading.Event, scratch: Path) -> SearchResult:
        """Train what is left, on the engines of this search."""
        from orchestrator.engines.ray_fleet import open_fleet

        config, engine = self.config, engine_options(self.config)
        task, folder = self.data.source.task, self.folder.path
        with open_fleet(config, engine, task, folder, self.say) as fleet:
            self._meter.gpu_clock = lambda: (fleet.gpu_s, fleet.gpus)
            fleet.gives_up = self._waiting(fleet, interrupt)
            try:
                fleet.wait()
                left = self._announce(end.events, fleet)
            except NoEngineError:
                self._meter.note(self._spending.tokens)
                asked = self._is_asked(interrupt)
                return end.finish("interrupted") if asked else self._finish_spent(end)
            shipper = ShipperKeeper(self.folder.path, self.uri)
            conductor = self._conductor(end.events, EngineInfo(fleet.plan.pool, fleet.base_model))
            conductor.settle()
            fleet.work = lambda: max(left - conductor.ended, conductor.running)
            self._train(conductor, fleet, shipper, interrupt, scratch)
            clock = fleet.clock
            state = self._state(conductor, interrupt)
            fleet.is_kept = config.confirm.enabled and state != "interrupted"
            self.fence()  # where another driver took over, the leases are that one's
        self._meter.note(self._spending.tokens)
        result = end.finish(state, self._split(clock), shipper.process, self.estimate)
        if conductor.full_disk is not None and state == "interrupted":
            raise DiskFullError(conductor.full_disk)
        return result

    def _waiting(self, fleet: Fleet, interrupt: threading.Event) -> Callable[[], bool]:
        """Whether a run that waits for an engine is to end; a wait behind others costs nothing."""

        def gives_up() -> bool:
            self._leave_out(fleet.take_behind_s())
            self._note()
            return self._is_asked(interrupt) or self._meter.seconds_left() <= 0

        return gives_up

    def _is_asked(self, interrupt: threading.Event) -> bool:
        """Whether a person wants the run to end."""
        return interrupt.is_set() or Requests(self.folder).search()

    def _leave_out(self, seconds: float) -> None:
        """Have time pass that is not spent."""
        self.began += seconds
        self._meter.skip(seconds)

    def _announce(self, events: EventLog, fleet: Fleet) -> int:
        """Check the rows against the model, show what the search will cost, and tell its start.

        Returns:
            How many trials are not at their end.
        """
        record = self.data.checked(fleet.ask("check", self.data.source))
        self.fence()  # raises where another driver took over while an engine was waited for
        write_atomic(self.folder.data, record.model_dump_json(indent=1).encode())
        self.watcher.data_read(record)
        left = self.config.budget.trials - len(self.ledger.all())
        width = fleet.base_model["hidden_size"]
        check_space(self.folder.path, disk_need(self.config, width, max(0, left), self.uri))
        left = self._plan(fleet)
        self.fence()  # a person was waited for
        self.folder.result.unlink(missing_ok=True)  # of a run before; if this one dies, it is false
        events.append("search_started", self._describe(dict(fleet.base_model), record))
        return left

    def _conductor(self, events: EventLog, engine: EngineInfo) -> Conductor:
        return Conductor(
            self.config, self.folder, self.ledger, events, engine, self.data.source,
            self.watcher, self._spending, self._note,
        )  # fmt: skip

    def _note(self) -> None:
        """Write down what was spent, once a second however often this is called."""
        self._meter.note(self._spending.tokens, last=False)

    def _train(
        self,
        conductor: Conductor,
        fleet: Fleet,
        shipper: ShipperKeeper,
        interrupt: threading.Event,
        scratch: Path,
    ) -> None:
        """Let Tune run the trials, until there are none or something ends the run early."""
        from orchestrator.ray_session import run_trials
        from orchestrator.tune_adapters import LedgerScheduler, LedgerSearcher, LostTrials

        fleet.unpause([self.folder.uid(t.number) for t in self.ledger.all()])
        watch = Watch(
            conductor=conductor,
            folder=self.folder,
            interrupt=interrupt,
            seconds_left=self._meter.seconds_left,
            pause=fleet.pause,
            halt=fleet.halt,
            look=shipper.look,
        )
        with watch.kept():
            begins = self.ledger.has_work() and not interrupt.is_set()
            while begins:
                run_trials(
                    LedgerSearcher(conductor, lambda: fleet.room),
                    LedgerScheduler(conductor, fleet.leave),
                    LostTrials(conductor),
                    fleet.plan.most_trials,
                    scratch,
                )
                begins = conductor.owes  # Tune gave one up after it had asked for the last

    def _split(self, clock: dict[str, float]) -> TimeSplit:
        return TimeSplit(
            total_s=time.monotonic() - self.began,
            train_s=clock["train_s"],
            evaluate_s=clock["evaluate_s"],
            idle_s=clock["idle_s"],
            trial_steps=int(clock["trial_steps"]),
            ask_s=self.ledger.ask_s,
        )

    def _plan(self, fleet: Fleet) -> int:
        """Estimate what is left to do, on the engine at hand, and show it before it is spent.

        Returns:
            How many trials are not at their end.
        """
        fits = None if self.costs is None else self.costs.fits
        left = estimate_left(self.config, self.data.source, self.ledger.all(), fleet, fits)
        self.estimate = left.estimate
        asked_at = time.monotonic()
        self.watcher.planned(left.estimate, left.warnings, going_on=bool(self.ledger.all()))
        self._leave_out(time.monotonic() - asked_at)  # while a person thinks, nothing is spent
        return left.trials

    def _describe(self, base_model: dict[str, Any], data: DataRecord) -> dict[str, Any]:
        return {
            "search": self.config.name,
            "experiment": self.config.tracking.experiment,
            "objective": self.config.objective,
            "config": self.config.model_dump(mode="json"),
            "versions": versions(),
            "base_model": base_model,
            "data": data.model_dump(mode="json", include={"rows", "dropped", "overlap", "sha256"}),
            "estimate": self.estimate and self.estimate.model_dump(mode="json"),
        }
