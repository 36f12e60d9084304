"""The Tune trainable: it holds nothing but an assignment, and asks an engine to train it.

A trial process imports no torch. One `step()` is one rung: train, save the state, report.
Its berth finds it an engine, and another one where that is lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import tune

from orchestrator.assignment import Assignment, TrialReport
from orchestrator.checkpoints import save_state
from orchestrator.engines.berth import Berth
from trainable.errors import LatentuneError


class ThinTrial(tune.Trainable):
    """One trial of a search, as Ray Tune sees it."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take an assignment."""
        self._assignment = Assignment(**config)
        self._step = self._assignment.start_step
        self._berth = self._find_berth()
        self._resumed = self._step > 0  # the driver may have died before it judged this step

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
        reached = self._step - self._resumed  # a rung where it goes on from is reported again
        goal = next(rung for rung in assignment.rungs if rung > reached)
        identity = (assignment.uid, assignment.number, assignment.attempt)
        try:
            answer = self._train(goal)
        except LatentuneError as error:  # this trial's own fault: trying again cannot help
            reason = str(getattr(error, "cause", error))  # without the engine's traceback
            return {"report": TrialReport(*identity, self._step, failed=reason)}
        self._step, self._resumed = answer["step"], False
        state = answer.pop("state")
        if state is not None:  # it waited for an engine, and the last one stands
            save_state(Path(assignment.folder), self._step, state)
        return {"report": TrialReport(*identity, **answer)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: states are saved at each report, where the ledger finds them."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing, as above."""

    def _train(self, goal: int) -> dict[str, Any]:
        return self._berth.train(self._step, goal)
