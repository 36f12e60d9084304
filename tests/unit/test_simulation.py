"""The simulation of searches on many engines, where the makespan can be told by hand."""

from __future__ import annotations

import pytest

from benchmarks.schedules import longest_first, shortest_s, spread_s
from benchmarks.simulation import Driver, Search, StepTime, rungs_between, simulate

PER_TRIAL = StepTime((1, 2), (1.0, 2.0))  # a second per trial-step: no gain by fusion
FREE = Driver(0.0)
CONSTANT = StepTime((1, 64), (1.0, 1.0))  # a step costs the same however many share it


def test_the_steps_from_rung_to_rung() -> None:
    assert rungs_between((10, 30, 90), 30) == [10, 20]
    assert rungs_between((10, 30, 90), 10) == [10]


def test_step_times_between_and_beyond_what_was_measured() -> None:
    assert PER_TRIAL(1) == 1
    assert StepTime((1, 3), (1.0, 2.0))(2) == pytest.approx(1.5)
    assert PER_TRIAL(8) == 8


def test_one_trial_takes_its_steps_and_its_trips() -> None:
    assert simulate(Search(1, [[2, 3]], 1), PER_TRIAL, FREE) == pytest.approx(5)
    assert simulate(Search(1, [[2, 3]], 1), PER_TRIAL, Driver(0.5)) == pytest.approx(6)


def test_engines_share_trials_evenly() -> None:
    trials = [[4]] * 8
    assert simulate(Search(1, trials, 8), PER_TRIAL, FREE) == pytest.approx(32)
    assert simulate(Search(4, trials, 8), PER_TRIAL, FREE) == pytest.approx(8)


def test_trials_wait_for_a_place() -> None:
    assert simulate(Search(1, [[4]] * 8, 2), CONSTANT, FREE) == pytest.approx(16)
    assert simulate(Search(1, [[4]] * 8, 8), CONSTANT, FREE) == pytest.approx(4)


def test_a_trial_that_moves_leaves_the_fuller_engine() -> None:
    trials = [[2, 8], [1], [2, 8], [1]]  # the two that go on share engine 0
    assert simulate(Search(2, trials, 2), PER_TRIAL, FREE) == pytest.approx(20)
    assert simulate(Search(2, trials, 2, moves=True), PER_TRIAL, FREE) == pytest.approx(12)


def test_a_driver_takes_one_report_at_a_time() -> None:
    """Two trials start half a second apart, and each has its engine to itself."""
    trials = [[4], [4]]
    assert simulate(Search(2, trials, 1), PER_TRIAL, Driver(1.0)) == pytest.approx(5)
    assert simulate(Search(2, trials, 1), PER_TRIAL, Driver(1.0, 0.5)) == pytest.approx(5.5)


def test_who_arrives_while_a_step_is_under_way_waits_for_the_next() -> None:
    """The second trial comes half a second after the first has begun its only step."""
    trials = Search(1, [[1], [1]], 2)
    assert simulate(trials, CONSTANT, Driver(1.0, 0.5)) == pytest.approx(3)


def test_no_schedule_is_shorter_than_the_work_or_the_longest_trial() -> None:
    cheaper = StepTime((1, 4), (1.0, 2.0))  # four in a step cost half a second each
    assert shortest_s(Search(2, [[2]] * 8, 4), cheaper, (1, 4)) == pytest.approx(4)
    assert shortest_s(Search(2, [[1], [9]], 4), cheaper, (1, 4)) == pytest.approx(9)


def test_trials_spread_evenly_at_any_time() -> None:
    """The two long ones are never on one engine, however the short ones end."""
    trials = Search(2, [[2], [8], [1], [8], [1]], 4)
    assert spread_s(trials, PER_TRIAL) == pytest.approx(10)
    assert spread_s(Search(2, [[4], [4]], 1), CONSTANT) == pytest.approx(4)
    assert spread_s(Search(1, [[4], [4]], 1), CONSTANT) == pytest.approx(8)


def test_the_longest_trials_go_first_where_it_is_known_which_they_are() -> None:
    trials = [[1], [1], [1], [1, 3]]
    as_drawn, sorted_ = Search(2, trials, 1), longest_first(Search(2, trials, 1))
    assert simulate(as_drawn, PER_TRIAL, FREE) == pytest.approx(5)
    assert simulate(sorted_, PER_TRIAL, FREE) == pytest.approx(4)
