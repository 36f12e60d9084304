"""Ray Tune's questions, its rounds, and its news of lost processes, passed on to the conductor.

Tune's own searcher over an RDB study keeps a second ledger, which drifts from the first
when a driver dies. These adapters keep nothing: a trial's assignment is in its config. Tune
pickles them into a snapshot of its own, which nobody reads; they go into it empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from orchestrator.assignment import TrialReport
from orchestrator.conductor import Conductor
from orchestrator.failures import FailureKind, classify

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController


class LedgerSearcher(Searcher):
    """Tune asks which trial to run next; the ledger answers."""

    def __init__(self, conductor: Conductor, room: Callable[[], int]) -> None:
        """Pass questions on.

        Args:
            room: how many trials the engines of this moment take.
        """
        super().__init__()
        self._conductor = conductor
        self._room = room
        self._held: dict[str, int] = {}  # Tune's trials that have a process

    def suggest(  # type: ignore[override]  # Tune takes FINISHED and None too
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """An assignment as plain data, FINISHED, or None while the engines are full.

        A trial that has ended holds its place until Tune has put its process aside: asked sooner,
        Tune starts a process for the next one, and throws it away when it finds the other.
        """
        running = max(self._conductor.running, len(self._held))
        if self._conductor.halted is None and running >= self._room():
            return None
        assignment = self._conductor.assign()
        if assignment is None:
            finished: str = Searcher.FINISHED
            return finished
        self._held[trial_id] = assignment.number
        return asdict(assignment)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial has no process any more; what becomes of one given up, `LostTrials` says."""
        self._held.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class LostTrials(Callback):
    """Tune starts a trial again whose process was lost; the ledger counts the attempt.

    A process that is lost while it takes the next trial counts for Tune as two losses at once: it
    means to start the trial again, and gives it up. The ledger then gives it out anew.
    """

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """The new process gets the new attempt's number; the lost one keeps its own."""
        attempt = self._conductor.on_lost(trial.config["number"])
        if attempt is not None:
            trial.config["attempt"] = attempt

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Tune has given a trial up; one whose failure is known is closed already."""
        number = trial.config["number"]
        if trial.should_recover():  # type: ignore[no-untyped-call]
            self._conductor.put_back(number)
        else:
            reason = "its process was lost as often as it was started"
            self._conductor.on_error(number, reason, FailureKind.LOST_MACHINE)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Tune's loop has gone round, in the thread that alone writes the ledger."""
        self._conductor.on_round()

    def __getstate__(self) -> dict[str, Any]:
        return {}


class LedgerScheduler(FIFOScheduler):
    """Tune asks whether a trial goes on; the ledger answers."""

    def __init__(self, conductor: Conductor, release: Callable[[str], None]) -> None:
        """Pass results on.

        Args:
            release: called with the uid of a trial that has ended, to free its engine.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._conductor = conductor
        self._release = release

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        """CONTINUE or STOP."""
        report: TrialReport = result["report"]
        # Where a lost process is started again.
        trial.config.update(start_step=report.step, reported=not report.paused)
        if self._conductor.on_report(report):
            return str(FIFOScheduler.CONTINUE)
        self._release(report.uid)
        return str(FIFOScheduler.STOP)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """A process was lost or raised; one that Tune does not start again has failed of that."""
        error = trial.get_pickled_error()
        if error is not None and not trial.should_recover():  # type: ignore[no-untyped-call]
            failure = classify(error)
            self._conductor.on_error(trial.config["number"], failure.reason, failure.kind)

    def __getstate__(self) -> dict[str, Any]:
        return {}
