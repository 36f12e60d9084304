"""A thin trial's place in an engine: found by the roster, kept while it lasts, found again.

    no engine has room      wait, until one has, or the driver halts
    the engine is lost      join another from the last saved state; a few times, then give up
    the engine is vacated   join another from where it stands; nothing is lost
    it was pushed out       join again: an engine that its driver left forgets its trials, or
                            hangs and is another search's, which waits for it longer than this one

The engine that would be through first is asked first: the fewest trials for its measured speed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.assignment import Assignment
from orchestrator.checkpoints import find_state, set_aside
from orchestrator.engines.actor import NAMESPACE
from orchestrator.engines.roster import EngineRecord, Roster, read_roster
from orchestrator.engines.watchdog import Pulse
from orchestrator.errors import EngineFullError, EngineLostError
from orchestrator.failures import FailureKind, classify
from trainable.errors import StateError, UnknownTrialError

MOST_LOSSES = 5  # of engines, between two reports of a trial
_RETRY_S = 1.0
_ANSWERS_S = 5.0


class Berth:
    """Where a trial is trained.

    Args:
        assignment: the trial's.
        search: the folder of its search, with the roster.
    """

    def __init__(self, assignment: Assignment, search: Path) -> None:
        self._assignment = assignment
        self._search = search
        self._engine: Any = None
        self._name = self._holder = ""
        self._carried: bytes | None = None  # its state, on the way out of a vacated engine
        self._problems: list[str] = []

    def told_problems(self) -> list[str]:
        """Why it did not go on from the state that was asked for; each is told once."""
        problems, self._problems = self._problems, []
        return problems

    def train(self, step: int, goal: int) -> dict[str, Any]:
        """Train from a step to a goal, in whatever engine; a pause if the driver halts first.

        Raises:
            EngineLostError: if one engine after another is lost.
            LatentuneError: what is the trial's own fault.
        """
        losses, curve, self._carried = 0, list[tuple[int, float]](), None
        while True:
            roster = read_roster(self._search)
            if self._engine is None and roster.ends(self._assignment.uid):
                stands = {"step": step, "curve": curve, "state": self._carried}
                return {**stands, "metrics": {}, "paused": True}
            try:
                answer = self._try(roster, step, goal)
            except (RayActorError, RayTaskError) as error:
                if not self._is_lost(error):
                    raise
                self._engine = None
                losses += 1
                if losses >= MOST_LOSSES:
                    raise EngineLostError(
                        f"lost machine: {losses} engines were lost one after another with this "
                        f"trial in them, at last: {str(error).splitlines()[0]}"
                    ) from None
            else:
                if answer is not None:
                    curve = answer["curve"] = curve + answer["curve"]
                    if not answer.pop("moves"):
                        return answer
                    step, self._carried, self._engine = answer["step"], answer["state"], None
                    continue
            time.sleep(_RETRY_S)

    def _is_lost(self, error: Exception) -> bool:
        """Whether an engine died, or is of no use any more: its device broke. That one is ended."""
        if isinstance(error, RayActorError):
            return True
        broken = classify(error).kind is FailureKind.LOST_MACHINE
        if broken and self._engine is not None:
            ray.kill(self._engine, no_restart=True)
        return broken

    def _try(self, roster: Roster, step: int, goal: int) -> dict[str, Any] | None:
        """One try; None where it is worth another."""
        if self._engine is None and not self._enter(roster, step):
            return None
        uid, splits = self._assignment.uid, self._assignment.splits
        call = self._engine.train.remote(uid, goal, splits, self._holder)
        try:
            if self._is_answered(call):
                found: dict[str, Any] = ray.get(call)
                return found
        except UnknownTrialError:
            pass
        self._engine = None
        return None

    def _is_answered(self, call: Any) -> bool:
        """Wait for an answer; False once the driver uses the engine no more."""
        while not ray.wait([call], timeout=_ANSWERS_S)[0]:
            if self._name not in {record.name for record in read_roster(self._search).engines}:
                return False
        return True

    def _enter(self, roster: Roster, step: int) -> bool:
        """Join the best engine that has room; whether there was one."""
        for record, handle in _open_engines(roster):
            try:
                self._join(handle, step, roster.holder, record.room)
            except EngineFullError:  # another trial was quicker
                continue
            self._engine, self._name, self._holder = handle, record.name, roster.holder
            return True
        return False

    def _join(self, engine: Any, step: int, holder: str, room: int) -> None:
        """Enter an engine with the last sound state; it may refuse what is sound, too."""
        if self._carried is not None:
            ray.get(engine.join.remote(self._assignment, self._carried, holder, room))
            return
        while True:
            found = find_state(Path(self._assignment.folder), step)
            self._problems += found.problems
            try:
                ray.get(engine.join.remote(self._assignment, found.state, holder, room))
                return
            except StateError as error:
                if found.path is None:
                    raise
                problem = f"{found.path}: {getattr(error, 'cause', error)}"
                self._problems.append(problem)
                set_aside(found.path, problem)


def by_load(records: Sequence[EngineRecord], pulses: Sequence[Pulse]) -> list[EngineRecord]:
    """Engines in the order in which a trial should try them; full ones are left out.

    Args:
        records: from the roster.
        pulses: of each, as it is now.
    """
    speeds = [pulse.slots_per_s for pulse in pulses if pulse.slots_per_s]
    usual = sum(speeds) / len(speeds) if speeds else 1.0

    def load(pair: tuple[EngineRecord, Pulse]) -> float:
        return (len(pair[1].trials) + 1) / (pair[1].slots_per_s or usual)

    return [record for record, _ in sorted(zip(records, pulses, strict=True), key=load)]


def _open_engines(roster: Roster) -> list[tuple[EngineRecord, Any]]:
    """The engines that answer, with their handles, in order; those that do not are left out."""
    asked: list[tuple[EngineRecord, Any, Any]] = []
    for record in roster.ready:
        try:
            handle: Any = ray.get_actor(record.name, namespace=NAMESPACE)
        except ValueError:  # it has gone since
            continue
        asked.append((record, handle, handle.look.remote()))
    if not asked:
        return []
    done, _ = ray.wait([call for *_, call in asked], num_returns=len(asked), timeout=_ANSWERS_S)
    found = {}
    for record, handle, call in asked:
        pulse = _pulse_of(call) if call in done else None
        if pulse is not None:
            found[record.name] = (record, handle, pulse)
    order = by_load([one[0] for one in found.values()], [one[2] for one in found.values()])
    return [(record, found[record.name][1]) for record in order]


def _pulse_of(call: Any) -> Pulse | None:
    try:
        pulse: Pulse = ray.get(call)
    except (RayActorError, RayTaskError):
        return None
    return pulse
