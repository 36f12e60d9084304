"""The engine actor's own bookkeeping; its model and Ray are in the integration tests."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.assignment import Assignment
from orchestrator.engines.actor import EngineActor
from orchestrator.engines.handshake import own_versions
from orchestrator.engines.leases import Leases
from orchestrator.engines.watchdog import Pulse
from orchestrator.errors import EngineFullError
from orchestrator.opening import engine_options
from orchestrator.search_config import SearchConfig
from orchestrator.search_data import read_data
from tests.integration.small_search import small_config, wait_until


def test_it_tells_what_it_runs_and_how_it_is() -> None:
    actor = EngineActor({}, {}, starter="a")
    assert actor.greet("a") == {**own_versions(), "starter": "a"}
    assert actor.pulse("a") == Pulse(trials={})
    actor.greet("b")
    assert not actor.release("a")
    assert actor.release("b")


def test_each_search_has_its_own_room() -> None:
    actor = EngineActor({}, {})
    actor._book("a-1", "a", 2)
    actor._book("a-2", "a", 2)
    with pytest.raises(EngineFullError, match="2 trials of 'a'"):
        actor._book("a-3", "a", 2)
    actor._book("b-1", "b", 2)
    actor._book("c-1", "c", None)
    assert actor.look().trials == {"a-1": "a", "a-2": "a", "b-1": "b", "c-1": "c"}


def test_an_earlier_attempt_does_not_push_a_later_one_out() -> None:
    """A driver that hung has lost its search; its trial's process goes on looking for a place."""
    actor = EngineActor({}, {})
    for attempt in (1, 2, 2):
        actor._refuse_earlier("s", "s-1", attempt)
    with pytest.raises(EngineFullError, match="attempt 2 of s-1 has no room for attempt 1"):
        actor._refuse_earlier("s", "s-1", 1)
    actor._refuse_earlier("s", "s-2", 1)
    actor.greet("s")  # a search of this name begins anew
    actor._refuse_earlier("s", "s-1", 1)


@pytest.mark.parametrize(("attempts", "refused"), [((1, 2), False), ((2, 1), True)])
def test_of_two_attempts_that_come_together_the_later_one_stays(
    attempts: tuple[int, int], refused: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    """Both wait for the model's thread, which takes the one as a whole, then the other."""
    config = SearchConfig.model_validate(small_config(tiny_folder))
    actor, source = EngineActor(*engine_options(config)), read_data(config, tmp_path).source
    loop, held = actor._running, threading.Event()
    with ThreadPoolExecutor() as callers:
        callers.submit(loop.call, lambda _: held.wait(60))
        wait_until(loop._work.empty)
        calls = {}
        for place, attempt in enumerate(attempts):
            assignment = Assignment(
                uid="s-1", number=1, attempt=attempt, config={}, data=asdict(source), start_step=0,
                rungs=[4], splits=["val_id"], engine="e", folder=str(tmp_path),
            )  # fmt: skip
            calls[attempt] = callers.submit(actor.join, assignment, None, "s", 1)
            wait_until(lambda place=place: loop._work.qsize() > place)  # type: ignore[misc]
        held.set()
        errors = {attempt: call.exception(60) for attempt, call in calls.items()}
    assert errors[2] is None
    assert type(errors[1]) is (EngineFullError if refused else type(None))
    assert actor.look().trials == {"s/s-1": "s"}
    assert actor._attempts == {"s/s-1": ("s", 2)}
    actor.leave("s-1", "s")
    assert actor.look().trials == {}
    assert loop.call(lambda engine: engine.trials()) == []


def test_the_trials_of_a_driver_that_is_gone_leave_an_engine_that_others_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    actor = EngineActor({}, {})
    monkeypatch.setattr(actor, "_leave", actor._holders.pop)  # without a model
    actor._leases = Leases(60.0, lambda: now[0])
    for holder in ("gone", "here"):
        actor.greet(holder)
        actor._book(f"{holder}-1", holder, None)
    now[0] = 50.0
    actor.pulse("here")
    now[0] = 70.0
    assert not actor._leases.is_unused
    actor._let_expired_go()
    wait_until(lambda: actor.look().trials == {"here-1": "here"})


class Loop:
    """What stands for a model: `train` is answered once it is paused."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.paused = threading.Event()

    def pause(self, uids: list[str]) -> None:
        self.calls.append(("pause", uids))
        self.paused.set()

    def unpause(self, uids: list[str]) -> None:
        self.calls.append(("unpause", uids))

    def train(self, uid: str, until_step: int, splits: list[str]) -> Any:
        assert self.paused.wait(10)
        state = SimpleNamespace(to_bytes=lambda: b"3")
        return SimpleNamespace(step=3, metrics={}, curve=[], state=state, paused=True)

    def call(self, action: Any) -> Any:
        return action(None)

    def let_go(self, uid: str) -> None:
        self.calls.append(("leave", uid))


def test_trials_that_are_to_go_on_elsewhere_leave_with_their_states() -> None:
    actor, loop = EngineActor({}, {}), Loop()
    actor._loop = loop  # type: ignore[assignment]
    actor._book("a/a-1", "a", None)
    actor._book("b/b-1", "b", None)
    actor.vacate("a")
    assert loop.calls == [("pause", ["a/a-1"]), ("unpause", ["a/a-1"])]  # it may come again
    answer = actor.train("a-1", 4, [], "a")
    assert (answer["step"], answer["state"], answer["moves"]) == (3, b"3", True)
    assert loop.calls[-1] == ("leave", "a/a-1")
    assert actor._holders == {"b/b-1": "b"}
    assert not actor.train("b-1", 4, [], "b")["moves"]  # one that is paused, and no more


@pytest.mark.parametrize(
    ("engine", "device", "expected"),
    [
        ({}, "auto", {"device": "auto", "device_map": None}),
        ({"gpus": 1}, "cuda", {"device": "cuda", "device_map": None}),
        ({"gpus": 2}, "cuda", {"device": "auto", "device_map": "auto"}),
        ({"gpus": 2}, "cpu", {"device": "cpu", "device_map": None}),
    ],
)
def test_a_model_is_spread_over_the_gpus_of_its_engine(
    engine: dict[str, Any], device: str, expected: dict[str, Any]
) -> None:
    config = SearchConfig.model_validate(
        {
            "name": "tiny",
            "task": {"kind": "generation"},
            "space": "quick",
            "budget": {"trials": 1},
            "base_model": {"device": device},
            "engine": engine | {"count": 3, "step_timeout_s": 600.0},
        }
    )
    base, options = engine_options(config)
    assert base.items() >= expected.items()
    assert not {"count", "gpus", "step_timeout_s", "concurrent_trials"} & set(options)
