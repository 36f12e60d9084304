"""The Tune trainable: it holds nothing but an assignment, and asks an engine to train it.

A trial process imports no torch. One `step()` is one rung: train, save the state, report.
An engine that died or has forgotten the trial is joined again with the last sound state. What
the engine raises is reported with its kind (`failures`), and its traceback kept beside the
trial's states; only what is lost is raised, for Tune to start again.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.assignment import Assignment, TrialReport
from orchestrator.checkpoints import find_state, save_state, set_aside
from orchestrator.engine_actor import NAMESPACE
from orchestrator.failures import Failure, FailureKind, classify
from orchestrator.files import write_atomic
from orchestrator.safety.redaction import Redaction
from trainable.errors import DiskFullError, LatentuneError, StateError, UnknownTrialError

ERROR_FILE = "error.txt"
_ENGINE_WAIT_S = 120.0
_RETRY_S = 1.0


class ThinTrial(tune.Trainable):
    """One trial of a search, as Ray Tune sees it."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take an assignment."""
        self._assignment = Assignment(**config)
        self._step = self._assignment.start_step
        self._joined = False
        self._problems: list[str] = []
        # Where it was paused, or its report was lost, that step is still to be reported.
        self._repeats = self._step > 0 and not self._assignment.reported

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next assignment in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next rung; the answer's `report` is a `TrialReport`."""
        assignment = self._assignment
        reached = self._step - self._repeats  # it may stand on a rung that nobody knows of
        goal = next(rung for rung in assignment.rungs if rung > reached)
        identity = (assignment.uid, assignment.number, assignment.attempt)
        answer = self._try(goal)
        if isinstance(answer, Failure):
            kind = str(answer.kind)
            reason = Redaction.of_environment().of_text(answer.reason)
            failed = TrialReport(*identity, self._step, failed=reason, failure=kind)
            return {"report": failed}
        problems, self._problems = self._problems, []
        try:
            save_state(Path(assignment.folder), answer["step"], answer.pop("state"))
        except DiskFullError as error:
            full = str(error)
            report = TrialReport(*identity, self._step, problems=problems, disk_full=full)
            return {"report": report}
        self._step, self._repeats = answer["step"], False
        return {"report": TrialReport(*identity, **answer, problems=problems)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: states are saved at each report, where the ledger finds them."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing, as above."""

    def _try(self, goal: int) -> dict[str, Any] | Failure:
        """Train, as often as that can help; what does not is returned."""
        tries = 0
        while True:
            try:
                return self._train(goal)
            except (LatentuneError, RayTaskError) as error:
                failure, tries = classify(error), tries + 1
                if failure.kind is FailureKind.LOST_MACHINE:
                    raise
                if tries >= failure.tries:
                    self._keep(error)
                    return failure
                self._joined = False

    def _keep(self, error: Exception) -> None:
        """The engine's whole traceback, for whoever looks into one trial."""
        folder = Path(self._assignment.folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = Redaction.of_environment().of_text(str(error))
        write_atomic(folder / ERROR_FILE, f"{text}\n".encode())

    def _train(self, goal: int) -> dict[str, Any]:
        lost_since: float | None = None
        while True:
            try:
                return self._ask_engine(goal)
            except (_EngineMissingError, RayActorError, UnknownTrialError):
                now = time.monotonic()
                # An engine that answered between two losses is another loss, with its own wait.
                lost_since = now if lost_since is None or self._joined else lost_since
                if now - lost_since > _ENGINE_WAIT_S:
                    raise
                self._joined = False
                time.sleep(_RETRY_S)

    def _ask_engine(self, goal: int) -> dict[str, Any]:
        assignment = self._assignment
        try:
            engine = ray.get_actor(assignment.engine, namespace=NAMESPACE)
        except ValueError as error:
            raise _EngineMissingError(assignment.engine) from error
        if not self._joined:
            self._join(engine)
            self._joined = True
        train: Any = engine.train
        report: dict[str, Any] = ray.get(train.remote(assignment.uid, goal, assignment.splits))
        return report

    def _join(self, engine: Any) -> None:
        """Enter the engine with the last sound state; the engine may refuse what is sound, too."""
        while True:
            found = find_state(Path(self._assignment.folder), self._step)
            self._problems += found.problems
            try:
                ray.get(engine.join.remote(self._assignment, found.state))
                return
            except StateError as error:
                if found.path is None:
                    raise
                problem = str(getattr(error, "cause", error))
                self._problems.append(f"{found.path}: {problem}")
                set_aside(found.path, self._problems[-1])


class _EngineMissingError(Exception):
    """No engine of this name at the moment; Ray may be restarting it."""
