"""Run an engine without pause while callers come and go.

Callers ask, from any thread, that a trial be trained to a step; one thread takes steps with
all trials that have such a goal. What else touches the engine (joining, leaving) waits its
turn between two steps.

    steps of trials A B C   ▆▆▆▆▆▆▆  ▆▆  ▆▆  ▆▆  ▆▆▆▆▆▆
    scoring of D                   ▆▆  ▆▆  ▆▆               turn about, for as long each

A trial at its goal is scored in pieces, between the steps of the others, so that none waits
for another's evaluation. Trials that reach their goals at the same step are scored together.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trainable.data import Split
from trainable.engine import Engine
from trainable.errors import LatentuneError, UnknownTrialError
from trainable.state import TrialState
from trainable.step_watch import StepWatch

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")
LOSS_WINDOW_STEPS = 20


@dataclass(frozen=True)
class Report:
    """What a trial has reached.

    Args:
        step: optimiser steps done.
        metrics: scores, `train/loss` among them; empty for a paused trial.
        curve: (step, training loss) since the report before.
        state: the trial at this step.
        paused: whether the trial was halted short of its goal.
    """

    step: int
    metrics: dict[str, float]
    curve: list[tuple[int, float]]
    state: TrialState
    paused: bool = False


@dataclass
class _Goal:
    step: int
    splits: Sequence[Split]
    answer: Future[Report]
    curve: list[tuple[int, float]] = field(default_factory=list)
    scoring: bool = False


@dataclass
class _Scoring:
    """Trials that are scored together, as far as that has got."""

    goals: dict[str, _Goal]
    pieces: Generator[None, None, dict[str, dict[str, float]]]


@dataclass
class LoopClock:
    """Where a loop's time went, in seconds, and how much was done.

    Args:
        train_s: in optimiser steps.
        evaluate_s: in scoring.
        idle_s: without a goal, from the first step on: waiting for decisions.
        trial_steps: optimiser steps, counted once per trial.
        useful_slots: slots of rows that went through the model in training.
        all_slots: the same, padding included.
    """

    train_s: float = 0.0
    evaluate_s: float = 0.0
    idle_s: float = 0.0
    trial_steps: int = 0
    useful_slots: int = 0
    all_slots: int = 0


class EngineLoop:
    """The thread that owns an engine.

    Args:
        now: seconds on a clock that never goes back.
    """

    def __init__(self, engine: Engine, now: Callable[[], float] = time.perf_counter) -> None:
        self.engine = engine
        self._now = now
        self.clock = LoopClock()
        self.watch = StepWatch()
        self._goals: dict[str, _Goal] = {}
        self._scorings: deque[_Scoring] = deque()
        self._paused: set[str] = set()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine-loop", daemon=True)
        self._thread.start()

    def call(self, action: Callable[[Engine], _Answer]) -> _Answer:
        """Run `action(engine)` between two steps and return its answer, or raise what it raises."""
        answer: Future[_Answer] = Future()
        self._work.put(lambda: _settle(answer, lambda: action(self.engine)))
        return answer.result()

    def train(self, uid: str, until_step: int, splits: Sequence[Split]) -> Report:
        """Train a trial to a step, then score it; blocks until that is done or paused.

        Raises:
            NumericError: if the trial stops being finite.
            UnknownTrialError: if the trial is not in the engine.
        """
        answer: Future[Report] = Future()
        goal = _Goal(until_step, splits, answer)
        self._work.put(lambda: self._set_goal(uid, goal))
        return answer.result()

    def leave(self, uid: str) -> None:
        """Let a trial go, whether it is being trained or not.

        Raises:
            UnknownTrialError: if the trial is not in the engine.
        """
        self.call(lambda engine: self._leave(engine, uid))

    def let_go(self, uid: str) -> None:
        """As `leave`, between two steps: inside a `call`. One that is not here is gone already."""
        if uid in self.engine.trials():
            self._leave(self.engine, uid)

    def pause(self, uids: Iterable[str]) -> None:
        """Answer the waiting `train` of these trials now, and their later ones at once."""
        paused = set(uids)
        self._work.put(lambda: self._pause(paused))

    def unpause(self, uids: Iterable[str]) -> None:
        """Let these trials train again."""
        unpaused = set(uids)
        self._work.put(lambda: self._paused.difference_update(unpaused))

    def close(self) -> None:
        """End the thread once its current step is done."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            begin = self._now()
            work = self._next_work()
            if self.clock.trial_steps:
                self.clock.idle_s += self._now() - begin
            if work is None:
                return
            self._guard(work)
            while not self._work.empty():
                work = self._work.get()
                if work is None:
                    return
                self._guard(work)
            self._guard(self._advance)

    def _guard(self, action: Callable[[], None]) -> None:
        """The thread's boundary: each waiter is told what is raised, and the thread goes on."""
        try:
            action()
        except BaseException as error:  # a thread that ended would answer nobody any more
            logger.exception("the engine failed; all waiting trials are told")
            for goal in self._goals.values():
                goal.answer.set_exception(_told(error))
            self._goals.clear()
            self._scorings.clear()

    def _next_work(self) -> Callable[[], None] | None:
        return (lambda: None) if self._goals else self._work.get()

    def _set_goal(self, uid: str, goal: _Goal) -> None:
        earlier = self._goals.pop(uid, None)
        if earlier is not None:  # its caller died and was replaced; nobody else answers the call
            earlier.answer.set_exception(UnknownTrialError(f"trial {uid} was asked for again"))
        self._goals[uid] = goal
        try:
            self.engine.step_of(uid)
        except LatentuneError as error:
            del self._goals[uid]
            goal.answer.set_exception(error)
            return
        if uid in self._paused:
            self._pause({uid})

    def _leave(self, engine: Engine, uid: str) -> None:
        engine.leave(uid)
        goal = self._goals.pop(uid, None)
        if goal is not None:
            goal.answer.set_exception(UnknownTrialError(f"trial {uid} has left this engine"))

    def _advance(self) -> None:
        """One step for all trials short of their goal, and as long for those that are scored."""
        with self.watch.watched():
            step_s = self._step()
            self._drop_failed()
            self._begin_scoring()
            self._score(step_s)

    def _step(self) -> float:
        """One optimiser step for all trials short of their goal; the seconds that it took."""
        short = [uid for uid, goal in self._goals.items() if self._steps_left(uid, goal) > 0]
        if not short:
            return 0.0
        begin = self._now()
        losses = self.engine.step(short)
        step_s = self._now() - begin
        self.clock.train_s += step_s
        self.clock.trial_steps += len(losses)
        slots = self.engine.slots
        self.clock.useful_slots, self.clock.all_slots = slots.useful, slots.all
        for uid, loss in losses.items():
            self._goals[uid].curve.append((self.engine.step_of(uid), loss))
        return step_s

    def _steps_left(self, uid: str, goal: _Goal) -> int:
        return goal.step - self.engine.step_of(uid)

    def _drop_failed(self) -> None:
        for uid, goal in list(self._goals.items()):
            if not self._is_sound(uid, goal):
                del self._goals[uid]

    def _is_sound(self, uid: str, goal: _Goal) -> bool:
        """Whether a trial has not failed; the caller of one that has is told."""
        try:
            self.engine.raise_failure(uid)
        except LatentuneError as error:
            goal.answer.set_exception(error)
            return False
        return True

    def _begin_scoring(self) -> None:
        """Have those at their goal scored: together, where they ask for the same splits."""
        by_splits: dict[tuple[Split, ...], dict[str, _Goal]] = {}
        for uid, goal in self._goals.items():
            if not goal.scoring and self._steps_left(uid, goal) <= 0:
                goal.scoring = True
                by_splits.setdefault(tuple(goal.splits), {})[uid] = goal
        for splits, goals in by_splits.items():
            self._scorings.append(_Scoring(goals, self.engine.evaluation(list(goals), splits)))

    def _score(self, share_s: float) -> None:
        """Score turn about, for `share_s` seconds and one piece at least."""
        begin = self._now()
        # Of what nobody asks for any more, all is let go: this may be the last look for long.
        self._scorings = deque(one for one in self._scorings if self._is_asked(one))
        while self._scorings:
            scoring = self._scorings.popleft()
            if self._score_piece(scoring):
                self._scorings.append(scoring)
            if self._now() - begin >= share_s:
                break
        self.clock.evaluate_s += self._now() - begin

    def _score_piece(self, scoring: _Scoring) -> bool:
        """Take one piece further; reports at the end. Returns whether there is more to do."""
        if not self._is_asked(scoring):
            return False
        try:
            next(scoring.pieces)
        except StopIteration as end:
            for uid, metrics in end.value.items():
                self._report(uid, scoring.goals[uid], metrics)
            return False
        return True

    def _is_asked(self, scoring: _Scoring) -> bool:
        """Whether anybody still waits for it: not all of its trials were stopped."""
        return any(self._goals.get(uid) is goal for uid, goal in scoring.goals.items())

    def _report(self, uid: str, goal: _Goal, metrics: dict[str, float]) -> None:
        if self._goals.get(uid) is not goal:
            return  # paused, gone or asked for again meanwhile
        if not self._is_sound(uid, goal):
            del self._goals[uid]
            return
        recent = [loss for _, loss in goal.curve[-LOSS_WINDOW_STEPS:]]
        if recent:
            metrics["train/loss"] = sum(recent) / len(recent)
        self._answer(uid, metrics, paused=False)

    def _pause(self, uids: set[str]) -> None:
        self._paused |= uids
        for uid in uids & set(self._goals):
            self._answer(uid, {}, paused=True)

    def _answer(self, uid: str, metrics: dict[str, float], *, paused: bool) -> None:
        """Report to a trial's caller; the goal goes last, so that no failure leaves one waiting."""
        goal, state = self._goals[uid], self.engine.state(uid)
        goal.answer.set_result(Report(state.step, metrics, goal.curve, state, paused))
        del self._goals[uid]


def _settle(answer: Future[Any], action: Callable[[], Any]) -> None:
    try:
        answer.set_result(action())
    except BaseException as error:  # noqa: BLE001  (carried to the caller, who raises it)
        answer.set_exception(_told(error))


def _told(error: BaseException) -> Exception:
    """What a waiter raises: whoever waits for an engine is not ended by what it raises."""
    if isinstance(error, Exception):
        return error
    return RuntimeError(f"the engine was told to end: {type(error).__name__}: {error}")
