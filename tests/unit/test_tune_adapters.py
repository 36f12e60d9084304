"""What Tune is told, and when: no Ray runs here."""

from __future__ import annotations

from typing import Any

import pytest
from ray.tune.experiment import Trial

from orchestrator.assignment import Assignment
from orchestrator.failures import FailureKind
from orchestrator.tune_adapters import LedgerSearcher, LostTrials


class Conducting:
    """A conductor with so many trials to give."""

    def __init__(self, trials: int) -> None:
        self.halted: str | None = None
        self.running = 0
        self.failed: list[tuple[int, FailureKind]] = []
        self.back: list[int] = []
        self._left = list(range(trials))

    def assign(self) -> Assignment | None:
        if not self._left or self.halted is not None:
            return None
        self.running += 1
        empty: Any = {"uid": "u", "attempt": 1, "config": {}, "data": {}, "start_step": 0}
        rest: Any = {"rungs": [1], "splits": [], "engine": "e", "folder": "f", "reported": False}
        return Assignment(**empty, **rest, number=self._left.pop(0))

    def on_error(self, number: int, reason: str, kind: FailureKind) -> None:
        self.failed.append((number, kind))

    def put_back(self, number: int) -> None:
        self.back.append(number)


def searcher(conductor: Conducting, room: int) -> LedgerSearcher:
    given: Any = conductor
    return LedgerSearcher(given, lambda: room)


def test_an_ended_trial_holds_its_place_until_its_process_is_free() -> None:
    conductor = Conducting(3)
    asked = searcher(conductor, room=2)
    first, second = asked.suggest("a"), asked.suggest("b")
    assert isinstance(first, dict) and isinstance(second, dict)
    assert asked.suggest("c") is None
    conductor.running = 1  # the ledger has ended one; Tune has yet to put its process aside
    assert asked.suggest("c") is None
    asked.on_trial_complete("a")
    assert isinstance(asked.suggest("c"), dict)


def test_a_halted_search_is_finished_whatever_is_held() -> None:
    conductor = Conducting(3)
    asked = searcher(conductor, room=1)
    asked.suggest("a")
    conductor.halted = "stop"
    assert asked.suggest("b") == LedgerSearcher.FINISHED


@pytest.mark.parametrize(("losses", "failed", "back"), [(2, [], [0]), (4, [0], [])])
def test_a_trial_given_up_fails_only_after_as_many_losses_as_it_may_have(
    losses: int, failed: list[int], back: list[int]
) -> None:
    """Tune takes the loss of a process that is to take the next trial for two, and gives it up."""
    conductor = Conducting(1)
    given: Any = conductor
    trial = Trial("thin", config={"number": 0}, max_failures=3, stub=True)
    trial.run_metadata.num_failures = losses
    LostTrials(given).on_trial_error(iteration=1, trials=[trial], trial=trial)
    assert [number for number, _ in conductor.failed] == failed
    assert conductor.back == back


def test_tune_s_snapshot_of_a_searcher_holds_nothing() -> None:
    asked = searcher(Conducting(1), room=1)
    assert asked.__getstate__() == {}
