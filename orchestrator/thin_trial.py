"""The Tune trainable: it holds nothing but an assignment, and asks an engine to train it.

A trial process imports no torch. One `step()` is one rung: train, save the state, report.
Its berth finds it an engine, and another one where that is lost. What an engine raises is
reported with its kind (`failures`), and its traceback kept beside the trial's states.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayTaskError

from orchestrator.assignment import Assignment, TrialReport
from orchestrator.checkpoints import save_state
from orchestrator.engines.berth import Berth
from orchestrator.failures import Failure, classify
from orchestrator.files import write_atomic
from orchestrator.safety.redaction import Redaction
from trainable.errors import DiskFullError, LatentuneError

ERROR_FILE = "error.txt"


class ThinTrial(tune.Trainable):
    """One trial of a search, as Ray Tune sees it."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take an assignment."""
        self._assignment = Assignment(**config)
        self._step = self._assignment.start_step
        self._berth = self._find_berth()
        self._problems: list[str] = []
        # Where it was paused, or its report was lost, that step is still to be reported.
        self._repeats = self._step > 0 and not self._assignment.reported

    def _find_berth(self) -> Berth:
        """Where this trial is trained: the roster of engines is in the search's folder."""
        return Berth(self._assignment, Path(self._assignment.folder).parents[1])

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
        problems, state = self._told_problems(), answer.pop("state")
        try:
            if state is not None:  # else it waited for an engine, and the last one stands
                save_state(Path(assignment.folder), answer["step"], state)
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
                return self._berth.train(self._step, goal)
            except (LatentuneError, RayTaskError) as error:
                failure, tries = classify(error), tries + 1
                if tries >= failure.tries:
                    self._keep(error)
                    return failure
                self._problems = self._told_problems()
                self._berth = self._find_berth()

    def _told_problems(self) -> list[str]:
        """Why it did not go on from the state that was asked for, in all its berths."""
        problems, self._problems = self._problems, []
        return [*problems, *self._berth.told_problems()]

    def _keep(self, error: Exception) -> None:
        """The engine's whole traceback, for whoever looks into one trial."""
        folder = Path(self._assignment.folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = Redaction.of_environment().of_text(str(error))
        write_atomic(folder / ERROR_FILE, f"{text}\n".encode())
