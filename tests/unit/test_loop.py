"""The engine's thread: many callers, one engine, no step wasted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest

from trainable.data import Split
from trainable.engine import Engine
from trainable.errors import LatentuneError, NumericError, TaskError, UnknownTrialError
from trainable.loop import LOSS_WINDOW_STEPS, EngineLoop, Report
from trainable.state import TrialState
from trainable.training_step import SlotCount

DEADLINE_S = 20.0
SPLITS: list[Split] = ["val_id"]


class FakeEngine:
    """Counts steps."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.stepped: list[list[str]] = []
        self.evaluated: list[tuple[list[str], list[str]]] = []
        self.failures: dict[str, LatentuneError] = {}
        self.bug: BaseException | None = None
        self.stateless: Exception | None = None
        self.slots = SlotCount()
        self.pieces = 1
        self.log: list[str] = []
        self.time_s = 0.0  # what it did took a second each

    def join(self, uid: str, step: int = 0) -> None:
        self.steps[uid] = step

    def leave(self, uid: str) -> None:
        self.step_of(uid)
        del self.steps[uid]

    def step_of(self, uid: str) -> int:
        if uid not in self.steps:
            raise UnknownTrialError(f"trial {uid} is not in this engine")
        return self.steps[uid]

    def step(self, uids: Sequence[str]) -> dict[str, float]:
        if self.bug is not None:
            bug, self.bug = self.bug, None
            raise bug
        time.sleep(0)  # callers get their turn
        self.stepped.append(list(uids))
        good = [uid for uid in uids if uid not in self.failures]
        for uid in good:
            self.steps[uid] += 1
        self.slots.useful += 3
        self.slots.all += 4
        self.log.append("step")
        self.time_s += 1.0
        return {uid: float(self.steps[uid]) for uid in good}

    def raise_failure(self, uid: str) -> None:
        if uid in self.failures:
            raise self.failures[uid]

    def evaluation(
        self, uids: Sequence[str], splits: Sequence[str]
    ) -> Generator[None, None, dict[str, dict[str, float]]]:
        self.evaluated.append((list(uids), list(splits)))
        for _ in range(self.pieces):
            self.log.append("piece " + " ".join(uids))
            self.time_s += 1.0
            yield
        return {uid: {"val_id/exact_match": 0.5} for uid in uids}

    def state(self, uid: str) -> TrialState:
        if self.stateless is not None:
            bug, self.stateless = self.stateless, None
            raise bug
        empty = np.zeros((0, 1), dtype=np.float32)
        return TrialState(self.step_of(uid), empty, empty, empty)


class Running:
    """A loop over a fake engine, and callers in threads."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.loop = EngineLoop(cast(Engine, self.engine), now=lambda: self.engine.time_s)
        self._callers = ThreadPoolExecutor(16)

    def join(self, *uids: str, step: int = 0) -> None:
        for uid in uids:
            self.loop.call(lambda _, uid=uid: self.engine.join(uid, step))  # type: ignore[misc]

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is asked inside is all taken in before the next step."""
        inside, over = threading.Event(), threading.Event()

        def hold(_: Engine) -> None:
            inside.set()
            assert over.wait(DEADLINE_S)

        holding = self._callers.submit(self.loop.call, hold)
        assert inside.wait(DEADLINE_S)
        try:
            yield
        finally:
            over.set()
            answer(holding)

    def train(self, uid: str, until: int, splits: list[Split] | None = None) -> Future[Report]:
        """Ask from a thread; returns once the loop has the goal, or has answered."""
        queued = self.loop._work.qsize()
        asked = self._callers.submit(self.loop.train, uid, until, splits or SPLITS)
        wait_for(
            lambda: asked.done() or uid in self.loop._goals or self.loop._work.qsize() > queued
        )
        return asked

    def close(self) -> None:
        self.loop.pause(list(self.engine.steps))  # nobody is left waiting
        self.loop.close()
        self._callers.shutdown()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.001)


def answer(asked: Future[Any]) -> Any:
    return asked.result(DEADLINE_S)


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.close()


def test_a_trial_is_trained_to_its_goal_and_scored(running: Running) -> None:
    running.join("a", step=3)
    asked = running.train("a", 7)
    report = answer(asked)
    assert (report.step, report.state.step, report.paused) == (7, 7, False)
    assert report.curve == [(4, 4.0), (5, 5.0), (6, 6.0), (7, 7.0)]
    assert report.metrics == {"val_id/exact_match": 0.5, "train/loss": 5.5}
    assert running.loop.clock.trial_steps == 4


def test_the_training_loss_is_that_of_the_last_steps(running: Running) -> None:
    running.join("a")
    until = LOSS_WINDOW_STEPS + 10
    losses = range(11, until + 1)
    assert answer(running.train("a", until)).metrics["train/loss"] == sum(losses) / len(losses)


def test_each_report_holds_the_curve_since_the_one_before(running: Running) -> None:
    running.join("a")
    curves = [[step for step, _ in answer(running.train("a", until)).curve] for until in (2, 5)]
    assert curves == [[1, 2], [3, 4, 5]]


def test_goals_reached_together_are_evaluated_in_one_batch(running: Running) -> None:
    running.join("a", "b", "c")
    with running.held():
        asked = [running.train(uid, 3) for uid in "ab"] + [running.train("c", 5)]
    assert [answer(one).step for one in asked] == [3, 3, 5]
    assert running.engine.evaluated == [(["a", "b"], SPLITS), (["c"], SPLITS)]
    steps = [uids for uids in running.engine.stepped if uids]
    assert steps == [["a", "b", "c"]] * 3 + [["c"]] * 2


def test_trials_at_the_same_goal_with_other_splits_are_scored_apart(running: Running) -> None:
    running.join("a", "b")
    with running.held():
        asked = [running.train("a", 3, ["val_id"]), running.train("b", 3, ["val_ood"])]
    assert [answer(one).step for one in asked] == [3, 3]
    assert running.engine.evaluated == [(["a"], ["val_id"]), (["b"], ["val_ood"])]


def test_a_goal_that_is_reached_already_is_scored_without_a_step(running: Running) -> None:
    running.join("a", step=4)
    report = answer(running.train("a", 4))
    assert (report.step, report.curve) == (4, [])
    assert "train/loss" not in report.metrics
    assert not any(running.engine.stepped)


def test_trials_wait_for_each_other_only_within_a_step(running: Running) -> None:
    running.join("a", "b")
    assert answer(running.train("a", 2)).step == 2
    far = running.train("b", 200)
    assert answer(running.train("a", 4)).step == 4
    assert answer(far).step == 200


def test_a_pause_answers_where_the_trial_stands(running: Running) -> None:
    running.join("a", "b")
    asked = [running.train(uid, 1_000_000) for uid in "ab"]
    wait_for(lambda: running.engine.steps["b"] > 5)
    running.loop.pause(["a"])
    report = answer(asked[0])
    assert report.paused
    assert report.metrics == {}
    assert report.step == report.state.step == report.curve[-1][0] == len(report.curve)
    assert not asked[1].done()
    running.loop.pause(["b", "nobody"])
    assert answer(asked[1]).paused
    assert answer(running.train("a", 1_000_000)).step == report.step  # paused: at once


def test_an_unpaused_trial_trains_again(running: Running) -> None:
    running.join("a")
    running.loop.pause(["a"])
    assert answer(running.train("a", 3)).paused
    running.loop.unpause(["a", "nobody"])
    report = answer(running.train("a", 3))
    assert (report.paused, report.step) == (False, 3)


def test_a_trial_that_leaves_tells_its_waiter(running: Running) -> None:
    running.join("a", "b")
    asked = [running.train(uid, 1_000_000) for uid in "ab"]
    running.loop.leave("a")
    with pytest.raises(UnknownTrialError, match="trial a has left"):
        answer(asked[0])
    assert not asked[1].done()
    with pytest.raises(UnknownTrialError):
        running.loop.leave("a")


def test_a_second_goal_for_a_trial_tells_the_first_waiter(running: Running) -> None:
    """A process that died left its call behind; the one in its place asks again."""
    running.join("a")
    with running.held():
        first = running.train("a", 1_000_000)
        second = running.train("a", 3)
    assert answer(second).step == 3
    with pytest.raises(UnknownTrialError):
        answer(first)


def test_a_trial_that_is_not_there_is_told_at_once(running: Running) -> None:
    with pytest.raises(UnknownTrialError, match="trial a"):
        running.loop.train("a", 3, SPLITS)


def test_a_failing_trial_tells_only_its_own_waiter(running: Running) -> None:
    running.join("a", "b")
    running.engine.failures["a"] = NumericError("lower optim.lr")
    asked = [running.train(uid, 5) for uid in "ab"]
    with pytest.raises(NumericError, match=r"lower optim\.lr"):
        answer(asked[0])
    assert answer(asked[1]).step == 5
    with pytest.raises(NumericError):
        answer(running.train("a", 5))


def test_a_bug_in_the_engine_is_told_to_all_and_the_loop_lives_on(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.join("a", "b")
    with running.held():
        asked = [running.train(uid, 5) for uid in "ab"]
        running.engine.bug = ZeroDivisionError("a bug")
    for one in asked:
        with pytest.raises(ZeroDivisionError, match="a bug"):
            answer(one)
    assert "the engine failed" in caplog.text
    assert answer(running.train("a", 5)).step == 5
    assert answer(running.train("b", 6)).step == 6


@pytest.mark.parametrize("end", [SystemExit(1), KeyboardInterrupt()])
def test_what_would_end_the_thread_is_told_to_all_and_ends_nobody(
    running: Running, end: BaseException
) -> None:
    running.join("a", "b")
    with running.held():
        asked = [running.train(uid, 5) for uid in "ab"]
        running.engine.bug = end
    for one in asked:
        with pytest.raises(RuntimeError, match=type(end).__name__):
            answer(one)
    assert answer(running.train("a", 5)).step == 5

    def leave(_: Engine) -> None:
        raise end

    with pytest.raises(RuntimeError, match=type(end).__name__):
        running.loop.call(leave)
    assert answer(running.train("b", 6)).step == 6


@pytest.mark.parametrize("paused", [False, True])
def test_a_state_that_cannot_be_told_leaves_nobody_waiting(running: Running, paused: bool) -> None:
    running.join("a")
    running.engine.stateless = ZeroDivisionError("a bug")
    if paused:
        running.loop.pause(["a"])
    with pytest.raises(ZeroDivisionError, match="a bug"):
        answer(running.train("a", 5))
    running.loop.unpause(["a"])
    assert answer(running.train("a", 5)).step == 5


def test_what_an_action_raises_reaches_its_caller_alone(running: Running) -> None:
    running.join("a")
    asked = running.train("a", 50)

    def burn(_: Engine) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        running.loop.call(burn)
    assert answer(asked).step == 50


def test_actions_run_between_two_steps_in_the_loop_s_thread(running: Running) -> None:
    names = {running.loop.call(lambda _: threading.current_thread().name) for _ in range(3)}
    assert names == {"engine-loop"}


def test_a_loop_without_goals_takes_no_steps(running: Running) -> None:
    running.join("a")
    answer(running.train("a", 2))
    running.loop.call(lambda _: None)
    assert [uids for uids in running.engine.stepped if uids] == [["a"], ["a"]]
    assert not running.loop._goals


def test_a_trial_that_fails_while_it_is_scored_is_told_alone(running: Running) -> None:
    running.join("good", "bad")
    score = running.engine.evaluation

    def evaluation(
        uids: Sequence[str], splits: Sequence[str]
    ) -> Generator[None, None, dict[str, dict[str, float]]]:
        if "bad" in uids:
            running.engine.failures["bad"] = TaskError("metric m raised ValueError")
        return (yield from score(uids, splits))

    running.engine.evaluation = evaluation  # type: ignore[method-assign]
    with running.held():
        asked = {uid: running.train(uid, 2) for uid in ("good", "bad")}
    assert answer(asked["good"]).metrics["val_id/exact_match"] == 0.5
    with pytest.raises(TaskError, match="metric m raised"):
        answer(asked["bad"])


def test_nobody_waits_for_another_s_evaluation(running: Running) -> None:
    """While one trial is scored, the others take a step between any two pieces."""
    running.engine.pieces = 40
    running.join("scored", "trained")
    with running.held():
        scored, trained = running.train("scored", 1), running.train("trained", 20)
    assert answer(trained).step == 20
    assert answer(scored).metrics == {"val_id/exact_match": 0.5, "train/loss": 1.0}
    log = running.engine.log
    assert log[:39] == ["step", *["piece scored", "step"] * 19]
    assert log.count("piece scored") == running.engine.pieces
    clock = running.loop.clock
    assert (clock.train_s, clock.evaluate_s) == (20.0, 80.0)


def test_evaluations_take_turns(running: Running) -> None:
    running.engine.pieces = 3
    running.join("a", "b")
    with running.held():
        asked = [running.train("a", 0, ["val_id"]), running.train("b", 0, ["val_ood"])]
    for one in asked:
        answer(one)
    assert running.engine.log == ["piece a", "piece b"] * 3


def test_an_evaluation_that_nobody_asks_for_any_more_ends(running: Running) -> None:
    running.engine.pieces = 1_000_000
    running.join("a", "b")
    asked = running.train("a", 1)
    wait_for(lambda: "piece a" in running.engine.log)
    running.loop.pause(["a"])
    assert answer(asked).paused
    running.engine.pieces = 1
    before = running.engine.log.count("piece a")
    assert answer(running.train("b", 50)).step == 50
    assert running.engine.log.count("piece a") == before


def test_evaluations_that_nobody_asks_for_are_let_go_at_once(running: Running) -> None:
    """What they hold would be held until somebody trains again."""
    running.engine.pieces = 1_000_000
    names = ["a", "b", "c"]
    running.join(*names)
    asked = [running.train(uid, place + 1) for place, uid in enumerate(names)]
    wait_for(lambda: all(f"piece {uid}" in running.engine.log for uid in names))
    running.loop.pause(names)
    assert all(answer(one).paused for one in asked)
    wait_for(lambda: not running.loop._scorings)


def test_the_clock_counts_slots(running: Running) -> None:
    running.join("a")
    answer(running.train("a", 5))
    assert (running.loop.clock.useful_slots, running.loop.clock.all_slots) == (15, 20)
