"""The runner itself: it kills where it says, and sees what differs."""

from __future__ import annotations

import threading

import pytest

from tests.faults import doomed
from tests.faults.aftermath import check_scores
from tests.faults.doomed import INSTANTS, Place
from tests.faults.test_driver_killed import KILLS, drawn_instants

pytestmark = pytest.mark.faults


class Died(BaseException):
    """In place of SIGKILL."""


@pytest.mark.parametrize("after", [False, True])
def test_a_trap_closes_at_its_time_and_no_sooner(
    after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    class Victim:
        def act(self, number: int) -> None:
            calls.append(number)

    def die() -> None:
        raise Died

    monkeypatch.setattr(doomed, "_die", die)
    armed = threading.Event()
    doomed._trap(Place(Victim, "act", after=after), 2, armed)
    Victim().act(0)  # before the search has started
    armed.set()
    Victim().act(1)
    with pytest.raises(Died):
        Victim().act(2)
    assert calls == ([0, 1, 2] if after else [0, 1])


def test_every_instant_is_a_function_that_exists() -> None:
    assert all(callable(getattr(place.owner, place.name)) for place in INSTANTS.values())


def test_a_seed_draws_the_same_twenty_instants_every_named_one_among_them() -> None:
    drawn = drawn_instants()
    assert drawn == drawn_instants() != drawn_instants(seed=0)
    assert len(drawn) == len(set(drawn)) == KILLS
    assert set(INSTANTS) <= {instant for instant, _ in drawn}


def test_other_configurations_and_other_scores_are_seen() -> None:
    reference = {"a": {"nll": 0.5}, "b": {"nll": 0.7}}
    check_scores({"a": {"nll": 0.500001}, "b": {"nll": 0.7}}, reference)
    with pytest.raises(AssertionError, match="other configurations"):
        check_scores({"a": {"nll": 0.5}, "c": {"nll": 0.7}}, reference)
    with pytest.raises(AssertionError, match=r"nll is 0\.51"):
        check_scores({"a": {"nll": 0.51}, "b": {"nll": 0.7}}, reference)
